"""Spearman's rank correlation of the first output with the labels (scipy's `spearmanr`), over all its numbers.

A bootstrap asks for it thousands of times, so it ranks by two searches in what is sorted once.
"""

import math

import numpy as np

from optimize.metrics import Metric, pairs
from runtime.tensors import Array


def _finish(rows: Array) -> float:
    if len(rows) < 2 or np.isnan(rows).any():
        return float("nan")
    answers, labels = (_ranks(column) for column in rows.T)
    spread = math.sqrt((answers @ answers) * (labels @ labels))
    return float(answers @ labels) / spread if spread else float("nan")  # of a constant there is none


def _ranks(values: Array) -> Array:
    """From the mean of all; of equal values the mean of their ranks."""
    ordered = np.sort(values)
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    return np.asarray(ranks - len(values) / 2)


METRIC = Metric("spearman", "", True, pairs, _finish)
