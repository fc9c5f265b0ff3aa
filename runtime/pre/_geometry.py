"""How a picture comes to lie in a model's input: one geometry for the picture itself, its mask and its boxes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.tensors import Array

if TYPE_CHECKING:
    from runtime.pre.image import Settings

NO_BOX = (0, 0, 0, 0, -1)  # padding


@dataclass(frozen=True)
class Geometry:
    """A picture is resized to `inner`, and laid on `outer` with its left upper corner at `corner`; widths come first.

    Attributes:
        own: the picture's size.
        inner: what it is resized to.
        corner: negative where the picture is cut.
        outer: the input's size.
    """

    own: tuple[int, int]
    inner: tuple[int, int]
    corner: tuple[int, int]
    outer: tuple[int, int]

    @classmethod
    def of(cls, own: tuple[int, int], s: "Settings") -> "Geometry":
        """Of a picture of this width and height."""
        if not s.size:
            return cls(own, own, (0, 0), own)
        height, width = s.size
        if s.fit == "stretch":
            return cls(own, (width, height), (0, 0), (width, height))
        if s.fit == "crop" and s.shorter:  # the longer side is cut to a whole number of pixels, as training code does
            short = min(own)
            inner = _two(s.shorter if side == short else int(s.shorter * side / short) for side in own)
        else:
            ratio = (max if s.fit == "crop" else min)(width / own[0], height / own[1])
            least = (width, height) if s.fit == "crop" else (1, 1)
            inner = _two(max(low, round(side * ratio)) for low, side in zip(least, own, strict=True))
        room = _two(int((side - mine) / 2) for side, mine in zip((width, height), inner, strict=True))
        return cls(own, inner, room, (width, height))

    def boxes(self, boxes: Array) -> Array:
        """Boxes (n, 5) of left, top, right, bottom and class in the input: float64; class -1 where nothing is left.

        What is cut off the picture is cut off its boxes.
        """
        found = np.array(boxes, np.float64)
        scale, corner = np.array(self.inner) / self.own, np.array(self.corner)
        found[:, :4] = (found[:, :4].reshape(-1, 2, 2) * scale + corner).clip(0, self.outer).reshape(-1, 4)
        found[(found[:, 2:4] <= found[:, :2]).any(1)] = NO_BOX
        return found


def _two(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return first, second
