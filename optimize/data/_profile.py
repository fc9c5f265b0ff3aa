"""What a split looks like: fingerprints of its samples, and of each floating input its range and its neighbourhood."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.tensors import Array

LOOKED_AT = 64  # samples, for what neighbours have in common
SMALLEST = 8  # positions along an axis that has neighbours
FEW_CHANNELS = 4


@dataclass
class Spread:
    """Of one floating input, over all that was seen of it.

    Attributes:
        channels: sums along the axis of colours; empty where there is none.
        neighbours: by axis, sums of squares of the differences to the mean, and of the products with the next value.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    channels: Array = field(default_factory=lambda: np.zeros(0))
    neighbours: dict[int, tuple[float, float]] = field(default_factory=dict)
    looked_at: int = 0

    @property
    def mean(self) -> float:
        """Of all values."""
        return self.total / max(1, self.count)

    @property
    def deviation(self) -> float:
        """Standard, of all values."""
        return math.sqrt(max(0.0, self.squares / max(1, self.count) - self.mean**2))

    def colours(self) -> Array:
        """The mean of each channel; empty where there are none."""
        return self.channels * (len(self.channels) / max(1, self.count))

    def related(self) -> dict[int, float]:
        """By axis, the correlation of a value with the next one along it; none where nothing varies."""
        return {axis: product / square for axis, (square, product) in self.neighbours.items() if square > 0}

    def update(self, value: Array) -> None:
        """Take in a batch."""
        wide = value.astype(np.float64)
        self.count += wide.size
        self.total += float(wide.sum())
        self.squares += float(np.vdot(wide, wide))
        self.low, self.high = min(self.low, float(wide.min())), max(self.high, float(wide.max()))
        colour = colour_axis(value.shape)
        if colour is not None:
            sums = wide.sum(axis=tuple(axis for axis in range(wide.ndim) if axis != colour))
            self.channels = self.channels + sums if self.channels.size else sums
        wide = wide[: max(0, LOOKED_AT - self.looked_at)]
        self.looked_at += len(wide)
        axes = [axis for axis in range(1, wide.ndim) if axis != colour and wide.shape[axis] >= SMALLEST]
        if wide.ndim < 3 or not len(wide):
            return
        centred = wide - wide.mean(axis=tuple(axes), keepdims=True)
        for axis in axes:
            along = np.moveaxis(centred, axis, 0)
            here, there = along[:-1], along[1:]
            square, product = self.neighbours.get(axis, (0.0, 0.0))
            square += (_products(here, here) + _products(there, there)) / 2
            self.neighbours[axis] = square, product + _products(here, there)


@dataclass
class Profile:
    """Of one split.

    Attributes:
        ranged: spreads are looked at; of test nobody compares them.
        prints: a hash of each sample's inputs, in order.
        spreads: by floating input.
    """

    ranged: bool = True
    prints: list[bytes] = field(default_factory=list)
    spreads: dict[str, Spread] = field(default_factory=dict)

    def update(self, feeds: Mapping[str, Array]) -> None:
        """Take in a batch of contiguous arrays."""
        for index in range(len(next(iter(feeds.values())))):
            digest = hashlib.blake2b(digest_size=8)
            for value in feeds.values():
                digest.update(value[index : index + 1].data)
            self.prints.append(digest.digest())
        for name, value in feeds.items():
            if self.ranged and value.dtype.kind == "f" and value.size:
                spread = self.spreads.setdefault(name, Spread())
                for start in range(0, len(value), LOOKED_AT):  # a batch may be all there is, and float64 twice as much
                    spread.update(value[start : start + LOOKED_AT])


def _products(one: Array, other: Array) -> float:
    """The sum of the products of two arrays, element by element, without an array of them."""
    return float(np.einsum(one, [*range(one.ndim)], other, [*range(other.ndim)], []))


def colour_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of colours of a batch of pictures; None where there is none, or no telling which it is."""
    if len(shape) != 4:
        return None
    few = [axis for axis in (1, 3) if shape[axis] <= FEW_CHANNELS and min(shape[2], shape[4 - axis]) >= SMALLEST]
    return few[0] if len(few) == 1 else None
