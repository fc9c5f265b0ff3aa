"""Spearman's rank correlation of the first output with the labels (scipy's `spearmanr`), over all its numbers."""

import numpy as np

from optimize.metrics import Metric, pairs
from runtime.tensors import Array


def _finish(rows: Array) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(rows, axis=0)
    if len(rows) < 2 or not ranks.std(0).all():
        return float("nan")  # of a constant there is none
    return float(np.corrcoef(ranks.T)[0, 1])


METRIC = Metric("spearman", "", True, pairs, _finish)
