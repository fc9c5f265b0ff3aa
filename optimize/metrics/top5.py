"""The share of samples whose label is among the five largest class scores."""

import numpy as np

from optimize.metrics import Metric, Outputs, share
from optimize.metrics.accuracy import classes
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    scores, labels = classes(outputs, labels)
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), 1)
    return np.asarray((scores > own).sum(1, keepdims=True) < 5, np.float64)


METRIC = Metric("top5", "share", True, _update, share)
