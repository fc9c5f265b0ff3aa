"""The share of tokens (words, phonemes) whose largest class score is the label's; negative labels do not count.

The first output is (samples, length, classes), the labels are whole numbers (samples, length), -100 by custom where
none counts. Where a batch is padded to another length than the labels are, what is longer is cut, and must not count.
"""

import numpy as np

from optimize.metrics import Metric, Outputs, first
from runtime.errors import InputError
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    scores = first(outputs)
    if scores.ndim != 3 or labels.ndim != 2 or labels.dtype.kind not in "iu" or len(labels) != len(scores):
        raise InputError(
            f"labels {labels.dtype} {labels.shape} do not fit an output {scores.shape}: token_accuracy needs whole "
            "numbers (samples, length) for (samples, length, classes)."
        )
    if labels.max(initial=0) >= scores.shape[2]:
        raise InputError(f"label {labels.max()} is outside the model's classes, 0 to {scores.shape[2] - 1}.")
    length = min(scores.shape[1], labels.shape[1])
    if (labels[:, length:] >= 0).any():
        raise InputError(
            f"a sample has labels for more than the {length} tokens that the model was given: texts are cut at the "
            "preprocessing's max_length; cut the labels too, or set those behind to -100."
        )
    counted = labels[:, :length] >= 0
    right = (scores[:, :length].argmax(2) == labels[:, :length]) & counted
    return np.stack([right.sum(1), counted.sum(1)], 1).astype(np.float64)


def _finish(rows: Array) -> float:
    right, counted = rows.sum(0)
    return float(right / counted) if counted else float("nan")


METRIC = Metric("token_accuracy", "share", True, _update, _finish)
