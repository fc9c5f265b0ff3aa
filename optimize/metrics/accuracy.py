"""The share of samples (of pixels, where labels are maps) whose largest class score is the label's."""

from collections.abc import Callable

import numpy as np

from optimize.metrics import Metric, Outputs, first, share
from runtime.decoding import SCORES
from runtime.errors import InputError
from runtime.tensors import Array

ROOM = 1e-2  # beyond 0 and 1, for rounding


def classes(outputs: Outputs, labels: Array) -> tuple[Array, Array]:
    """The first output as (samples, classes, ...) and the labels as whole numbers (samples, ...), checked.

    Axes of length 1 that old classifiers leave behind, (N, 1000, 1, 1) say, are dropped; so is one behind the labels.
    One number a sample is the probability of class 1 of two.

    Raises:
        InputError: the labels are not class numbers of this model.
    """
    scores = first(outputs)
    if scores.dtype.kind in "iu":
        raise InputError(f"the output has the numbers of classes ({scores.dtype}); this metric needs their scores.")
    if scores.ndim < 2:
        raise InputError(f"the output has shape {scores.shape}; accuracy needs (samples, classes, ...).")
    if labels.ndim <= 2 and scores.shape[2:] == (1,) * (scores.ndim - 2):
        scores = scores.reshape(scores.shape[:2])
    if labels.ndim == 2 and scores.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    scores = of_two(scores)
    if labels.dtype.kind not in "biu" or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise InputError(
            f"labels of dtype {labels.dtype} and shape {labels.shape} do not fit an output of shape {scores.shape}: "
            "accuracy needs one whole number a sample."
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"label {wrong} is outside the model's classes, 0 to {scores.shape[1] - 1}.")
    return scores, labels


def of_two(scores: Array) -> Array:
    """Of one probability a sample, (N, 1, ...), those of both classes; other scores as they are.

    Raises:
        InputError: the one number is no probability.
    """
    if scores.shape[1] != 1:
        return scores
    low, high = scores.min(initial=1), scores.max(initial=0)
    if low < -ROOM or high > 1 + ROOM:
        raise InputError(
            f"the output is one number a sample, from {low:.3g} to {high:.3g}; as the probability of class 1 it lies "
            "between 0 and 1. For a model of real numbers give labels, and name mse, mae or r2."
        )
    return np.concatenate([1 - scores, scores], 1)


def best(outputs: Outputs, labels: Array, count: int = 1) -> tuple[Array, Array]:
    """The numbers of the `count` best classes, best first, (samples, count, ...), and the labels as `classes` has them.

    They are those of the largest scores, or the output itself where the model chooses: the best class, or the best
    few with their scores beside them (`runtime.decoding`).

    Raises:
        InputError: the labels are not class numbers of this model, or it gives fewer classes.
    """
    value = first(outputs)
    if value.dtype.kind not in "iu":
        scores, labels = classes(outputs, labels)
        order = scores.argmax(1)[:, None] if count == 1 else np.argsort(-scores, 1, kind="stable")[:, :count]
        return order, labels
    value = value if next(iter(outputs)) + SCORES in outputs else value[:, None]
    if labels.ndim == 2 and value.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "biu" or labels.shape != (len(value), *value.shape[2:]):
        raise InputError(f"labels of dtype {labels.dtype} and shape {labels.shape} do not fit the model's classes.")
    if value.shape[1] < count:
        raise InputError(f"the model gives its best {value.shape[1]} classes; this metric needs {count}.")
    return value[:, :count], labels


def per_sample_share(right: Array) -> Array:
    """(N,) booleans as one column of zeros and ones; (N, ...) as two: how many are right, and of how many."""
    if right.ndim == 1:
        return np.asarray(right[:, None], np.float64)
    flat = right.reshape(len(right), -1)
    return np.stack([flat.sum(1), np.full(len(flat), flat.shape[1])], 1).astype(np.float64)


def called(outputs: Outputs, labels: Array) -> Array:
    """What each sample was called, what it is, and the number of classes (that were seen), (N, 3)."""
    found, labels = best(outputs, labels)
    if found.ndim != 2:
        raise InputError(f"the output has shape {first(outputs).shape}; this metric needs (samples, classes).")
    scores = first(outputs)
    count = scores.shape[1] if scores.dtype.kind == "f" else 1 + max(found.max(), labels.max())
    return np.stack([found[:, 0], labels, np.full(len(labels), count)], 1).astype(np.float64)


def of_called(function: str) -> Callable[[Array], float]:
    """The `finish` of a scikit-learn function of true and called classes: of class 1 of two, else the mean."""

    def finish(rows: Array) -> float:
        import sklearn.metrics

        found, labels, count = rows[:, 0], rows[:, 1], int(rows[:, 2].max())
        here = np.unique(rows[:, :2]) if count > 2 else None
        how = {"labels": here, "average": "macro"} if count > 2 else {"pos_label": 1, "average": "binary"}
        return float(getattr(sklearn.metrics, function)(labels, found, zero_division=0, **how))

    return finish


def _update(outputs: Outputs, labels: Array) -> Array:
    found, labels = best(outputs, labels)
    return per_sample_share(found[:, 0] == labels)


METRIC = Metric("accuracy", "share", True, _update, share)
