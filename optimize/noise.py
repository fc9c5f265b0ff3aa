"""Where a model's accuracy went: the signal-to-noise ratio of every layer, before rounding against after it.

Both graphs run as one, and only a scalar a layer leaves it: memory holds one batch, whatever the number of layers.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimize.data import Split
from optimize.models import OnnxModel
from optimize.report import LayerNoise
from optimize.steps._graph import converted, opset_of
from optimize.steps._probes import Probes
from runtime.errors import StepError

AFTER = "after/"
LARGEST_DB = 120.0  # equal to the last bit, or nearly
_ROUNDING = {"QuantizeLinear", "DequantizeLinear", "Cast", "DynamicQuantizeLinear"}
_NUMBERS = ("tensor(float)", "tensor(float16)")


def by_layer(before: OnnxModel, after: OnnxModel, split: Split, samples: int, folder: Path) -> list[LayerNoise]:
    """Every layer whose output both graphs have under one name, the one that adds most noise first.

    Args:
        before: in full precision.
        after: the same graph with rounding in it, its tensors' names kept.
        split: of calibration data; its first samples are used.
        samples: how many.
        folder: for what is temporary.

    Raises:
        StepError: the two do not run together.
    """
    import onnx
    from onnx import compose

    first, second = onnx.load(before.path), onnx.load(after.path)
    if opset_of(first) < opset_of(second):  # it was raised before it was rounded
        first = converted(first, opset_of(second))
    inputs = {value.name for value in first.graph.input} - {tensor.name for tensor in first.graph.initializer}
    second = compose.add_prefix(second, AFTER, rename_inputs=False)
    known = {name for node in second.graph.node for name in node.output}
    joined = onnx.ModelProto()
    joined.CopyFrom(first)
    joined.graph.node.extend(_fed(second.graph.node, inputs))
    joined.graph.initializer.extend(second.graph.initializer)
    versions = {opset.domain: opset.version for model in (second, first) for opset in model.opset_import}
    for opset in second.opset_import:
        if versions[opset.domain] != opset.version:
            raise StepError(f"the graphs are of opset {versions[opset.domain]} and {opset.version}")
    del joined.opset_import[:]
    joined.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    real = _real(joined, folder)
    rounded = _rounded(second.graph.node)
    probes = Probes(joined)
    asked: dict[str, tuple[str, str]] = {}
    for node in first.graph.node:
        name = node.output[0] if node.output else ""
        seen = rounded.get(AFTER + name, AFTER + name)
        if node.op_type in _ROUNDING or seen not in known or name not in real or seen not in real:
            continue
        a, b = (probes.node("Cast", [one], to=onnx.TensorProto.FLOAT) for one in (name, seen))
        signal = probes.ask(probes.node("ReduceSumSquare", [a], keepdims=0))
        noise = probes.ask(probes.node("ReduceSumSquare", [probes.node("Sub", [a, b])], keepdims=0))
        asked[name] = (signal, noise)
    sums = probes.answer(split, before.specs, samples, folder, np.add)
    # where the original has infinity itself, a mask's say, there is nothing to compare
    ratios = {
        name: _decibels(sums[signal], sums[noise])
        for name, (signal, noise) in asked.items()
        if math.isfinite(sums[signal])
    }
    return _ranked(first.graph.node, ratios, real)


def _rounded(nodes: Sequence[Any]) -> dict[str, str]:
    """By tensor, what others see of it: its quantized and dequantized value, which stands for a removed Relu too."""
    back = {node.input[0]: node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    pairs = ((node.input[0], back.get(node.output[0])) for node in nodes if node.op_type == "QuantizeLinear")
    return {tensor: seen for tensor, seen in pairs if seen}


def _fed(nodes: Sequence[Any], inputs: set[str]) -> Sequence[Any]:
    """Nodes that read the inputs under the names that both graphs share."""
    for node in nodes:
        for index, name in enumerate(node.input):
            if name.removeprefix(AFTER) in inputs:
                node.input[index] = name.removeprefix(AFTER)
    return nodes


def _real(proto: Any, folder: Path) -> set[str]:
    """The tensors that hold floating-point numbers."""
    from optimize.steps._probes import types

    return {name for name, kind in types(proto, folder).items() if kind in _NUMBERS}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return LARGEST_DB
    if signal == 0 or not math.isfinite(noise):
        return -LARGEST_DB
    return max(-LARGEST_DB, min(LARGEST_DB, 10 * math.log10(signal / noise)))


def _ranked(nodes: Sequence[Any], ratios: dict[str, float], real: set[str]) -> list[LayerNoise]:
    """Each layer, the one that adds most noise first; a tensor that rounding fused away belongs to the next layer."""
    level = dict(ratios)
    within: dict[str, list[Any]] = {}  # by tensor that was fused away, the nodes that made it
    found = []
    for node in nodes:
        fed = [name for name in node.input if name in level]
        before = min((level[name] for name in fed), default=LARGEST_DB)
        made = [*(inner for name in fed for inner in within.get(name, ())), node]
        for name in node.output:
            if name in ratios:
                title = " + ".join(one.name or one.output[0] for one in made)
                ops = " + ".join(one.op_type for one in made)
                found.append(LayerNoise(name=title, op=ops, before_db=before, sqnr_db=ratios[name]))
            elif name in real:
                level[name], within[name] = before, made
    return sorted(found, key=lambda one: -one.added)
