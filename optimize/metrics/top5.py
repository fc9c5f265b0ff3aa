"""The share of samples (of pixels, where labels are maps) whose label is among the five largest class scores.

Any other number works too: `top3`.
"""

from functools import partial

import numpy as np

from optimize.metrics import Metric, Outputs, first, share
from optimize.metrics.accuracy import best, classes, per_sample_share
from runtime.tensors import Array


def top(count: int) -> Metric:
    """Among the `count` largest."""
    return Metric(f"top{count}", "share", True, partial(_update, count), share)


def _update(count: int, outputs: Outputs, labels: Array) -> Array:
    if first(outputs).dtype.kind in "iu":
        found, labels = best(outputs, labels, count)
        return per_sample_share((found == labels[:, None]).any(1))
    scores, labels = classes(outputs, labels)
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
    return per_sample_share((scores > own).sum(1) < count)


METRIC = top(5)
