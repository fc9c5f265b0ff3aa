"""Mean absolute error between the first output and the labels."""

from optimize.metrics import Metric, Outputs, first, per_sample, same_shape
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    value, wanted = same_shape(first(outputs), labels)
    return per_sample(abs(value - wanted))


METRIC = Metric("mae", "", False, _update, lambda statistics: float(statistics.mean()))
