"""Names, dtypes and shapes of what goes into a model and comes out, and the check of a call's arrays against them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.decoding import Array as Array
from runtime.decoding import Decoding
from runtime.errors import InputError

WHOLE = 0.05  # how far a number may be off a whole one, for float32's rounding


@dataclass(frozen=True)
class Frame:
    """What a model does to a camera's picture (N, H, W, C), uint8, before its first layer: (x * scale - mean) / std.

    Attributes:
        scale: of a whole number, 1/255 say.
        mean: of each channel, or one for all.
        std: likewise.
        channels_first: it then is (N, C, H, W).
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_first: bool

    def whole(self, value: Array) -> Array:
        """The picture that a float array was made from, (N, H, W, C), uint8.

        Raises:
            InputError: it was not made from whole numbers between 0 and 255 in this way.
        """
        last = np.moveaxis(value, 1, -1) if self.channels_first else value
        exact = (last * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)) / np.float32(self.scale)
        numbers = np.rint(exact)
        off = float(np.abs(exact - numbers).max(initial=0))
        low, high = numbers.min(initial=0), numbers.max(initial=0)
        if not off < WHOLE or low < 0 or high > 255:
            raise InputError(
                f"the data is no picture by scale {self.scale:g}, mean {list(self.mean)} and std {list(self.std)}: "
                f"its numbers run from {low:g} to {high:g}, and are up to {off:.2g} off whole ones."
            )
        return np.ascontiguousarray(numbers.astype(np.uint8))

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "scale": self.scale, "mean": list(self.mean), "std": list(self.std), "channels_first": self.channels_first,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Frame":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where the data is none."""
        try:
            mean, std = (tuple(float(one) for one in data[key]) for key in ("mean", "std"))
            return cls(float(data["scale"]), mean, std, bool(data["channels_first"]))
        except OverflowError as error:  # a whole number that no float can hold
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: as in the ONNX file.
        dtype: a numpy dtype's name, `float32` say; `str` is text of any length, or objects that are such.
        shape: a number is a fixed dimension, a string names a dynamic axis; the same name means the same length.
        frame: where the model itself makes what it was trained on out of a camera's picture.
        decoding: where an output is what the model itself made of its raw ones.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    frame: Frame | None = None
    decoding: Decoding | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        told = {"frame": self.frame, "decoding": self.decoding}
        return {
            "name": self.name, "dtype": self.dtype, "shape": list(self.shape),
            **{key: value.to_json() for key, value in told.items() if value},
        }  # fmt: skip

    def given(self, value: Array) -> Array:
        """What the model takes, out of what its original takes; raises InputError where that is no picture."""
        return self.frame.whole(value) if self.frame and value.dtype.kind == "f" else value

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TensorSpec":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where the data is none."""
        shape = data["shape"]
        if not isinstance(shape, list) or not all(type(d) is str or (type(d) is int and d > 0) for d in shape):
            raise ValueError(f"shape {shape!r} is not a list of positive numbers and axis names")
        name, dtype = data["name"], data["dtype"]
        # numpy parses far more than names, and takes None for float64
        if type(name) is not str or type(dtype) is not str or not dtype.isalnum() or np.dtype(dtype).name != dtype:
            raise ValueError(f"{name!r} of dtype {dtype!r} is not a name and a numpy dtype's name")
        frame = Frame.from_json(data["frame"]) if data.get("frame") is not None else None
        decoding = Decoding.from_json(data["decoding"]) if data.get("decoding") is not None else None
        return cls(name, dtype, tuple(shape), frame, decoding)

    def sized(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers, each named axis as long as `axes` says, 1 where it says nothing."""
        return tuple(d if isinstance(d, int) else axes.get(d, 1) for d in self.shape)


@dataclass(frozen=True)
class Specs:
    """The inputs and outputs of one model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def decoding(self) -> Decoding | None:
        """How the model makes its outputs of its raw ones; None where it gives these."""
        return next((spec.decoding for spec in self.outputs if spec.decoding), None)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {"inputs": [t.to_json() for t in self.inputs], "outputs": [t.to_json() for t in self.outputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Specs":
        """The inverse of `to_json`."""
        return cls(*(tuple(TensorSpec.from_json(t) for t in data[key]) for key in ("inputs", "outputs")))


def name_inputs(specs: Sequence[TensorSpec], args: Sequence[Any]) -> dict[str, Any]:
    """The arguments of a call by name: one dict, or the arrays in the order of the inputs.

    Raises:
        InputError: there are more or fewer arrays than inputs.
    """
    if len(args) == 1 and isinstance(args[0], Mapping):
        return dict(args[0])
    if len(args) != len(specs):
        raise InputError(f"got {len(args)} arrays; this model takes {len(specs)}: {_listed(specs)}.")
    return {spec.name: value for spec, value in zip(specs, args, strict=True)}


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Any]) -> None:
    """Check a call's arrays by name, dtype, rank, fixed dimensions and the agreement of named axes.

    Raises:
        InputError: with what was got and what is allowed.
    """
    if len(feeds) != len(specs) or any(spec.name not in feeds for spec in specs):
        raise InputError(f"got inputs {sorted(map(str, feeds))}; this model takes {_listed(specs)}.")
    axes: dict[str, int] = {}
    for spec in specs:
        value = feeds[spec.name]
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"input '{spec.name}' is a {type(value).__name__}, not a numpy array; "
                f"pass np.asarray(value, dtype='{spec.dtype}')."
            )
        if spec.dtype == "str":
            _check_text(spec, value)
        elif value.dtype.name != spec.dtype or not value.dtype.isnative:
            raise InputError(
                f"input '{spec.name}' has dtype {value.dtype}; this model takes {spec.dtype}: "
                f"value.astype('{spec.dtype}')."
            )
        if value.ndim != len(spec.shape):
            raise InputError(f"input '{spec.name}' has shape {value.shape}; this model takes {spec}.")
        for wanted, got in zip(spec.shape, value.shape, strict=True):
            if isinstance(wanted, str):
                wanted = axes.setdefault(wanted, got)
            if got != wanted:
                raise InputError(f"input '{spec.name}' has shape {value.shape}; this model takes {spec}.")
            if got == 0:
                raise InputError(f"input '{spec.name}' has shape {value.shape}: it is empty.")


def is_text(value: Array) -> bool:
    """Whether it holds objects that all are text."""
    return value.dtype.hasobject and all(type(one) is str for one in value.flat)


def _check_text(spec: TensorSpec, value: Array) -> None:
    if value.dtype.kind != "U" and not is_text(value):
        raise InputError(f"input '{spec.name}' has dtype {value.dtype}; this model takes text: value.astype(str).")


Sole = tuple[str, Any, Any]  # the only input's name, dtype and shape
NOT_ONE: Sole = ("", None, None)


class FeedCheck:
    """`check_feeds` for every call of one model: shapes that it found right are known again at once.

    Args:
        specs: the model's inputs.
        nan: also refuse NaN, which takes a pass over every float.
    """

    _KNOWN = 64  # combinations of shapes; of a model with fixed shapes there is one

    def __init__(self, specs: Sequence[TensorSpec], nan: bool = False) -> None:
        self._specs = specs
        self._nan = nan
        self._right: dict[tuple[Any, ...], None] = {}

    def __call__(self, feeds: Mapping[str, Any]) -> Sole:
        """What the only input is like, if one that is like it need not be looked at; raises as `check_feeds` does."""
        seen: tuple[Any, ...] = ()
        try:
            for name, value in feeds.items():  # in the path of every call, where a microsecond is seen
                seen += (name, type(value), value.dtype, value.shape)
            known = seen in self._right
        except (AttributeError, TypeError):
            known = False
        if not known:
            check_feeds(self._specs, feeds)
            objects = any(value.dtype.hasobject for value in feeds.values())  # of which each may be another thing
            if len(self._right) < self._KNOWN and not objects:
                self._right[seen] = None
        if self._nan:
            for name, value in feeds.items():
                if value.dtype.kind in "fc" and np.isnan(value).any():
                    raise InputError(f"input '{name}' has NaN, and this model was loaded with check_nan=True.")
            return NOT_ONE
        if len(feeds) != 1 or seen not in self._right:
            return NOT_ONE
        ((name, value),) = feeds.items()
        return name, value.dtype, value.shape


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(map(str, specs))
