"""Without labels: the share of samples on which the largest class score is the original's. Labels are its output."""

import numpy as np

from optimize.metrics import Metric, Outputs, first, share
from optimize.metrics.accuracy import METRIC as ACCURACY
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    return ACCURACY.update({"": first(outputs)}, np.asarray(labels.argmax(1)))


METRIC = Metric("agreement", "share", True, _update, share)
