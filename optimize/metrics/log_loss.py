"""The mean of minus the natural logarithm of the probability given to the true class (cross-entropy), in nats."""

import numpy as np

from optimize.metrics import Metric, Outputs, per_sample
from optimize.metrics.accuracy import classes
from runtime.tensors import Array

LEAST = 1e-12  # of a probability: one that was rounded to zero would cost infinitely much


def log_probabilities(scores: Array) -> Array:
    """Logarithms of probabilities over axis 1: of scores that are probabilities already, else of their softmax."""
    from scipy.special import log_softmax

    scores = scores.astype(np.float64)
    if (scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-2):  # 1e-2: quantized ones do not sum to 1 exactly
        return np.asarray(np.log(np.maximum(scores, LEAST)))
    return np.asarray(log_softmax(scores, 1))


def _update(outputs: Outputs, labels: Array) -> Array:
    scores, labels = classes(outputs, labels)
    own = np.take_along_axis(log_probabilities(scores), labels[:, None].astype(np.int64), 1)
    return per_sample(-own)


METRIC = Metric("log_loss", "nats", False, _update, lambda rows: float(rows.mean()))
