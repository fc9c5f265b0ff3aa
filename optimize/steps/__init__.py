"""One file a technique, each with one class `Step`; look-up lists this folder.

A step is a frozen settings model: its fields are the TOML keys and what the report records. Calling it turns a model
into another; the annotations of `__call__` say of which kind, so that a wrong order is refused before any work. No
step runs an engine: what must be judged on one is made into candidates.
"""

import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from optimize.data import Split
from optimize.models import Axes, OnnxModel, TorchModel
from runtime import listing
from runtime.errors import InputError
from targets import Scheme


class Settings(BaseModel):
    """What every step's settings share.

    Attributes:
        exact: the result computes the same as before, within rounding; the runner checks it.
        last: nothing comes after it, since what it gives is no longer what the layers gave.
        trains: what it gives has seen the labels of calibrate, or may have: its accuracy there proves nothing.
        label: what a candidate's name says of this step; empty for steps that each candidate has.
        heeds: the fields of the target's scheme that the result depends on; the step sees no others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    exact: ClassVar[bool] = False
    last: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    label: ClassVar[str] = ""
    heeds: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: Any, context: "Context") -> Any:
        """Turn a model into another, its files in `context.folder`; raises StepError or InputError."""
        raise TypeError(f"{type(self).__module__} has no step")

    def ways(self) -> "tuple[Settings, ...]":
        """The settings that these stand for, each a candidate; most stand for themselves."""
        return (self,)

    def unfit(self, scheme: Scheme) -> str:
        """Why a target of this scheme does not run what this step gives; empty where it does."""
        return ""

    def heeded(self, scheme: Scheme, kinds: Collection[str] | None) -> Scheme:
        """What this step looks at of a target's scheme, the rest by default: alike for targets that it is all one to.

        Of the ops those of the model's `kinds`, all where these are not known.
        """
        fields = {name: getattr(scheme, name) for name in self.heeds}
        ops = sorted(op for op in fields.pop("ops", ()) if kinds is None or op in kinds)
        return Scheme(ops=tuple(ops), **fields)

    def title(self) -> str:
        """What a candidate's name says of these settings: the step's label, and what is not its default."""
        return self.label

    def amount(self) -> str:
        """How much of it, for a name that is to tell two settings apart; empty where that is no matter of degree."""
        return ""

    def check_order(self, before: "tuple[Settings, ...]", after: "tuple[Settings, ...]") -> None:
        """Raise InputError where this step makes no sense between these."""

    def check_targets(self, names: Collection[str]) -> None:
        """Raise InputError where this step speaks of a target that is none of the recipe's."""

    def resolved(self, resolve: Callable[[str], str]) -> "Settings":
        """With the paths in it made absolute, which a recipe has relative to its own folder."""
        return self


@dataclass(frozen=True)
class Context:
    """What a step may look at.

    Attributes:
        calibrate: the split that steps may look at and train on, with the model's names and dtypes.
        axes: named axis to `min`, `best`, `max`.
        scheme: the target's.
        folder: an empty one for the step's files.
        notes: what the step wants said in the report; it appends.
        original: the unpruned model that recovery learns from, never changed: the original, or what an earlier recovery
            made of it; None where the source is no torch model.
        unrounded: the latest ONNX model before a step that rounds; None before there is one.
        validate: for early stopping in `recover`; no other step may look at it.
        progress: told how many of how many are done, and of what.
    """

    calibrate: Split
    axes: Axes
    scheme: Scheme
    folder: Path
    notes: list[str] = field(default_factory=list)
    original: TorchModel | None = None
    unrounded: OnnxModel | None = None
    validate: Split | None = None
    progress: Callable[[int, int, str], None] = lambda done, total, what: None


def get(name: str) -> type[Settings]:
    """The step of this name.

    Raises:
        InputError: there is none.
    """
    step: type[Settings] = listing.get(__name__, name, "step").Step
    return step


def names() -> list[str]:
    """All steps."""
    return listing.names(__name__)


def name_of(step: Settings) -> str:
    """The file's name, which is the key."""
    return type(step).__module__.rpartition(".")[2]


def takes(step: Settings) -> type:
    """The kind of model that a step takes."""
    return _kinds(step)[0]


def gives(step: Settings) -> type:
    """The kind of model that a step returns."""
    return _kinds(step)[1]


def behind(steps: Sequence[Settings], *more: Settings) -> tuple[Settings, ...]:
    """Steps with others after them, but before the one that is last."""
    body = tuple(step for step in steps if not step.last)
    return (*body, *more, *steps[len(body) :])


def complete(steps: Sequence[Settings], source_kind: type) -> tuple[Settings, ...]:
    """The steps with `export` put in where torch ends, and `simplify` after it, unless they are named already.

    Raises:
        InputError: a step does not take what the one before it gives, or makes no sense where it stands.
    """
    for place, step in enumerate(steps):
        step.check_order(tuple(steps[:place]), tuple(steps[place + 1 :]))
    listed = {name_of(step) for step in steps}
    done: list[Settings] = []
    kind = source_kind

    def to_onnx() -> None:
        nonlocal kind
        if kind is TorchModel:
            done.append(get("export")())
            kind = OnnxModel
        if "simplify" not in listed:
            done.append(get("simplify")())

    cleaned = False
    for step in steps:
        if takes(step) is OnnxModel and name_of(step) != "simplify" and not cleaned:
            to_onnx()
            cleaned = True
        elif takes(step) is OnnxModel and kind is TorchModel:
            done.append(get("export")())
            kind = OnnxModel
        if takes(step) is not kind:
            before = name_of(done[-1]) if done else "the source"
            raise InputError(
                f"the step '{name_of(step)}' takes {_words(takes(step))}, but {before} gives {_words(kind)}; "
                "put the steps on the torch model before `export`, those on the ONNX file after it."
            )
        done.append(step)
        kind = gives(step)
    if not cleaned:
        to_onnx()
    return tuple(done)


def _kinds(step: Settings) -> tuple[type, type]:
    hints = typing.get_type_hints(type(step).__call__)
    return hints["model"], hints["return"]


def _words(kind: type) -> str:
    return "a torch model" if kind is TorchModel else "an ONNX file"
