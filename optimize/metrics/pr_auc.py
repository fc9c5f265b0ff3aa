"""The area under the curve of precision over recall, in steps (scikit-learn's `average_precision_score`).

It is the figure for a rare class: what knows nothing has that class's share. Of two classes, or of one score a sample,
class 1's; of more the mean over the classes, each against all others. A bootstrap asks for it thousands of times, so it
is reckoned here, without the checks that take most of scikit-learn's time.
"""

import numpy as np

from optimize.metrics import Metric
from optimize.metrics.roc_auc import scored
from runtime.tensors import Array


def _finish(rows: Array) -> float:
    scores, labels = rows[:, :-1], rows[:, -1]
    wanted = (1,) if scores.shape[1] == 1 else range(scores.shape[1])
    areas = [
        _area(scores[:, i], own)
        for i, own in enumerate(labels == number for number in wanted)
        if own.any()  # a class that is not there has none
    ]
    return float(np.mean(areas)) if areas else float("nan")


def _area(scores: Array, own: Array) -> float:
    """Precision at each score that occurs, weighed by the recall that it adds; equal scores are one step."""
    order = np.argsort(-scores)
    steps = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(own[order])[steps]
    return float((found / (steps + 1) * np.diff(found, prepend=0)).sum() / found[-1])


METRIC = Metric("pr_auc", "share", True, scored, _finish)
