"""Peak signal to noise ratio of pictures in dB: the mean over samples of 10 log10(peak squared / mean squared error).

The peak is 255 for labels of whole numbers, else 1.
"""

import numpy as np

from optimize.metrics import Metric, Outputs, first, per_sample, same_shape
from runtime.tensors import Array

LEAST = 1e-10  # of a mean squared error at peak 1: 100 dB, where pictures are equal


def _update(outputs: Outputs, labels: Array) -> Array:
    value, wanted = same_shape(first(outputs), labels)
    peak = 255.0 if labels.dtype.kind in "iu" else 1.0
    return -10 * np.log10(np.maximum(per_sample(((value - wanted) / peak) ** 2), LEAST))


METRIC = Metric("psnr", "dB", True, _update, lambda rows: float(rows.mean()))
