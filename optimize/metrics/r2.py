"""The share of the labels' variance that the first output explains, over all its numbers (scikit-learn)."""

from optimize.metrics import Metric, pairs
from runtime.tensors import Array


def _finish(rows: Array) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(rows[:, 1], rows[:, 0])) if len(rows) > 1 else float("nan")


METRIC = Metric("r2", "", True, pairs, _finish)
