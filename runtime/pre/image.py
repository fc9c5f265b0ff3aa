"""Pictures, by Pillow: fitted to a size, their colours in an order, (number * scale - mean) / std.

A raw sample is a path, a file's bytes, a uint8 array (height, width, channels), RGB or grey, or a picture of Pillow's.
Where the model itself does scale, mean and std (`TensorSpec.frame`), it is given the fitted picture as it is.
"""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.engines import library
from runtime.errors import InputError
from runtime.pre import cell
from runtime.pre._geometry import Geometry
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from PIL import Image

EXTRA = "image"
FILES = ()
FITS = ("stretch", "crop", "pad")
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
COLOURS = {"RGB": 3, "BGR": 3, "L": 1}
LARGEST = 16384  # pixels along a side
NOTHING = 255  # in a mask: does not count
ORIENTATION, QUARTERS = 0x0112, (5, 6, 7, 8)  # of EXIF: the values that turn a picture on its side


@dataclass(frozen=True)
class Settings:
    """What becomes of a picture.

    Attributes:
        size: height and width; none for the picture's own.
        fit: `stretch` it to the size; `crop` the middle of it, its shorter side made `shorter` (by default as long as
            fills the size); or `pad` it with `fill`, its longer side made to fit.
        shorter: pixels, for `crop`.
        filter: of Pillow's resizing.
        colours: RGB, BGR or L (grey).
        scale: of a number between 0 and 255.
        mean: of each channel in the order of `colours`, or one for all.
        std: likewise.
        channels_first: (channels, height, width); else channels last.
        fill: of each channel, 0 to 255, or one for all, for `pad`.
        upright: turn the picture as its camera noted (EXIF).
        input: its name, where the model has several that could be a picture.
    """

    size: tuple[int, ...] = ()
    fit: str = "stretch"
    shorter: int = 0
    filter: str = "bilinear"
    colours: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels_first: bool = True
    fill: tuple[int, ...] = (0,)
    upright: bool = False
    input: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, allowed in (("fit", FITS), ("filter", FILTERS), ("colours", tuple(COLOURS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}; it is one of {', '.join(allowed)}")
        if type(self.shorter) is not int:
            raise ValueError(f"shorter = {self.shorter!r}; a number of pixels")
        sides = (*self.size, *([self.shorter] if self.shorter else []))
        if len(self.size) not in (0, 2) or not all(type(side) is int and 0 < side <= LARGEST for side in sides):
            raise ValueError(f"size = {list(self.size)}, shorter = {self.shorter}: a height and a width in pixels")
        if self.fit != "stretch" and not self.size:
            raise ValueError(f"fit = {self.fit!r} needs a size")
        if self.shorter and (self.fit != "crop" or self.shorter < max(self.size)):
            raise ValueError(f"shorter = {self.shorter} is for fit = 'crop', and at least as long as the size")
        for name in ("mean", "std", "fill"):
            values = getattr(self, name)
            right = type(values) is tuple and all(type(v) in (int, float) and math.isfinite(v) for v in values)
            if not right or len(values) not in (1, COLOURS[self.colours]):
                raise ValueError(f"{name} = {values!r}; it takes a number a channel, or one for all")
        known = type(self.scale) in (int, float) and math.isfinite(self.scale)
        if not known or min(self.scale, *self.std) <= 0:
            raise ValueError("scale and std are above 0")
        if not all(type(value) is int and 0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill = {list(self.fill)}; numbers from 0 to 255")
        if type(self.channels_first) is not bool or type(self.upright) is not bool or type(self.input) is not str:
            raise ValueError("channels_first and upright are true or false, input is a name")


def suited(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Size and layout as the one input that can be a picture has them; raises InputError where none can, or two."""
    found = [(spec, layout) for spec in inputs if (layout := _layout(spec)) is not None]
    if len(found) != 1:
        listed = ", ".join(map(str, inputs)) or "not known"
        raise InputError(
            f"the model's inputs ({listed}) do not tell which of them is a picture: say it in the recipe, "
            '[[pre]] kind = "image", size = [224, 224], input = "NAME".'
        )
    spec, first = found[0]
    sides = spec.shape[2:] if first else spec.shape[1:3]
    channels = spec.shape[1 if first else 3]
    size = list(sides) if all(isinstance(side, int) for side in sides) else []
    return {"size": size, "colours": "L" if channels == 1 else "RGB", "channels_first": first, "input": spec.name}


def open(settings: Settings, files: Mapping[str, Path], inputs: Sequence[TensorSpec]) -> "Pictures":
    """The reader; raises InputError where no input can be a picture of these settings."""
    named = [spec for spec in inputs if settings.input in ("", spec.name) and _layout(spec) is not None]
    if inputs and (len(named) != 1):
        listed = ", ".join(map(str, inputs))
        raise InputError(f"the preprocessing 'image': of {listed} none, or more than one, is the picture: name input.")
    return Pictures(settings, named[0] if named else None)


class Pictures:
    """Reads and fits pictures."""

    most = 1

    def __init__(self, settings: Settings, spec: TensorSpec | None) -> None:
        self.settings = settings
        self._spec = spec
        self.fills = (spec.name if spec else settings.input or "image",)
        self._image = library("PIL.Image", EXTRA)

    def sample(self, *raw: Any) -> Array:
        """A picture fitted to its size: uint8, (height, width, channels)."""
        s = self.settings
        with _reading(raw[0]), self._open(raw[0]) as picture:
            upright = library("PIL.ImageOps", EXTRA).exif_transpose(picture) if s.upright else picture
            if upright.mode == "P" and "transparency" in upright.info:
                upright = upright.convert("RGBA")  # of which Pillow would else warn
            fitted = self._fitted(upright.convert("L" if s.colours == "L" else "RGB"), s.filter, s.fill)
            pixels = np.asarray(fitted).reshape(fitted.height, fitted.width, -1)
        return pixels[:, :, ::-1] if s.colours == "BGR" else pixels

    def mask(self, mask: Any, raw: Any) -> Array:
        """A picture of class numbers, fitted as the picture that it is of: int64, (height, width); around it 255."""
        size = self._size(raw)
        with _reading(mask), self._open(mask) as picture:
            if picture.mode not in ("P", "L", "1"):
                raise InputError(f"{shown(mask)} has colours ({picture.mode}); a mask has a class number a pixel.")
            if picture.size != size:
                raise InputError(
                    f"{shown(mask)} is {picture.size}, and its picture {shown(raw)} {size}, wide and high."
                )
            plain = self._image.fromarray(np.asarray(picture).astype(np.uint8))
            return np.asarray(self._fitted(plain, "nearest", (NOTHING,))).astype(np.int64)

    def boxes(self, boxes: Array, raw: Any) -> Array:
        """Boxes on a picture, (n, 5) of left, top, right, bottom and class, where they are when it is fitted."""
        return Geometry.of(self._size(raw), self.settings).boxes(boxes)

    def batch(self, samples: Sequence[Array]) -> dict[str, Array]:
        """The model's input, (samples, ...)."""
        sizes = {sample.shape for sample in samples}
        if len(sizes) > 1:
            raise InputError(f"the pictures have {len(sizes)} sizes, {sorted(sizes)[:3]} say: give a size to fit to.")
        s, spec = self.settings, self._spec
        pixels = np.stack(samples)
        if spec is not None and spec.frame is not None:
            return {self.fills[0]: np.ascontiguousarray(pixels)}
        if spec is None or spec.dtype != "uint8":
            scaled = pixels.astype(np.float32) * np.float32(s.scale)
            pixels = (scaled - np.asarray(s.mean, np.float32)) / np.asarray(s.std, np.float32)
        ordered = np.moveaxis(pixels, -1, 1) if s.channels_first else pixels
        return {self.fills[0]: np.ascontiguousarray(ordered, spec.dtype if spec else None)}

    def _open(self, raw: Any) -> "Image.Image":
        """A picture whose pixels are read when they are asked for."""
        raw = cell(raw)
        if isinstance(raw, np.ndarray):
            if raw.dtype != np.uint8 or raw.ndim not in (2, 3) or not raw.size:
                raise InputError(f"a picture is uint8, (height, width, channels); got {raw.dtype} {raw.shape}.")
            picture: Image.Image = self._image.fromarray(raw[:, :, 0] if raw.shape[2:] == (1,) else raw)
        elif isinstance(raw, (bytes, bytearray)):
            picture = self._image.open(io.BytesIO(raw))
        elif isinstance(raw, (str, Path)):
            picture = self._image.open(raw)
        elif isinstance(raw, self._image.Image):
            picture = raw.copy()  # it is closed when it has been read
        else:
            raise InputError(f"a picture is a path, bytes, a uint8 array or Pillow's; got a {type(raw).__name__}.")
        if picture.mode.startswith(("I", "F")):
            picture.close()
            raise InputError(f"{shown(raw)} has more than 8 bits a channel ({picture.mode}); convert it first.")
        return picture

    def _fitted(self, picture: "Image.Image", filter_: str, fill: tuple[int, ...]) -> "Image.Image":
        geometry = Geometry.of(picture.size, self.settings)
        resized = picture.resize(geometry.inner, self._image.Resampling[filter_.upper()])
        if geometry.inner == geometry.outer:
            return resized
        colour = fill * (len(picture.getbands()) // len(fill))
        if self.settings.colours == "BGR":
            colour = colour[::-1]
        around = self._image.new(picture.mode, geometry.outer, colour[0] if len(colour) == 1 else colour)
        around.paste(resized, geometry.corner)  # what lies outside is cut
        return around

    def _size(self, raw: Any) -> tuple[int, int]:
        """Width and height of a picture, turned where its camera says so."""
        with _reading(raw), self._open(raw) as picture:
            turned = self.settings.upright and picture.getexif().get(ORIENTATION, 1) in QUARTERS
            width, height = picture.size
        return (height, width) if turned else (width, height)


@contextmanager
def _reading(raw: Any) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise what they like for a damaged file
        unknown = type(error).__name__ == "UnidentifiedImageError"  # whose text has an address in memory
        said = "it has no form that is known" if unknown else error
        raise InputError(f"{shown(raw)} cannot be read as a picture: {said}") from error


def shown(raw: Any) -> str:
    """A raw picture in a message."""
    if isinstance(raw, (bytes, bytearray)):
        return f"a picture of {len(raw)} bytes (sha256 {hashlib.sha256(raw).hexdigest()[:8]})"
    raw = cell(raw)
    return str(raw) if isinstance(raw, (str, Path)) else f"a {type(raw).__name__}"


def _layout(spec: TensorSpec) -> bool | None:
    """Whether channels come first in what can be a picture; None where it cannot."""
    if spec.frame is not None:
        return False
    if len(spec.shape) != 4:
        return None
    if spec.shape[1] in (1, 3):
        return True
    return False if spec.shape[3] in (1, 3) else None
