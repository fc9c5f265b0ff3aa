"""Without labels: the share of places (tokens, frames) whose largest class score is the original's.

The first output is (samples, length, classes). A sample is the sequence; padding does not count, where an input says
which places are padding. Labels are the original's output, NaN where there is padding.
"""

import numpy as np

from optimize.metrics import Metric, Outputs, first, share, unpadded
from runtime.errors import InputError
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    scores = first(outputs)
    if scores.ndim != 3 or labels.dtype.kind != "f" or labels.shape != scores.shape:
        raise InputError(
            f"the output is {scores.dtype} {scores.shape}, the original's {labels.dtype} {labels.shape}; "
            "token_agreement needs class scores (samples, length, classes) of both."
        )
    counted = ~np.isnan(labels).any(2)
    right = (scores.argmax(2) == labels.argmax(2)) & counted
    return np.stack([right.sum(1), counted.sum(1)], 1).astype(np.float64)


METRIC = Metric(
    "token_agreement", "share", True, _update, share, own=unpadded,
    means="the share of places, padding left out, whose largest class score is the original's",
)  # fmt: skip
