"""The user's data, in three splits that are never mixed. One file a kind; look-up lists this folder.

    claims(place)    whether this looks like data of this kind
    load(place)      -> Splits

A split streams: each pass over it makes a fresh iterator of batches, so that it need not fit into memory. What answers
are judged by is held there from its first pass on, where it is small (`_held`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from optimize.data._batch import Batch as Batch
from optimize.data._batch import cut as cut
from optimize.data._batch import joined, picked, shapes
from optimize.data._batch import resized as resized
from optimize.data._division import in_order
from optimize.data._held import HELD_BYTES as HELD_BYTES
from optimize.data._held import Held
from optimize.data._profile import Profile
from runtime import listing
from runtime.errors import InputError
from runtime.tensors import Array, TensorSpec, check_feeds

NAMES = ("calibrate", "validate", "test")
SHARES = (0.4, 0.3, 0.3)  # where one split is divided
LABELS = ("y", "label", "labels")
NOTHING = 255  # in a map of classes: does not count
READ = 64  # samples a batch where nobody says


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        passes: begins a new pass over its batches as they are stored (arrays by name, and labels or None).
        convert: what a batch becomes before anybody sees it; it may have fewer samples then.
        axes: input to the axis along which its samples lie where that is not the first; None where it has none.
    """

    name: str
    passes: Callable[[], Iterable[Batch]]
    convert: Callable[[Batch], Batch] = lambda batch: batch
    axes: Mapping[str, int | None] = field(default_factory=dict)

    def batches(self, size: int = READ) -> Iterator[Batch]:
        """A pass in batches of `size` samples.

        The last may be shorter, and those with samples that were left out, or before samples of another length.
        """
        for batch in self._stored(size):
            feeds, labels = self.convert(batch)
            if len(next(iter(feeds.values()), ())):
                yield feeds, labels

    def _stored(self, size: int) -> Iterator[Batch]:
        held: list[Batch] = []
        count = 0
        for batch in self.passes():
            feeds, labels = batch
            samples = len(next(iter(feeds.values())))
            if labels is not None and len(labels) != samples:
                raise InputError(
                    f"the split '{self.name}' has {samples} samples and {len(labels)} labels in one batch."
                )
            if held and shapes(batch, self.axes) != shapes(held[0], self.axes):
                yield joined(held, self.axes)
                held, count = [], 0
            held.append(batch)
            count += samples
            if count >= size:
                whole = joined(held, self.axes)
                for start in range(0, count - count % size, size):
                    yield cut(whole, start, start + size, self.axes)
                held = [cut(whole, count - count % size, count, self.axes)] if count % size else []
                count %= size
        if held:
            yield joined(held, self.axes)

    def part(self, samples: int, total: int) -> "Split":
        """At most so many of its `total` samples, drawn by a fixed seed: the first may be all of one kind."""
        if total <= samples:
            return self
        drawn = np.zeros(total, bool)
        drawn[np.random.default_rng(0).permutation(total)[:samples]] = True

        def passes() -> Iterator[Batch]:
            begun = 0
            for batch in self.passes():
                size = len(next(iter(batch[0].values())))
                kept = np.flatnonzero(drawn[begun : begun + size])
                begun += size
                if len(kept):
                    yield picked(batch, kept, self.axes)

        return replace(self, passes=passes)

    def take(self, samples: int) -> Batch:
        """The first samples, fewer where there are not so many.

        Raises:
            InputError: there are none.
        """
        for batch in self.batches(samples):
            return batch
        raise InputError(f"the split '{self.name}' is empty, or its stream ended with the first pass over it.")


@dataclass(frozen=True)
class Splits:
    """The three, and what a reader of the report should know of how they came about.

    Attributes:
        divided: the user gave one split, which was divided here.
        classes: the names of the labels' numbers, where the data has them.
    """

    calibrate: Split
    validate: Split
    test: Split
    notes: tuple[str, ...] = ()
    divided: bool = False
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, passes: Mapping[str, Callable[[], Iterable[Batch]]], note: str = "", divided: bool = False) -> "Splits":
        """From the three passes by name."""
        calibrate, validate, test = (Split(name, passes[name]) for name in NAMES)
        return cls(calibrate, validate, test, (note,) if note else (), divided)

    def whole(self) -> Split:
        """All three, one after the other."""

        def passes() -> Iterator[Batch]:
            for split in self:
                yield from split.passes()

        return Split("all", passes, self.calibrate.convert)

    def converted(self, change: Callable[[Batch], Batch], notes: Sequence[str] = ()) -> "Splits":
        """With what each batch becomes once it is what it is now."""

        def wrap(split: Split) -> Split:
            return replace(split, convert=lambda batch: change(split.convert(batch)))

        calibrate, validate, test = map(wrap, self)
        return replace(self, calibrate=calibrate, validate=validate, test=test, notes=(*self.notes, *notes))

    def held(self) -> "Splits":
        """With batches as they are now, validate's and test's in memory from the first pass on, where that is small.

        Calibrate is read anew: what is trained on may be turned and cut otherwise each time. Not for batches that are
        padded: how long a sample is would no longer be of the batch that is asked for.
        """

        def made(split: Split, passes: Callable[[], Iterable[Batch]]) -> Split:
            return replace(split, passes=passes, convert=lambda batch: batch)

        calibrate, validate, test = self
        return replace(
            self, calibrate=made(calibrate, calibrate.batches), validate=made(validate, Held(validate.batches)),
            test=made(test, Held(test.batches)),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Split]:
        return iter((self.calibrate, self.validate, self.test))


@dataclass(frozen=True)
class Facts:
    """What one pass over a split saw.

    Attributes:
        sha256: over the arrays' bytes, inputs and labels, in order.
        labels: the smallest and the largest, where they are whole numbers; of maps without 255, which is no class.
        maps: the labels have a class number for each place of a picture.
        text: the labels are texts.
        profile: what its samples look like.
    """

    samples: int
    sha256: str
    labels: Array | None
    labelled: bool
    integer: bool
    profile: Profile
    maps: bool = False
    text: bool = False


def detect(place: str) -> str:
    """The kind of data whose kind of place this is.

    Raises:
        InputError: no kind knows it.
    """
    known = listing.names(__name__)
    for name in known:
        if listing.get(__name__, name, "kind of data").claims(place):
            return name
    raise InputError(
        f"'{place}' is not data that is known here ({', '.join(known)}). "
        "Give an .npz file, a .csv, .tsv, .jsonl or .parquet table, a folder of files, or file.py:callable."
    )


def load(source: str, place: str) -> Splits:
    """Load data.

    Raises:
        InputError: it is not there, or not what this kind is.
    """
    splits: Splits = listing.get(__name__, source, "kind of data").load(place)
    return splits


def from_arrays(arrays: Mapping[str, Mapping[str, Array]], where: str) -> Splits:
    """Splits from arrays in memory: all three by name, or one that is divided with a fixed seed.

    Raises:
        InputError: some splits are missing, arrays differ in length, or there is nothing in them.
    """
    for name, split in arrays.items():
        lengths = {key: len(value) if value.ndim else None for key, value in split.items()}
        if None in lengths.values() or len(set(lengths.values())) > 1:
            raise InputError(
                f"{where}: the arrays of '{name or 'the data'}' differ in their number of samples: {lengths}."
            )
        if not set(lengths) - set(LABELS):
            raise InputError(f"{where}: '{name or 'the data'}' has no input, only {sorted(lengths)}.")
        if 0 in lengths.values():
            raise InputError(f"{where}: the split '{name or 'the data'}' is empty.")
    if set(arrays) == {""}:
        return _divide(arrays[""], where)
    if lacking := [name for name in NAMES if name not in arrays]:
        raise InputError(f"{where}: the splits {', '.join(lacking)} are missing; there are {sorted(arrays)}.")
    return Splits.of({name: _reader(arrays[name]) for name in NAMES})


def prepare(splits: Splits, inputs: Sequence[TensorSpec]) -> Splits:
    """Give the arrays the model's names and dtypes; a float is cast to another float, and that is noted.

    Data with one array fits a model with one input, whatever they are called.
    """

    def convert(batch: Batch) -> Batch:
        feeds, labels = batch
        if len(feeds) == len(inputs) == 1:
            feeds = {inputs[0].name: next(iter(feeds.values()))}
        return {name: np.ascontiguousarray(_cast(name, value, inputs)) for name, value in feeds.items()}, labels

    given = splits.calibrate.take(1)
    before, after = given[0].values(), convert(given)[0].items()
    notes = [
        f"the data's {old.dtype} was cast to the model's {new.dtype} ('{name}')"
        for old, (name, new) in zip(before, after, strict=True)
        if old.dtype != new.dtype
    ]
    return splits.converted(convert, notes)


def examine(split: Split, inputs: Sequence[TensorSpec]) -> Facts:
    """Read a whole split once and check it: names, dtypes, shapes, no NaN, labels as many as samples.

    Raises:
        InputError: naming the split, and the sample where there is one.
    """
    # a batch that is baked into the model is not the data's: it is cut and filled up when the model is called
    batch = next((spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)), "samples")
    inputs = [replace(spec, shape=(batch, *spec.shape[1:])) if spec.shape else spec for spec in inputs]
    digest, profile = hashlib.sha256(), Profile(ranged=split.name != "test")
    samples, low, high, labelled, integer, maps, text = 0, None, None, True, False, False, False
    for feeds, labels in split.batches():
        try:
            check_feeds(inputs, feeds)
        except InputError as error:
            raise InputError(f"the split '{split.name}': {error}") from error
        size = len(next(iter(feeds.values())))
        for name, value in feeds.items():
            _finite(split.name, name, value, samples)
            digest.update(value.data)  # contiguous: `prepare` saw to it
        profile.update(feeds)
        labelled = labelled and labels is not None
        if labels is not None:
            _finite(split.name, "the labels", labels, samples)
            digest.update(np.ascontiguousarray(labels).data)
            text = labels.dtype.kind == "U"
            if labels.dtype.kind in "iu" and labels.size:
                integer, maps = True, labels.ndim > 2 and labels[0, 0].size > 1
                counted = labels[labels != NOTHING] if maps else labels
                if counted.size:
                    low = counted.min() if low is None else min(low, counted.min())
                    high = counted.max() if high is None else max(high, counted.max())
        samples += size
    if not samples:
        raise InputError(f"the split '{split.name}' is empty.")
    return Facts(
        samples, digest.hexdigest(), None if low is None else np.array([low, high]), labelled, integer, profile, maps,
        text,
    )  # fmt: skip


def infer_inputs(batch: Batch, dynamic: str = "batch") -> tuple[TensorSpec, ...]:
    """What a model takes, told from its data: the first axis is `dynamic`; float64 is taken for float32."""
    return tuple(
        TensorSpec(name, "float32" if value.dtype.name == "float64" else value.dtype.name, (dynamic, *value.shape[1:]))
        for name, value in batch[0].items()
    )


def to_batch(item: Any, where: str) -> Batch:
    """One batch out of what users write: x, (x, y), {"name": x, ..., "y": labels}, ({...}, y).

    Raises:
        InputError: it is none of these.
    """
    labels = None
    if isinstance(item, (tuple, list)) and len(item) == 2:
        item, labels = item
    if isinstance(item, Mapping):
        feeds = {str(key): _array(value, where) for key, value in item.items() if key not in LABELS}
        labels = next((item[key] for key in LABELS if key in item), labels)
    else:
        feeds = {"x": _array(item, where)}
    if not feeds or any(value.ndim == 0 for value in feeds.values()):
        raise InputError(f"{where}: a batch is x, (x, y) or a dict of arrays with samples along the first axis.")
    return feeds, None if labels is None else _array(labels, where)


def _array(value: Any, where: str) -> Array:
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that require grad
        raise InputError(f"{where}: a {type(value).__name__} does not become an array: {error}") from error
    if found.dtype == object:
        raise InputError(f"{where}: an array of Python objects ({type(value).__name__}) cannot be used; give numbers.")
    return found


def _castable(value: Array, spec: TensorSpec) -> bool:
    wanted = np.dtype(spec.dtype)
    # a table's whole numbers are int64; a picture's uint8 may want a scale, which nobody but the user knows
    floats = value.dtype.kind == "f" or value.dtype == np.int64
    return (floats and wanted.kind == "f") or (value.dtype.kind in "iu" and wanted.kind in "iu")


def _cast(name: str, value: Array, inputs: Sequence[TensorSpec]) -> Array:
    """A float to another, and whole numbers where each is the same afterwards; the check that follows says the rest."""
    spec = next((spec for spec in inputs if spec.name == name), None)
    if spec is None or value.dtype.name == spec.dtype or not _castable(value, spec):
        return value
    with np.errstate(over="ignore"):
        cast = value.astype(spec.dtype)
    if value.dtype.kind in "iu" and not np.array_equal(cast, value):
        return value
    return cast


def _finite(split: str, name: str, value: Array, before: int) -> None:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        sample = before + int(np.argwhere(~np.isfinite(value))[0][0])
        raise InputError(f"the split '{split}' has NaN or infinity in '{name}', first in sample {sample}.")


def _reader(arrays: Mapping[str, Array]) -> Callable[[], Iterator[Batch]]:
    def passes() -> Iterator[Batch]:
        feeds = {name: value for name, value in arrays.items() if name not in LABELS}
        labels = next((arrays[name] for name in LABELS if name in arrays), None)
        for start in range(0, len(next(iter(feeds.values()))), READ):
            yield cut((feeds, labels), start, start + READ)

    return passes


def _divide(arrays: Mapping[str, Array], where: str) -> Splits:
    labels = next((arrays[name] for name in LABELS if name in arrays), None)
    n = len(next(iter(arrays.values())))
    if n < len(NAMES):
        raise InputError(f"{where}: {n} samples cannot be divided into {', '.join(NAMES)}.")
    order, stratified = in_order(labels, n)
    first = max(1, round(n * SHARES[0]))
    second = min(n - 1, first + max(1, round(n * SHARES[1])))
    parts = zip(NAMES, np.split(order, [first, second]), strict=True)
    passes = {name: _reader({key: value[rows] for key, value in arrays.items()}) for name, rows in parts}
    how = "stratified by class" if stratified else "at random"
    note = (
        f"{where} has one split; it was divided {how} (seed 0) into {first}, {second - first} and {n - second} samples"
    )
    return Splits.of(passes, note, divided=True)
