"""Without labels: the share of samples on which the largest class score is the original's. Labels are its output."""

import numpy as np

from optimize.metrics import Metric, Outputs, Rows, first, share
from optimize.metrics.accuracy import METRIC as ACCURACY
from optimize.metrics.accuracy import of_two
from runtime.decoding import SCORES
from runtime.errors import InputError
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array | Rows:
    if labels.dtype.kind in "iu":  # the original chooses itself, one class or the best few
        return ACCURACY.update(outputs, labels[:, 0] if next(iter(outputs)) + SCORES in outputs else labels)
    if labels.ndim < 2:
        raise InputError(f"the original's output has shape {labels.shape}; agreement needs (samples, classes, ...).")
    own = np.asarray(of_two(labels).argmax(1))  # of one probability: at one half
    return ACCURACY.update({"": first(outputs)}, own.reshape(len(own)) if own.size == len(own) else own)


METRIC = Metric(
    "agreement", "share", True, _update, share, own=lambda outputs, feeds: first(outputs),
    means="the share of samples whose largest class score is the original's",
)  # fmt: skip
