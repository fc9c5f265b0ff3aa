"""A rounded classifier that answers as if by chance: was it calibrated on other data, or does one layer ruin it?"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from optimize import sensitivity
from optimize.build import Builder, Built
from optimize.data import Batch, Split
from optimize.data._profile import colour_axis
from optimize.models import OnnxModel
from optimize.plan import Candidate
from optimize.report import Row
from optimize.subject import Subject
from runtime.errors import Error
from runtime.tensors import Array

NEAR = 1.5  # times chance
KNOWS = 3.0  # times chance, of an original that has something to lose
REGAINED = 0.5  # of what calibrate lacks against validate, by which a change of its data is believed
RUINOUS = 0.5  # of the loss, that one layer alone makes

Change = Callable[[Array], Array]


def diagnosed(
    subject: Subject, builder: Builder, candidates: Sequence[Candidate], built: Mapping[str, Built],
    rows: Mapping[str, Row], original: Row,
) -> list[str]:  # fmt: skip
    """A sentence on each candidate that answers as if by chance, where the original does not.

    Args:
        subject: with the data and the metric.
        builder: knows each candidate before it was rounded.
        candidates: in order.
        built: by name.
        rows: by name, with their accuracy on validate.
        original: likewise.
    """
    chance = _chance(subject)
    if chance is None or original.validate_ is None or original.validate_.value < KNOWS * chance:
        return []
    found = []
    for candidate in candidates:
        row, before = rows[candidate.name], None
        if row.validate_ is None or row.validate_.value > NEAR * chance or candidate.name not in built:
            continue
        words = f"{candidate.name} collapsed: its {subject.metric.name} of {row.validate_.value:.3g} is near chance"
        try:
            before = builder.unrounded(candidate)
            cause = cause_of(subject, before, built[candidate.name].model, original.validate_.value) if before else ""
        except Error as error:  # it is lost either way, and the others are not
            cause = f"the cause could not be looked for: {error}"
        found.append(f"{words}; {cause or 'no single cause was found'}")
    return found


def cause_of(subject: Subject, before: OnnxModel, after: OnnxModel, value: float) -> str:
    """What made a rounded model collapse, in words; empty where nothing stands out.

    Args:
        subject: with the data and the metric.
        before: the model in float.
        after: rounded.
        value: of the float model on validate.
    """
    splits, metric = subject.calls, subject.metric
    here = sensitivity.value(before, splits.calibrate, metric)
    if here < value - REGAINED * abs(value):
        best, words = here, ""
        for what, change in _changes(splits.calibrate).items():
            changed = sensitivity.value(before, _changed(splits.calibrate, change), metric)
            if changed > best and changed > here + REGAINED * (value - here):
                best, words = changed, what
        told = f"the model in float, too, has only {here:.3g} on calibrate ({value:.3g} on validate)"
        return f"{told}: {words} ({best:.3g} when changed back)" if words else f"{told}: other data, or other labels"
    with tempfile.TemporaryDirectory() as folder:
        layers = sensitivity.by_layer(before, after, splits.calibrate, splits.validate, metric, Path(folder))
    ruinous = [layer for layer in layers if layer.drop is not None and layer.drop > RUINOUS * abs(value)]
    if not ruinous:
        return "no layer does it alone, see the layers that lose most"
    first = ruinous[0]
    return f"'{first.name}' ({first.op}) alone does it: leave it in float, exclude = ['{first.name}']"


def _chance(subject: Subject) -> float | None:
    """What guessing comes to; None where the metric is no accuracy of classes."""
    top = {"accuracy": 1, "top5": 5}.get(subject.metric.name)
    return min(1.0, top / subject.classes) if top and subject.classes and subject.own_labels else None


def _changes(split: Split) -> dict[str, Change]:
    """What may have been done to pictures, with what takes it back."""
    feeds, _ = split.take(1)
    if len(feeds) != 1:
        return {}
    shape = next(iter(feeds.values())).shape
    found: dict[str, Change] = {
        "its values are 255 times too large": lambda x: x / np.float32(255),
        "its values are 255 times too small": lambda x: x * np.float32(255),
    }
    colour = colour_axis(shape)
    if colour is not None:
        found["its colours are in the other order"] = lambda x: np.flip(x, colour)
        found["it was reshaped where it should have been transposed"] = lambda x: _transposed(x, colour)
        last = 2 if colour == 3 else 3
        if shape[last - 1] == shape[last]:
            found["its rows and columns are exchanged"] = lambda x: np.swapaxes(x, last - 1, last)
    return found


def _transposed(x: Array, colour: int) -> Array:
    """Pictures whose numbers lie in the other layout than their shape says."""
    n, *rest = x.shape
    if colour == 1:
        deep, *size = rest
        return x.reshape(n, *size, deep).transpose(0, 3, 1, 2)
    *size, deep = rest
    return x.reshape(n, deep, *size).transpose(0, 2, 3, 1)


def _changed(split: Split, change: Change) -> Split:
    def changed(batch: Batch) -> Batch:
        feeds, labels = split.convert(batch)
        return {name: np.ascontiguousarray(change(value)) for name, value in feeds.items()}, labels

    return replace(split, convert=changed)
