"""Samples that are padded: to which lengths, told from the data, and whether padding changes a model's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from optimize.data import Split
from optimize.models import Axes
from runtime import pre
from runtime.contender import Worker
from runtime.engines import relative_error
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import Array, TensorSpec

LOOKED_AT = 1000  # samples of calibrate
SHARES = (0.5, 0.9, 1.0)  # of them, that a length holds
STEP = 8  # lengths are multiples of it
SAME = 1e-3  # relative
TRIED = 16  # samples, to find one that is padded


def fitted(spec: PreSpec, calibrate: Split, inputs: Sequence[TensorSpec]) -> tuple[PreSpec, dict[str, Any], list[str]]:
    """Preprocessing with the lengths that it pads to, the limits of their axis, and what a reader should know.

    Where none are given they are those that hold half of calibrate's first samples, nine tenths and all of them, and
    the longest that is allowed. The axis is measured at the one that holds the half.

    Args:
        spec: with its columns.
        calibrate: as it was loaded.
        inputs: the model's.
    """
    reader: Any = spec.open(inputs)
    if not hasattr(reader, "length"):
        return spec, {}, []
    if isinstance(reader.axis, int):  # it is in the model
        return replace(spec, settings={**spec.settings, "max_length": reader.axis, "lengths": [reader.axis]}), {}, []
    counts = _counts(spec, reader, calibrate)
    if not counts:
        return spec, {}, []
    notes, most, lengths = [], reader.settings.max_length, list(reader.settings.lengths)
    if not lengths:
        wanted = (-(-int(np.quantile(counts, share, method="higher")) // STEP) * STEP for share in SHARES)
        lengths = sorted({*(min(length, most) for length in wanted), most})
        notes.append(f"batches are padded to {', '.join(map(str, lengths))}, as calibrate's lengths suggest")
    middle = float(np.median(counts))
    best = next((length for length in lengths if length >= middle), most)
    limits = {"min": lengths[0], "best": best, "max": max(most, lengths[-1])}
    axes = {reader.axis: limits} if reader.axis else {}
    return replace(spec, settings={**spec.settings, "lengths": lengths}), axes, notes


def _counts(spec: PreSpec, reader: Any, calibrate: Split) -> list[int]:
    found: list[int] = []
    for feeds, _ in calibrate.passes():
        for raw in pre.rows({name: list(feeds[name]) for name in spec.columns}):
            try:
                found.append(reader.length(reader.sample(*raw.values())))
            except InputError:  # it is counted where it is read
                continue
            if len(found) == LOOKED_AT:
                return found
    return found


def at_best(split: Split, batch: int, inputs: Sequence[TensorSpec], axes: Axes) -> dict[str, Array]:
    """The first batch that is of the lengths that are measured; the very first where none of the first ones is.

    Args:
        split: with the model's names and dtypes.
        batch: samples.
        inputs: the model's.
        axes: those that padding gave limits.
    """
    first, _ = split.take(batch)
    for tried, (feeds, _) in enumerate(split.batches(batch) if axes else ()):
        sizes = {axis: n for spec in inputs for axis, n in zip(spec.shape, feeds[spec.name].shape, strict=True)}
        if all(sizes.get(name) == limits["best"] for name, limits in axes.items()):
            return feeds
        if tried == LOOKED_AT // batch:
            break
    return first


def check(worker: Worker, specs: Sequence[PreSpec], split: Split, inputs: Sequence[TensorSpec]) -> list[str]:
    """Run a sample padded and alone; returns what a reader should know where the answers differ.

    Args:
        worker: runs the original, which takes a sample a call.
        specs: the preprocessing, fitted.
        split: with the model's names and dtypes.
        inputs: the model's.
    """
    readers = [reader for spec in specs if hasattr(reader := spec.open(inputs), "alone")]
    for reader in readers:
        for tried, (feeds, _) in enumerate(split.batches(TRIED)):
            for row in range(len(next(iter(feeds.values())))):
                padded = {name: value[row : row + 1] for name, value in feeds.items()}
                if cut := reader.alone(padded):
                    return _compared(dict(worker.run(padded)), dict(worker.run(cut[0])), cut[1])
            if tried:
                break
    return []


def _compared(padded: Mapping[str, Array], alone: Mapping[str, Array], part: slice) -> list[str]:
    """Answers that go along the padded axis are compared where there is no padding."""
    own = {
        name: value if value.shape == alone[name].shape else value[:, part]
        for name, value in padded.items() if value.ndim and name in alone
    }  # fmt: skip
    error, name = relative_error(own, alone)
    if error <= SAME:
        return []
    return [
        f"the original's own '{name}' of a sample changes by {error:.2g} (relative) when it is padded to the length of "
        "others: it does not leave the padding out. All figures are of padded samples, as a device gives them"
    ]
