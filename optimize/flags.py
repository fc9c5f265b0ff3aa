"""The command line's flags as a recipe, and `optimize export`, which needs no recipe."""

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import targets as target_folder
from optimize import recipe, sources
from optimize.data import NAMES, Split, from_arrays
from optimize.folder import LOG, chatter_to
from optimize.models import TorchModel, write_onnx
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.sources import ModelSpec, Original
from optimize.steps import Context
from optimize.subject import read_data
from runtime.engines import onnx_files
from runtime.errors import InputError
from runtime.tensors import TensorSpec
from targets import Scheme

AXIS = {"min": 1, "best": 1, "max": 16}
_SHAPE = re.compile(r"^(?:(?P<name>[^=:,]+)=)?(?P<sizes>[^=:]+)(?::(?P<dtype>\w+))?$")


def to_recipe(
    model: str, *, data: str | Path | None = None, targets: Sequence[str] = (), metric: str | None = None,
    better: str | None = None, weights: str | Path | None = None, shape: Sequence[str] = (),
    max_drop: float | str | None = None, objective: str | None = None, trust: bool = False,
    states: Sequence[str] = (), fixed: Sequence[str] = (), changes: Sequence[str] = (),
) -> Recipe:  # fmt: skip
    """What `optimize run MODEL --data DATA ...` asks for: the best on every target named, or on all that build here.

    Raises:
        InputError: as `recipe.from_table`, or there is no data.
    """
    if not data:
        raise InputError(f"which data? optimize run {model} --data data.npz (or --data file.py:callable)")
    inputs = {spec.name: {"shape": list(spec.shape), "dtype": spec.dtype} for spec in shapes(shape)}
    axes = {size for one in inputs.values() for size in one["shape"] if isinstance(size, str)}
    buildable = (name for name in target_folder.names() if target_folder.get(name).why_not() is None)
    wanted = targets or [name for name in buildable if name != "reference"]
    if not wanted:
        raise InputError("no target can be built here: pip install 'edge-optimize[all]', or see `optimize doctor`.")
    limits = {"max_drop": max_drop, "objective": objective}
    table: dict[str, Any] = {
        "model": {
            _key(model): model,
            "weights": str(weights) if weights else None,
            "trust": trust,
            "inputs": inputs,
            "axes": {name: dict(AXIS) for name in axes},
            "states": pairs("--state", states),
            "fixed": numbers("--fix", fixed),
        },
        "data": {_key(str(data)): str(data), "metric": metric, "better": better},
        "steps": "auto",
        "targets": {name: {} for name in wanted},
        "constraints": {key: value for key, value in limits.items() if value is not None},
    }
    for change in changes:
        recipe.change(table, change)
    return recipe.from_table(table, Path())


def asked_for(what: str | Path | Recipe | None, changes: Sequence[str], flags: Mapping[str, Any]) -> Recipe:
    """A recipe, the one at a path, or what a model with flags stands for.

    Raises:
        InputError: as `recipe.load` and `to_recipe`; there is nothing, or a recipe has flags beside it.
    """
    if what is None:
        raise InputError("which model? Give a recipe, a model, or --locked DIR/recipe.lock.")
    given = {name: value for name, value in flags.items() if value}
    if not isinstance(what, Recipe) and not str(what).endswith(".toml"):
        return to_recipe(str(what), changes=changes, **given)
    if given:
        raise InputError(f"{named(given)} with a recipe: write it there, or use --set KEY=VALUE.")
    return what if isinstance(what, Recipe) else recipe.load(Path(what), changes)


def named(flags: Iterable[str]) -> str:
    """Flags as they are written on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in flags)


def shapes(texts: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Inputs from `--shape`: "batch,3,32,32", "image=batch,3,32,32" or "ids=batch,length:int64".

    Raises:
        InputError: it is not of that form.
    """
    found = []
    for index, text in enumerate(texts):
        match = _SHAPE.match(text.strip())
        sizes = [size.strip() for size in match["sizes"].split(",")] if match else []
        if not match or not all((size.isdigit() and int(size) > 0) or size.isidentifier() for size in sizes):
            raise InputError(
                f"--shape {text}: give batch,3,32,32 or NAME=batch,3,32,32:dtype; a word is a dynamic axis."
            )
        try:
            dtype = np.dtype(match["dtype"] or "float32").name
        except TypeError as error:
            raise InputError(f"--shape {text}: '{match['dtype']}' is not a numpy dtype.") from error
        name = match["name"] or ("input" if len(texts) == 1 else f"input_{index}")
        found.append(TensorSpec(name, dtype, tuple(int(size) if size.isdigit() else size for size in sizes)))
    return tuple(found)


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=WORD, of a flag that may be repeated.

    Raises:
        InputError: it is not of that form, or names one twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, word = (part.strip() for part in text.partition("="))
        if not name or not word or name in found:
            raise InputError(f"{flag} takes NAME=WORD, each name once; got '{text}'.")
        found[name] = word
    return found


def numbers(flag: str, texts: Sequence[str]) -> dict[str, float]:
    """NAME=NUMBER likewise."""
    try:
        return {name: float(word) for name, word in pairs(flag, texts).items()}
    except ValueError as error:
        raise InputError(f"{flag} takes NAME=NUMBER: {error}") from error


def random_feeds(inputs: Sequence[TensorSpec], batch: int) -> dict[str, Any]:
    """Normal numbers for floats, zeros and ones for whole numbers; every named axis is `batch` long."""
    random = np.random.default_rng(0)
    feeds = {}
    for spec in inputs:
        shape = tuple(size if isinstance(size, int) else batch for size in spec.shape)
        whole = np.dtype(spec.dtype).kind in "biu"
        feeds[spec.name] = (random.integers(0, 2, shape) if whole else random.standard_normal(shape)).astype(spec.dtype)
    return feeds


def export(
    model: str, out: Path, data: str | None, weights: str | None, shape: Sequence[str], opset: int, trust: bool
) -> dict[str, Any]:
    """Export a torch model and verify the file on real data, or on random numbers where there is none.

    Raises:
        InputError: there is neither a shape nor data, or the model cannot be loaded.
        StepError: no exporter takes it, or the file differs from torch.
    """
    from optimize.steps.export import Step

    source = sources.detect(model)
    if sources.gives(source) is not TorchModel:
        raise InputError(
            f"{model} is a model of the source '{source}'; export takes file.py:callable, a program of torch's, or a "
            "folder of transformers."
        )
    loaded = sources.load(ModelSpec(source, model, weights, shapes(shape), trust))
    split, inputs = _calibration(data, loaded)
    axes = {size: dict(AXIS) for spec in inputs for size in spec.shape if isinstance(size, str)}
    with tempfile.TemporaryDirectory() as folder, chatter_to(Path(folder) / LOG):
        context = Context(split, axes, Scheme(ops=()), Path(folder))
        assert not isinstance(loaded.model, Path)  # the source is torch
        made = Step(opset=opset)(TorchModel(loaded.model, inputs, file=loaded.file), context)
        out.parent.mkdir(parents=True, exist_ok=True)
        _place(made.path, out)
    return {
        "onnx": str(out.absolute()),
        "inputs": [str(spec) for spec in made.specs.inputs],
        "outputs": [str(spec) for spec in made.specs.outputs],
        "size_bytes": sum(part.stat().st_size for part in onnx_files(out).values()),
        "notes": [*loaded.notes, *context.notes, f"verified on {data or 'random numbers, since no --data was given'}"],
    }


def _key(place: str) -> str:
    return "entry" if ".py:" in place else "path"


def _calibration(data: str | None, loaded: Original) -> tuple[Split, tuple[TensorSpec, ...]]:
    """Real samples where there are any, and the inputs, which may follow from them."""
    inputs = loaded.inputs
    if data is None:
        if not inputs:
            raise InputError("which inputs? Give --shape batch,3,32,32, or --data to tell them from.")
        feeds = random_feeds(inputs, AXIS["max"])
        return from_arrays(dict.fromkeys(NAMES, feeds), "random numbers").calibrate, inputs
    inputs, material = read_data(data, None, None, None, inputs, Progress(1, silent=True), loaded.pre)
    return material.splits.calibrate, inputs


def _place(made: Path, out: Path) -> Path:
    """Put an ONNX file where the user wants it, whole or not at all; its external data follows its name."""
    import onnx

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        write_onnx(onnx.load(made), Path(folder) / out.name)
        for part in onnx_files(Path(folder) / out.name).values():
            part.replace(out.parent / part.name)
    return out
