"""What "accurate" means. One file a metric, each ending in one `METRIC = Metric(...)`; look-up lists this folder.

A metric streams: `update` reduces a batch to a few numbers a sample, `finish` makes one figure of them all. The
figures of two models on the same samples are then compared in pairs. A user's own function is wrapped by `custom`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from optimize.usercode import load_callable
from runtime import listing
from runtime.errors import InputError
from runtime.tensors import Array

Outputs = Mapping[str, Array]
MASKS = ("attention_mask", "input_mask", "mask")  # inputs that are above 0 where there is no padding


@dataclass(frozen=True, eq=False)
class Rows:
    """What a metric keeps of some samples: (rows, k) float64, and how many of the rows each sample owns.

    A picture owns a row for each detection in it, a pair of sentences one. Samples, not rows, are independent, so it is
    they that are resampled.
    """

    values: Array
    counts: Array

    @classmethod
    def of(cls, found: "Array | Rows") -> "Rows":
        """A plain array has a row a sample."""
        return found if isinstance(found, Rows) else cls(found, np.ones(len(found), np.int64))

    @classmethod
    def joined(cls, parts: "Sequence[Rows]") -> "Rows":
        """Of several batches."""
        return cls(np.concatenate([p.values for p in parts]), np.concatenate([p.counts for p in parts]))

    def of_samples(self, count: int) -> "Rows":
        """The same rows, owned by so many samples of equally many: the frames of recordings by the recordings.

        Raises:
            InputError: that does not come out even.
        """
        if len(self.counts) % count:
            raise InputError(f"the model answers {count} samples with {len(self.counts)} rows, which is none a sample.")
        return Rows(self.values, self.counts.reshape(count, -1).sum(1))

    def __len__(self) -> int:
        return len(self.counts)

    def head(self, samples: int) -> "Rows":
        """Those of the first samples."""
        if samples >= len(self):
            return self
        counts = self.counts[:samples]
        return Rows(self.values[: counts.sum()], counts)

    def take(self, samples: Array) -> Array:
        """The rows of these samples, one after another, (rows, k)."""
        if len(self.values) == len(self.counts):
            return np.asarray(self.values[samples])
        counts = self.counts[samples]
        first = np.cumsum(self.counts)[samples] - counts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(self.values[np.repeat(first, counts) + within])


Drawn = Callable[[Rows], Callable[[Array], float]]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        unit: of its value; "share" is 0 to 1, shown in percent.
        higher_is_better: the sense of a drop follows from it.
        update: outputs by name (first axis: samples) and the labels -> (samples, k) float64, or `Rows` where a sample
            owns several. One column of zeros and ones is a right-or-wrong metric. Raises InputError for labels that
            cannot be.
        finish: (rows, k) -> the figure; NaN where these rows have none, a class's recall without the class say.
        drawn: rows -> the figure of samples drawn from them by their numbers, where sorting them all once is faster
            than `finish` of each drawing; None where it is not.
        own: the original's outputs and what it was given -> what stands for labels, those of the data not looked at;
            None where they are the data's.
        means: of what is held against the original's answers, in words.
        classes: where the first output is (samples, width), its largest place is a class.
    """

    name: str
    unit: str
    higher_is_better: bool
    update: Callable[[Outputs, Array], Array | Rows]
    finish: Callable[[Array], float]
    drawn: Drawn | None = None
    own: Callable[[Outputs, Outputs], Array] | None = None
    means: str = ""
    classes: bool = True


class Decoder(Protocol):
    """What becomes of scores and labels, so that they can be compared as texts."""

    def texts(self, scores: Array) -> Array:
        """Of the first output, a text a sample."""

    def fitted(self, labels: Array) -> Array:
        """The labels, written as these texts are."""


def get(name: str, better: str | None = None) -> Metric:
    """The metric of this name, or `module.py:function` wrapped.

    Raises:
        InputError: there is none, or the user's own lacks `better`.
    """
    if ":" in name:
        return custom(name, better)
    if re.fullmatch(r"top[1-9]\d*", name):
        made: Metric = listing.get(__name__, "top5", "metric").top(int(name[3:]))
        return made
    metric: Metric = listing.get(__name__, name, "metric").METRIC
    return metric


def of_texts(metric: Metric, decoder: Decoder) -> Metric:
    """The same, given texts in place of scores where the labels are texts."""

    def update(outputs: Outputs, labels: Array) -> Array | Rows:
        if labels.dtype.kind != "U" or first(outputs).dtype.kind != "f":
            return metric.update(outputs, labels)
        return metric.update({next(iter(outputs)): decoder.texts(first(outputs))}, decoder.fitted(labels))

    return replace(metric, update=update)


def names() -> list[str]:
    """All metrics that come with the program."""
    return listing.names(__name__)


def first(outputs: Outputs) -> Array:
    """The output that the metrics here judge: the first."""
    return next(iter(outputs.values()))


def there(value: Array, feeds: Outputs) -> Array:
    """Which places of (samples, length, ...) are no padding, as an input of MASKS says; all where none does."""
    masks = (mask for name, mask in feeds.items() if name in MASKS and mask.shape == value.shape[:2])
    return np.asarray(next(masks, np.ones(value.shape[:2])) > 0)


def unpadded(outputs: Outputs, feeds: Outputs) -> Array:
    """The first output; where it is (samples, length, width), with NaN in padding."""
    value = first(outputs)
    if value.ndim != 3 or value.dtype.kind != "f":
        return value
    return np.where(there(value, feeds)[:, :, None], value, np.asarray(np.nan, value.dtype))


def share(statistics: Array) -> float:
    """Of what is right: the mean of one column, or the first column's sum over the second's."""
    if statistics.shape[1] == 1:
        return float(statistics.mean())
    return float(statistics[:, 0].sum() / statistics[:, 1].sum())


def per_sample(error: Array) -> Array:
    """The mean over all but the first axis, as one column."""
    return np.asarray(error.reshape(len(error), -1).mean(1, keepdims=True, dtype=np.float64))


def same_shape(value: Array, labels: Array) -> tuple[Array, Array]:
    """Both in float64; shapes that differ by axes of length 1, (N, 1) and (N,) say, are reconciled.

    Raises:
        InputError: the shapes differ otherwise, or the labels are no numbers.
    """
    if labels.dtype.kind not in "biuf":
        raise InputError(f"labels of dtype {labels.dtype} are no numbers; this metric needs numbers.")
    if [size for size in value.shape if size > 1] == [size for size in labels.shape if size > 1]:
        labels = labels.reshape(value.shape)
    if value.shape != labels.shape:
        raise InputError(f"the output has shape {value.shape}, the labels {labels.shape}; this metric needs the same.")
    return value.astype(np.float64), labels.astype(np.float64)


def pairs(outputs: Outputs, labels: Array) -> Rows:
    """Each number of the first output beside its label, (rows, 2); a sample owns as many rows as it has numbers."""
    value, wanted = same_shape(first(outputs), labels)
    each = value.size // len(value)
    return Rows(np.stack([value.reshape(-1), wanted.reshape(-1)], 1), np.full(len(value), each))


def custom(place: str, better: str | None) -> Metric:
    """Wrap a user's `function(outputs, labels)`.

    `outputs` is the array, or a dict by name where the model has several. The function returns an array with one
    number a sample (their mean is the figure), or one number for all it was given; then it is called once on the
    whole split, and on each resampling of it.

    Raises:
        InputError: `better` is neither "higher" nor "lower", or the function is not there.
    """
    if better not in ("higher", "lower"):
        raise InputError(f'the metric \'{place}\' is your own: say better = "higher" or "lower" (got {better!r}).')
    function = load_callable(place, "metric")
    shapes: dict[str, tuple[int, ...]] = {}
    kinds: dict[str, Any] = {}

    def call(outputs: Outputs, labels: Array) -> Array:
        value: Any = first(outputs) if len(outputs) == 1 else dict(outputs)
        try:
            return np.asarray(function(value, labels), np.float64)
        except Exception as error:
            raise InputError(f"the metric '{place}' raised {type(error).__name__}: {error}") from error

    def update(outputs: Outputs, labels: Array) -> Array:
        if not shapes:
            kinds["each"] = call(outputs, labels).ndim == 1
            shapes.update({name: value.shape[1:] for name, value in {**outputs, "": labels}.items()})
            kinds.update({name: value.dtype for name, value in {**outputs, "": labels}.items()})
        if kinds["each"]:
            found = call(outputs, labels)
            if found.shape != (len(labels),):
                raise InputError(f"the metric '{place}' gave shape {found.shape} for {len(labels)} samples.")
            if not np.isfinite(found).all():
                raise InputError(f"the metric '{place}' gave NaN or infinity for a sample.")
            return found[:, None]
        rows = {name: (len(labels), *shape) for name, shape in shapes.items() if name}
        if odd := [name for name, value in outputs.items() if value.shape != rows[name]]:
            raise InputError(
                f"the metric '{place}' gives one number for all samples, and '{odd[0]}' is {outputs[odd[0]].shape} "
                f"after {rows[odd[0]]}: return one number a sample."
            )
        if any(value.dtype.kind not in "biuf" for value in (*outputs.values(), labels)):
            raise InputError(f"the metric '{place}' gives one number for all samples: of texts return one a sample.")
        whole = [np.asarray(value).reshape(len(labels), -1) for value in (*outputs.values(), labels)]
        return np.concatenate(whole, 1, dtype=np.float64)

    def finish(statistics: Array) -> float:
        if kinds["each"]:
            return float(statistics.mean())
        parts, start = {}, 0
        for name, shape in shapes.items():
            width = int(np.prod(shape, dtype=int))
            part = statistics[:, start : start + width].reshape(len(statistics), *shape)
            parts[name], start = part.astype(kinds[name]), start + width
        labels = parts.pop("")
        value = call(parts, labels)
        if value.ndim or not np.isfinite(value):
            raise InputError(f"the metric '{place}' gave {value!r}; it returns one finite number, or one a sample.")
        return float(value)

    return Metric(place, "", better == "higher", update, finish)
