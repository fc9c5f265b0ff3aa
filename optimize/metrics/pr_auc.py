"""The area under the curve of precision over recall, in steps (scikit-learn's `average_precision_score`).

It is the figure for a rare class: what knows nothing has that class's share. Of two classes, or of one score a sample,
class 1's; of more the mean over the classes, each against all others.
"""

import numpy as np

from optimize.metrics import Metric
from optimize.metrics.roc_auc import scored
from runtime.tensors import Array


def _finish(rows: Array) -> float:
    from sklearn.metrics import average_precision_score

    scores, labels = rows[:, :-1], rows[:, -1]
    wanted = (1,) if scores.shape[1] == 1 else range(scores.shape[1])
    areas = [
        average_precision_score(own, scores[:, i])
        for i, own in enumerate(labels == number for number in wanted)
        if own.any()  # a class that is not there has none
    ]
    return float(np.mean(areas)) if areas else float("nan")


METRIC = Metric("pr_auc", "share", True, scored, _finish)
