"""How a candidate's answers differ from the original's, beyond the metric: streamed, a few numbers a sample kept."""

import math
from dataclasses import dataclass, field

import numpy as np

from optimize.metrics import Outputs, first
from optimize.metrics.calibration_error import METRIC as CALIBRATION
from optimize.metrics.log_loss import log_probabilities
from optimize.report import ClassAccuracy, Detail, Flip, Moved
from runtime.decoding import SCORES
from runtime.tensors import Array

MOVED = 12  # samples shown, those first whose answer moved most
FLIPS = 24  # shown in the report, those first of which the original was surest
CLASS_SAMPLES = 20  # from which on a class has an accuracy of its own


@dataclass
class Answers:
    """One candidate's answers on one split, batch by batch.

    Attributes:
        numbers: the outputs are numbers, whose noise has a meaning; else the model's choice of classes, or boxes.
        classes: two or more numbers a sample are scores of classes.
    """

    numbers: bool = True
    classes: bool = True
    signal: float = 0.0
    noise: float = 0.0
    cosines: list[Array] = field(default_factory=list)
    moves: list[Array] = field(default_factory=list)  # how far, label, before, after (NaN: none), sample
    calls: list[Array] = field(default_factory=list)  # label (-1: none), before, after, confidence of both, sample

    def update(self, original: Outputs, candidate: Outputs, labels: Array | None, start: int) -> None:
        """One batch: outputs by name, labels where the data has its own, and the number of its first sample."""
        for name, wanted in original.items():
            got = candidate.get(name)
            if self.numbers and got is not None and wanted.dtype.kind == "f" and got.shape == wanted.shape:
                a, b = (value.reshape(len(value), -1).astype(np.float64) for value in (wanted, got))
                self.signal += float((a**2).sum())
                self.noise += float(((a - b) ** 2).sum())
                size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                self.cosines.append((a * b).sum(1)[size > 0] / size[size > 0])
        before, after = (_classes_last(first(outputs)) for outputs in (original, candidate))
        if after.shape != before.shape or (before.dtype.kind != "f" and self.numbers):
            return
        if not self.numbers:
            if before.dtype.kind in "iu" and (before.ndim == 1 or next(iter(original)) + SCORES in original):
                called = [value.reshape(len(value), -1)[:, 0] for value in (before, after)]
                self._call(called, [np.full(len(before), np.nan)] * 2, labels, start)
            return
        if not (self.classes and _scores(before)):
            self.moves.append(_moves(before, after, labels, start))
            return
        sure = [np.exp(log_probabilities(value)).max(1) for value in (before, after)]
        self._call([before.argmax(1), after.argmax(1)], sure, labels, start)

    def _call(self, called: list[Array], sure: list[Array], labels: Array | None, start: int) -> None:
        """Classes before and after, the probability given to each, and the labels."""
        count = len(called[0])
        whole = labels is not None and labels.dtype.kind in "iu" and labels.size == count
        mine = labels.reshape(-1) if labels is not None and whole else np.full(count, -1)
        rows = [mine, *called, *sure, start + np.arange(count)]
        self.calls.append(np.stack(rows, 1).astype(np.float64))

    def finish(self) -> Detail:
        """What they came to."""
        found: dict[str, object] = {}
        if self.signal:
            cosines = np.concatenate(self.cosines)
            found["sqnr_db"] = 10 * math.log10(self.signal / self.noise) if self.noise else None
            found["cosine"] = float(cosines.mean()) if len(cosines) else None
        if self.moves:
            moves = np.concatenate(self.moves)
            far = np.argsort(-moves[:, 0], kind="stable")[:MOVED]
            found["moved"] = [_moved(moves[i]) for i in far if moves[i, 0] > 0]
        if not self.calls:
            return Detail.model_validate(found)
        calls = np.concatenate(self.calls)
        label, before, after = (calls[:, i].astype(int) for i in range(3))
        found["agreement"] = float((before == after).mean())
        moved = np.flatnonzero(before != after)
        found["flipped"] = len(moved)
        found["flips"] = [_flip(calls[i]) for i in moved[np.argsort(-calls[moved, 3], kind="stable")][:FLIPS]]
        if (label >= 0).all():
            found["lost"] = int(((before == label) & (after != label)).sum())
            found["won"] = int(((before != label) & (after == label)).sum())
            found["classes"] = _by_class(label, before, after)
            if self.numbers:
                found["calibration_error"] = CALIBRATION.finish(
                    np.stack([calls[:, 4], after == label], 1).astype(np.float64)
                )
        return Detail.model_validate(found)


def _classes_last(value: Array) -> Array:
    """(samples, classes, 1, 1), as networks give that end in a pooling, without the ones."""
    return value.reshape(value.shape[:2]) if value.ndim > 2 and value[:1, :1].size == 1 else value


def _scores(value: Array) -> bool:
    """Whether an output is a class score for each class: (samples, two or more) of floating point."""
    return value.dtype.kind == "f" and value.ndim == 2 and value.shape[1] > 1


def _moves(before: Array, after: Array, labels: Array | None, start: int) -> Array:
    """Of each sample how far its answer moved, and the numbers themselves where it is one, (samples, 5)."""
    count = len(before)
    a, b = (value.reshape(count, -1).astype(np.float64) for value in (before, after))
    far, none = np.linalg.norm(b - a, axis=1), np.full(count, np.nan)
    if a.shape[1] == 1:
        label = labels.reshape(-1).astype(np.float64) if labels is not None and labels.size == count else none
        return np.stack([far, label, a[:, 0], b[:, 0], start + np.arange(count)], 1)
    size = np.linalg.norm(a, axis=1)
    share = np.divide(far, size, out=np.zeros(count), where=size > 0)
    return np.stack([share, none, none, none, start + np.arange(count)], 1)


def _moved(move: Array) -> Moved:
    label, before, after = (_known(value) for value in move[1:4])
    return Moved(sample=int(move[4]), label=label, before=before, after=after, share=float(move[0]))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _flip(call: Array) -> Flip:
    label = int(call[0])
    return Flip(
        sample=int(call[5]), label=None if label < 0 else label, before=int(call[1]), after=int(call[2]),
        confidence_before=_known(call[3]), confidence_after=_known(call[4]),
    )  # fmt: skip


def _by_class(label: Array, before: Array, after: Array) -> list[ClassAccuracy]:
    """Classes with enough samples, those that lost most first."""
    found = []
    for number in np.unique(label):
        own = label == number
        if own.sum() >= CLASS_SAMPLES:
            was, now = (float((calls[own] == number).mean()) for calls in (before, after))
            found.append(ClassAccuracy(number=int(number), samples=int(own.sum()), before=was, after=now))
    return sorted(found, key=lambda one: one.after - one.before)
