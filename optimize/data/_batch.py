"""One batch: arrays by name and labels, whose samples lie along the first axis, or along one that is named."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from runtime.tensors import Array

Batch = tuple[dict[str, Array], "Array | None"]


def resized(
    feeds: Mapping[str, Array], batch: int, axes: Mapping[str, int | None] = MappingProxyType({})
) -> dict[str, Array]:
    """A batch of exactly so many samples, the first ones repeated where there are fewer."""

    def one(value: Array, axis: int | None) -> Array:
        return value if axis is None else value.take(np.arange(batch) % value.shape[axis], axis)

    return {name: one(value, axes.get(name, 0)) for name, value in feeds.items()}


def cut(batch: Batch, start: int, stop: int, axes: Mapping[str, int | None] = MappingProxyType({})) -> Batch:
    """The samples from `start` to before `stop`."""
    return picked(batch, slice(start, stop), axes)


def picked(batch: Batch, which: slice | Array, axes: Mapping[str, int | None] = MappingProxyType({})) -> Batch:
    """These samples of a batch, by their numbers."""
    feeds, labels = batch
    found = {}
    for name, value in feeds.items():
        axis = axes.get(name, 0)
        found[name] = value if axis is None else value[(slice(None),) * axis + (which,)]
    return found, None if labels is None else labels[which]


def shapes(batch: Batch, axes: Mapping[str, int | None]) -> list[tuple[int, ...]]:
    """Of everything in a batch, but for the number of samples."""
    places = [(value, axes.get(name, 0)) for name, value in batch[0].items()]
    places += [] if batch[1] is None else [(batch[1], 0)]
    return [value.shape if axis is None else value.shape[:axis] + value.shape[axis + 1 :] for value, axis in places]


def joined(batches: Sequence[Batch], axes: Mapping[str, int | None]) -> Batch:
    """Batches of one shape as one, with labels where all have them."""
    if len(batches) == 1:
        return batches[0]
    feeds = dict(batches[0][0])
    for name in feeds:
        axis = axes.get(name, 0)
        if axis is not None:
            feeds[name] = np.concatenate([batch[0][name] for batch in batches], axis)
    labels = [batch[1] for batch in batches if batch[1] is not None]
    return feeds, np.concatenate(labels) if len(labels) == len(batches) else None
