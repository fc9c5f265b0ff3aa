"""The tables of a recipe: their keys, defaults and what a value may be."""

import re
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from runtime import pre
from runtime.pre import PreSpec

Objective = Literal["latency", "size", "memory", "throughput"]
_TIME = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*([smh])?\s*$")
_DROP = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(pp|%)?\s*$")


class Table(BaseModel):
    """What each table of a recipe is: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Table):
    """One input: a name in `shape` is a dynamic axis."""

    shape: tuple[int | str, ...] = Field(min_length=1)
    dtype: str = "float32"

    @field_validator("dtype")
    @classmethod
    def _known(cls, value: str) -> str:
        import numpy as np

        try:
            return np.dtype(value).name
        except TypeError:
            raise ValueError(f"{value!r} is not a numpy dtype, float32 say") from None

    @field_validator("shape")
    @classmethod
    def _positive(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if any(isinstance(size, int) and size < 1 for size in value):
            raise ValueError(f"{list(value)} has a size below 1; name an axis to leave it open")
        return value


class Axis(Table):
    """The sizes of a dynamic axis: engines are measured at `best`, and must hold from `min` to `max`."""

    min: int = Field(default=1, ge=1)
    best: int = Field(default=1, ge=1)
    max: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Axis":
        if not self.min <= self.best <= self.max:
            raise ValueError(f"min {self.min}, best {self.best}, max {self.max} are not in this order")
        return self


class Model(Table):
    """[model]: `path` is an .onnx file, `entry` is file.py:callable.

    Attributes:
        states: input to the output that gives what the next call takes.
        fixed: input of an ONNX file to the number that it always gets.
    """

    source: str | None = None
    path: str | None = None
    entry: str | None = None
    weights: str | None = None
    trust: bool = False
    threads: int | None = Field(default=None, ge=1)
    inputs: dict[str, Input] = Field(default_factory=dict)
    axes: dict[str, Axis] = Field(default_factory=dict)
    states: dict[str, str] = Field(default_factory=dict)
    fixed: dict[str, float] = Field(default_factory=dict)


class Data(Table):
    """[data]: `path` is an .npz file, `entry` is file.py:callable; `check` refuses what no step should calibrate on.

    `damaged` is the share of samples that may be left out because they cannot be read.
    """

    source: str | None = None
    path: str | None = None
    entry: str | None = None
    metric: str | None = None
    better: Literal["higher", "lower"] | None = None
    check: bool = True
    damaged: float = Field(default=0.05, ge=0, le=1)


class Pre(Table):
    """[[pre]]: what makes inputs of raw samples; its further keys are those of its kind in `runtime.pre`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    columns: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> "Pre":
        pre.settings(self.kind, {key: value for key, value in self.own.items() if key not in pre.files(self.kind)})
        return self

    @property
    def own(self) -> dict[str, Any]:
        """The settings of its kind."""
        return dict(self.model_extra or {})

    def spec(self, resolve: Callable[[str], str]) -> PreSpec:
        """In plain values, its files' paths absolute."""
        roles = pre.files(self.kind)
        files = {key: resolve(str(value)) for key, value in self.own.items() if key in roles}
        return PreSpec(self.kind, self.columns, {k: v for k, v in self.own.items() if k not in roles}, files)


class Constraints(Table):
    """[constraints]: `max_drop` in the metric's unit, or "0.5pp", or "1%" of the original's value.

    Further limits, any mixture: milliseconds of a call at a percentile (which the objective latency goes by too),
    samples a second, the engine's size and its resident memory.
    """

    max_drop: float | str = "1pp"
    objective: Objective = "latency"
    max_latency_ms: float | None = Field(default=None, gt=0)
    percentile: Literal[50, 90, 99] = 50
    min_throughput: float | None = Field(default=None, gt=0)
    max_size_mib: float | None = Field(default=None, gt=0)
    max_memory_mib: float | None = Field(default=None, gt=0)

    @field_validator("max_drop", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> float | str:
        allowed_drop(value, 1.0)
        return value if isinstance(value, str) else float(value)


class Measure(Table):
    """[measure]: seconds for a pair, before which a measurement goes on until it is precise; seed of the orders."""

    budget: float = Field(default=10.0, gt=0)
    seed: int = 0


class Search(Table):
    """[search]: patterns of candidates' names, which alone, or which not, are to be made.

    What is called like a pattern of `redo` is made again, whatever lies in the cache.
    A target's plain model and its vendor's default are always there, for comparison. `time`, in seconds or as "30m",
    ends the search; what was found until then is chosen from, and measured as always. `settings`: whether the best of
    each target is tried with other threads and sizes too; by default where the steps are "auto". `quick`: "auto" is
    int8 in the one way that mostly holds, with no settings tried and one look at all. `trials`: in how many ways "auto"
    prunes where that is possible: two that are always the same, unless this is less; more are searched, as they are
    with a `time`.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    redo: tuple[str, ...] = ()
    time: float | None = Field(default=None, gt=0)
    settings: bool | None = None
    quick: bool = False
    trials: int | None = Field(default=None, ge=0)

    @field_validator("time", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found = _TIME.match(value)
        if not found:
            raise ValueError(f'{value!r} is no time: give seconds, or "90s", "30m", "2h"')
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2] or "s"]


class Limits(Table):
    """[limits]: of one candidate's compiling and first answer; a candidate that goes over them has failed."""

    seconds: float = Field(default=1800.0, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)


class Device(Table):
    """[device]: what the device has, in MiB: limits of size and memory; `optimize plan` says what does not fit."""

    flash_mib: float | None = Field(default=None, gt=0)
    ram_mib: float | None = Field(default=None, gt=0)


class BundleTable(Table):
    """[bundle]: how many real samples travel in it, with each engine's answers, to be compared on the device."""

    golden: int = Field(default=4, ge=0, le=64)


def allowed_drop(value: float | str, original: float) -> float:
    """The largest drop in the metric's unit: 0.005, "0.5pp" or "1%" of the original's value.

    Raises:
        ValueError: it is none of these, or negative.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number, unit = float(value), None
    else:
        found = _DROP.match(str(value))
        if not found:
            raise ValueError(f'{value!r} is not a drop: give 0.005, "0.5pp" or "1%"')
        number, unit = float(found[1]), found[2]
    if not 0 <= number < float("inf"):
        raise ValueError(f"{value!r} is not a drop: it must be 0 or more")
    return number / 100 * (abs(original) if unit == "%" else 1.0) if unit else number
