"""Question answering without labels: the share of questions to which the best span of tokens is the original's."""

import numpy as np

from optimize.metrics import Metric, Outputs, share, there
from optimize.metrics.exact_match import best, scores, update
from runtime.tensors import Array


def _own(outputs: Outputs, feeds: Outputs) -> Array:
    """Labels of `exact_match`: which tokens are the context's is not known, so all that are no padding."""
    begin, end = scores(outputs)
    here = there(begin, feeds)
    labels = np.full((len(begin), 3, 2), -1)
    labels[:, 0] = np.stack([here.argmax(1), here.shape[1] - 1 - here[:, ::-1].argmax(1)], 1)
    labels[:, 2] = best(begin, end, labels[:, 0], labels[:, 1])
    return labels


METRIC = Metric(
    "span_agreement", "share", True, update, share, own=_own, classes=False,
    means="the share of questions to which the best span of tokens is the original's",
)  # fmt: skip
