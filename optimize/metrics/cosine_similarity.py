"""Without labels, for embeddings: the cosine of the angle between an answer and the original's, 1 where they are alike.

The first output is (samples, width), or (samples, length, width): then it is the mean over the places of a sample that
are no padding, where an input says which are. Other shapes count as one vector a sample. Labels are the original's
output, NaN where there is padding.
"""

import numpy as np

from optimize.metrics import Metric, Outputs, first, same_shape, share, unpadded
from runtime.errors import InputError
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    if first(outputs).ndim < 2:
        raise InputError(f"the output has shape {first(outputs).shape}; cosine_similarity needs (samples, width).")
    both = same_shape(first(outputs), labels)
    mine, theirs = (one if one.ndim in (2, 3) else one.reshape(len(one), -1) for one in both)
    counted = ~np.isnan(theirs).any(-1)
    theirs = np.nan_to_num(theirs)
    sizes = np.linalg.norm(mine, axis=-1) * np.linalg.norm(theirs, axis=-1)
    alike = np.asarray(~mine.any(-1) & ~theirs.any(-1), np.float64)  # both are nothing
    found = np.divide((mine * theirs).sum(-1), sizes, out=alike, where=sizes > 0)
    if mine.ndim == 3:
        found = (found * counted).sum(1) / counted.sum(1)
    return np.asarray(found[:, None])


METRIC = Metric(
    "cosine_similarity", "", True, _update, share, own=unpadded, classes=False,
    means="the mean cosine of the angle between an answer and the original's",
)  # fmt: skip
