"""Question answering: how much of the best span of tokens and of an answer is the same, as SQuAD's F1.

Of each question the harmonic mean of precision and recall of tokens, of the answer that is nearest; then the mean over
questions. Outputs and labels are as `exact_match` has them.
"""

import numpy as np

from optimize.metrics import Metric, Outputs, share
from optimize.metrics.exact_match import spans
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    found, answers = spans(outputs, labels)
    both = np.minimum(found[..., 1], answers[..., 1]) - np.maximum(found[..., 0], answers[..., 0]) + 1
    sizes = (found[..., 1] - found[..., 0]) + (answers[..., 1] - answers[..., 0]) + 2
    return np.asarray((2 * both.clip(0) / sizes).max(1, keepdims=True), np.float64)


METRIC = Metric("span_f1", "share", True, _update, share, classes=False)
