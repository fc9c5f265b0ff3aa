"""What the user asks for: a TOML file, or flags that make the same thing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tomllib
from pydantic import BaseModel, Field, ValidationError, field_validator

import targets as target_folder
from optimize import sources, steps
from optimize.models import TorchModel
from optimize.sources import ModelSpec
from optimize.sources._exported import is_program
from optimize.steps import Settings
from optimize.tables import (
    BundleTable,
    Constraints,
    Data,
    Device,
    Limits,
    Measure,
    Model,
    Pre,
    Search,
    Table,
)
from runtime import listing
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec


class Recipe(Table):
    """All that a run needs to know; paths in it are relative to `folder`."""

    folder: Path = Field(default=Path(), exclude=True)
    model: Model
    data: Data
    pre: tuple[Pre, ...] = ()
    steps: tuple[Any, ...] | Literal["auto"] = ()
    targets: dict[str, dict[str, Any]] = Field(min_length=1)
    constraints: Constraints = Constraints()
    measure: Measure = Measure()
    search: Search = Search()
    limits: Limits = Limits()
    bundle: BundleTable = BundleTable()
    device: Device = Device()

    @field_validator("steps", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> tuple[Settings, ...] | Literal["auto"]:
        if value == "auto":
            return "auto"
        if not isinstance(value, (list, tuple)):
            raise ValueError('it is a list of tables, [[steps]], or "auto": what is worth a try for this model')
        return tuple(_step(table) for table in value)

    @field_validator("targets")
    @classmethod
    def _targets(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, options in value.items():
            target_folder.get(name).engine_options(options)
        return value

    def model_spec(self) -> ModelSpec:
        """The model in plain values."""
        model = self.model
        given = _place("model", model)
        source = model.source or sources.detect(self._resolve(given))
        return ModelSpec(
            source=source,
            place=sources.resolved(source, given, self._resolve),
            weights=self._resolve(model.weights) if model.weights else None,
            inputs=tuple(TensorSpec(name, one.dtype, one.shape) for name, one in model.inputs.items()),
            trust=model.trust,
            threads=model.threads,
            states=model.states,
            fixed=model.fixed,
        )

    def data_place(self) -> str:
        """A path, or file.py:callable."""
        return self._resolve(_place("data", self.data))

    def preprocessing(self) -> tuple[PreSpec, ...]:
        """What makes inputs of raw samples."""
        return tuple(one.spec(self._resolve) for one in self.pre)

    def metric(self) -> str | None:
        """A metric's name, or file.py:function; None where the data decides."""
        name = self.data.metric
        return self._resolve(name) if name and ":" in name else name

    def all_steps(self) -> tuple[Settings, ...]:
        """The steps with export and simplify put in, paths absolute; raises InputError for an order that cannot be.

        Of "auto" these are but the exact ones; what else there is `automatic.lists` tells.
        """
        return self.whole(() if self.steps == "auto" else self.steps)

    def is_program(self) -> bool:
        """The model is a program that torch wrote, which cannot be changed nor trained."""
        place = self._resolve(_place("model", self.model))
        return (self.model.source or sources.detect(place)) == "torch" and is_program(place)

    def whole(self, listed: Sequence[Settings]) -> tuple[Settings, ...]:
        """Steps with those that come by themselves for this model, paths absolute.

        Raises:
            InputError: they cannot be in this order, or not of this model.
        """
        place = self._resolve(_place("model", self.model))
        source = self.model.source or sources.detect(place)
        for step in listed:
            step.check_targets(self.targets)
        listed = [step.resolved(self._resolve) for step in listed]
        found = steps.complete(listed, sources.gives(source))
        fixed = self.is_program()
        if unfit := [steps.name_of(step) for step in found if fixed and steps.gives(step) is TorchModel]:
            raise InputError(
                f"the step '{unfit[0]}' changes a torch module, and {place} is a program, which cannot be changed nor "
                "trained: give the code that builds the module (file.py:callable), or leave the step out."
            )
        model = self.model
        if source == "onnx" and (model.fixed or model.inputs or model.states):
            shapes = {name: one.shape for name, one in model.inputs.items()}
            fix = {"values": model.fixed, "shapes": shapes, "behind": tuple(model.states)}
            return (steps.get("fix_inputs").model_validate(fix), *found)
        return found

    def tunes(self) -> bool:
        """Whether the settings of engines are tried: asked for, or part of a search for what is best by time."""
        by_time = self.constraints.objective in ("latency", "throughput")
        searched = self.steps == "auto" and not self.search.quick
        return by_time and (searched if self.search.settings is None else self.search.settings)

    def looks_once(self) -> bool:
        """Whether the first look at the latencies is the last, and nothing is told of why: of a quick run it is."""
        return self.search.quick and not self.tunes()

    def plain(self) -> dict[str, Any]:
        """As JSON values, the steps with their names."""
        data = self.model_dump(mode="json", exclude={"steps"}, exclude_none=True)
        if self.steps == "auto":
            return {**data, "steps": "auto"}
        return {**data, "steps": [{"use": steps.name_of(s), **s.model_dump(mode="json")} for s in self.steps]}

    def _resolve(self, place: str) -> str:
        return str((self.folder / place).absolute())


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe; `changes` are KEY=VALUE as the command line's --set has them.

    Raises:
        InputError: no such file, not TOML, or a key or value that cannot be; the nearest key is named.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    for one in changes:
        change(table, one)
    return from_table(table, path.parent)


def from_table(table: Mapping[str, Any], folder: Path) -> Recipe:
    """Check a recipe whose paths are relative to `folder`.

    Raises:
        InputError: as `load`.
    """
    try:
        recipe = Recipe.model_validate({**table, "folder": folder})
    except ValidationError as error:
        raise InputError(_explain(error)) from error
    recipe.all_steps()
    for name, one in recipe.model.axes.items() if recipe.model_spec().source != "onnx" else ():
        known = {size for spec in recipe.model.inputs.values() for size in spec.shape if isinstance(size, str)}
        if known and name not in known:
            raise InputError(f"[model.axes] {listing.unknown('axis', name, known)} ({one})")
    return recipe


def _step(table: Any) -> Settings:
    if isinstance(table, Settings):
        return table
    if not isinstance(table, Mapping) or not isinstance(table.get("use"), str):
        raise InputError(f'a step is a table with use = "..."; got {table!r}. Known: {", ".join(steps.names())}.')
    name = table["use"]
    try:
        return steps.get(name).model_validate({key: value for key, value in table.items() if key != "use"})
    except ValidationError as error:
        raise InputError(f"the step '{name}': {_explain(error, steps.get(name))}") from error


def _place(section: str, table: Model | Data) -> str:
    if (table.path is None) == (table.entry is None):
        raise InputError(f'[{section}] needs one of path = "file" and entry = "file.py:callable".')
    return str(table.path or table.entry)


def change(table: dict[str, Any], text: str) -> None:
    """Apply one KEY=VALUE to a recipe's table; a value is TOML, or a bare word.

    Raises:
        InputError: it is not of that form, or there is no such place.
    """
    key, sign, value_text = text.partition("=")
    if not sign or not key.strip():
        raise InputError(f"--set takes KEY=VALUE, constraints.max_drop=0.02 say; got '{text}'.")
    try:
        value = tomllib.loads(f"value = {value_text}")["value"]
    except tomllib.TOMLDecodeError:
        value = value_text  # a bare word is a string
    *parents, last = key.strip().split(".")
    place: Any = table
    for part in parents:
        if isinstance(place, list) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            place = None
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise InputError(f"--set {key}: there is no such place in the recipe.")


def _explain(error: ValidationError, root: type[BaseModel] = Recipe) -> str:
    """The first thing that is wrong, in one sentence; for an unknown key the nearest that there is."""
    first = error.errors()[0]
    *parents, last = first["loc"] or ("",)
    place = ".".join(map(str, first["loc"])) or "the recipe"
    if first["type"] == "extra_forbidden":
        known = _keys(root, parents)
        return listing.unknown(f"key in [{'.'.join(map(str, parents))}]" if parents else "key", str(last), known)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return f"{place}: {cause}"
    return f"{place} = {first['input']!r}: {first['msg']}" if first["type"] != "missing" else f"{place} is missing."


def _keys(model: Any, parents: Sequence[int | str]) -> list[str]:
    """The fields of the table at a place in the recipe."""
    for part in parents:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        else:  # dict[str, X]: any name leads to X
            model = model.__args__[-1]
    return (
        [name for name in model.model_fields if name != "folder"]
        if isinstance(model, type) and issubclass(model, BaseModel)
        else []
    )
