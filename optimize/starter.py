"""`optimize init`: a commented recipe to edit, and the recipe's JSON schema for editors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimize import data as data_folder
from optimize import flags, sources, steps
from optimize.data import infer_inputs
from optimize.models import read_onnx
from optimize.recipe import Recipe
from optimize.sources._exported import is_program
from runtime.errors import InputError
from runtime.tensors import TensorSpec


def write(
    model: str | None, data: str | None, weights: str | None, out: Path, states: Sequence[str] = (),
    fixed: Sequence[str] = (),
) -> str:  # fmt: skip
    """Write a recipe for a model; returns what to do next.

    Raises:
        InputError: no model was named, it or the data is not there, or the file exists.
    """
    if model is None:
        raise InputError("which model? optimize init model.onnx, or optimize init model.py:build --data data.npz")
    if out.exists():
        raise InputError(f"{out} exists; it was left as it is. Choose another with --out.")
    source = sources.detect(model)
    inputs: tuple[TensorSpec, ...] = ()
    if source == "onnx":
        inputs = read_onnx(Path(model)).specs.inputs
    elif data and not Path(model).is_dir():  # a folder says itself what it takes
        inputs = infer_inputs(data_folder.load(data_folder.detect(data), data).calibrate.take(1))
    out.parent.mkdir(parents=True, exist_ok=True)
    inner: dict[str, Mapping[str, object]] = {
        "states": flags.pairs("--state", states),
        "fixed": flags.numbers("--fix", fixed),
    }
    out.write_text(_text(source, model, data, weights, inputs, out.parent, inner), encoding="utf-8")
    return f"{out} is written; edit it, then: optimize run {out}"


def schema() -> str:
    """The recipe's JSON schema, with every step's settings."""
    found = Recipe.model_json_schema()
    each = []
    for name in steps.names():
        step = steps.get(name).model_json_schema()
        each.append({**step, "properties": {"use": {"const": name}, **step.get("properties", {})}, "required": ["use"]})
    found["properties"]["steps"] = {"type": "array", "items": {"anyOf": each}}
    found["properties"].pop("folder", None)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=1)


def _text(
    source: str, model: str, data: str | None, weights: str | None, inputs: tuple[TensorSpec, ...], folder: Path,
    inner: Mapping[str, Mapping[str, object]],
) -> str:  # fmt: skip
    def place(value: str) -> str:
        """Relative to the recipe, where it lies below it."""
        path = Path(value).absolute()
        return _quoted(str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path))

    lines = ["# What `optimize run` does. Paths are relative to this file.", "", "[model]"]
    code = ".py:" in model
    lines.append(f"entry = {place(model)} # returns the nn.Module" if code else f"path = {place(model)}")
    if is_program(model):
        lines.append("# trust = true # it holds pickles and code: where you know whose it is")
    if source == "torch" and code:
        lines.append(f"weights = {place(weights)}" if weights else '# weights = "weights.pth" # or .safetensors')
    if inputs and source == "torch":
        for spec in inputs:
            lines += ["", f"[model.inputs.{spec.name}] # in the order of forward's arguments; a word is a dynamic axis"]
            lines += [f"shape = {json.dumps(list(spec.shape))}", f"dtype = {_quoted(spec.dtype)}"]
    elif source == "torch":
        lines += ["", "# [model.inputs.image] # left out, it is told from the data", '# shape = ["batch", 3, 32, 32]']
    axes = dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str))
    if axes:
        lines += ["", "[model.axes] # latency is measured at best; engines must hold from min to max"]
        lines += [f"{name} = {{ min = 1, best = 1, max = 16 }}" for name in axes]
    for table, told in inner.items():
        lines += ["", f"[model.{table}]"] if told else []
        lines += [f"{_quoted(name)} = {json.dumps(value)}" for name, value in told.items()]
    lines += ["", "[data]"]
    key = "entry" if data and ".py:" in data else "path"
    lines.append(f"{key} = {place(data)}" if data else 'path = "data.npz" # x and y; or entry = "data.py:splits"')
    lines += [
        '# metric = "accuracy" # or top5, mse, mae, "metric.py:function"; left out, told from the labels',
        "",
        "[[steps]] # export and simplify come by themselves",
        'use = "quantize_static"',
        *(f"# {field} = {_default(value)}" for field, value in steps.get("quantize_static")().model_dump().items()),
        "",
        "[targets.openvino]",
        "[targets.onnxruntime]",
        '# cpu = "host" # the processor deployed on: host, avx2, vnni or arm',
        "",
        "[constraints]",
        'max_drop = "1pp" # 0.01 in the metric\'s unit, or "1%" of the original\'s value',
        'objective = "latency" # or size, memory, throughput',
        "",
        "[measure]",
        "budget = 20 # seconds a pair; a comparison never ends before its eight rounds",
        "",
    ]
    return "\n".join(lines)


def _default(value: Any) -> str:
    return "{}" if value == {} else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text)
