"""The share of samples (of pixels, where labels are maps) whose largest class score is the label's."""

from collections.abc import Callable

import numpy as np

from optimize.metrics import Metric, Outputs, first, share
from runtime.errors import InputError
from runtime.tensors import Array


def classes(outputs: Outputs, labels: Array) -> tuple[Array, Array]:
    """The first output as (samples, classes, ...) and the labels as whole numbers (samples, ...), checked.

    Axes of length 1 that old classifiers leave behind, (N, 1000, 1, 1) say, are dropped; so is one behind the labels.

    Raises:
        InputError: the labels are not class numbers of this model.
    """
    scores = first(outputs)
    if scores.ndim < 2:
        raise InputError(f"the output has shape {scores.shape}; accuracy needs (samples, classes, ...).")
    if labels.ndim <= 2 and scores.shape[2:] == (1,) * (scores.ndim - 2):
        scores = scores.reshape(scores.shape[:2])
    if labels.ndim == 2 and scores.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "biu" or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise InputError(
            f"labels of dtype {labels.dtype} and shape {labels.shape} do not fit an output of shape {scores.shape}: "
            "accuracy needs one whole number a sample."
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"label {wrong} is outside the model's classes, 0 to {scores.shape[1] - 1}.")
    return scores, labels


def per_sample_share(right: Array) -> Array:
    """(N,) booleans as one column of zeros and ones; (N, ...) as two: how many are right, and of how many."""
    if right.ndim == 1:
        return np.asarray(right[:, None], np.float64)
    flat = right.reshape(len(right), -1)
    return np.stack([flat.sum(1), np.full(len(flat), flat.shape[1])], 1).astype(np.float64)


def called(outputs: Outputs, labels: Array) -> Array:
    """What each sample was called, what it is, and the number of classes, (N, 3)."""
    scores, labels = classes(outputs, labels)
    if scores.ndim != 2:
        raise InputError(f"the output has shape {scores.shape}; this metric needs (samples, classes).")
    return np.stack([scores.argmax(1), labels, np.full(len(labels), scores.shape[1])], 1).astype(np.float64)


def of_called(function: str) -> Callable[[Array], float]:
    """The `finish` of a scikit-learn function of true and called classes: of class 1 of two, else the mean."""

    def finish(rows: Array) -> float:
        import sklearn.metrics

        found, labels, count = rows[:, 0], rows[:, 1], int(rows[0, 2])
        here = np.unique(rows[:, :2]) if count > 2 else None
        how = {"labels": here, "average": "macro"} if count > 2 else {"pos_label": 1, "average": "binary"}
        return float(getattr(sklearn.metrics, function)(labels, found, zero_division=0, **how))

    return finish


def _update(outputs: Outputs, labels: Array) -> Array:
    scores, labels = classes(outputs, labels)
    return per_sample_share(scores.argmax(1) == labels)


METRIC = Metric("accuracy", "share", True, _update, share)
