"""Mean intersection over union of segmentation maps, over the classes that the labels or the answers have.

The first output is (samples, classes, ...) scores, or class numbers as the labels are, (samples, ...); labels of 255
and less than 0 do not count.
Intersections and unions are summed over all samples before they are divided (Everingham et al. 2010, PASCAL VOC).
"""

import numpy as np

from optimize.metrics import Metric, Outputs, first
from runtime.errors import InputError
from runtime.tensors import Array

NOTHING = 255


def _update(outputs: Outputs, labels: Array) -> Array:
    scores = first(outputs)
    chosen = scores.dtype.kind in "iu"
    places = scores.shape[1:] if chosen else scores.shape[2:]
    if not places or labels.dtype.kind not in "iu" or labels.shape != (len(scores), *places):
        raise InputError(
            f"labels {labels.dtype} {labels.shape} do not fit an output {scores.shape}: miou needs a class number for "
            "each place of (samples, classes, ...)."
        )
    count = NOTHING if chosen else scores.shape[1]
    counted = (labels != NOTHING) & (labels >= 0)
    if (labels[counted] >= count).any():
        raise InputError(f"label {labels[counted].max()} is outside the model's classes, 0 to {count - 1}.")
    found = scores if chosen else scores.argmax(1)
    table = np.zeros((len(scores), count, count))
    sample = np.broadcast_to(np.arange(len(scores)).reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)
    np.add.at(table, (sample[counted], labels[counted].astype(np.int64), found[counted]), 1)
    both = np.diagonal(table, axis1=1, axis2=2)
    return np.concatenate([both, table.sum(1) + table.sum(2) - both], 1)


def _finish(rows: Array) -> float:
    both, either = rows.sum(0).reshape(2, -1)
    return float(np.mean(both[either > 0] / either[either > 0])) if either.any() else float("nan")


METRIC = Metric("miou", "share", True, _update, _finish)
