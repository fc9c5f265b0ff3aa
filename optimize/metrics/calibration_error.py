"""Expected calibration error: how far a classifier's confidence is from how often it is right.

The mean distance of the two over fifteen bins of confidence of equal width, each weighted by its samples (Guo et al.
2017, arXiv:1706.04599).
"""

import numpy as np

from optimize.metrics import Metric, Outputs
from optimize.metrics.accuracy import classes
from optimize.metrics.log_loss import log_probabilities
from runtime.errors import InputError
from runtime.tensors import Array

BINS = 15


def _update(outputs: Outputs, labels: Array) -> Array:
    scores, labels = classes(outputs, labels)
    if scores.ndim != 2:
        raise InputError(f"the output has shape {scores.shape}; calibration_error needs (samples, classes).")
    sure = np.exp(log_probabilities(scores)).max(1)
    return np.stack([sure, scores.argmax(1) == labels], 1).astype(np.float64)


def _finish(rows: Array) -> float:
    sure, right = rows.T
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(place, right - sure, BINS)).sum() / len(rows))


METRIC = Metric("calibration_error", "share", False, _update, _finish)
