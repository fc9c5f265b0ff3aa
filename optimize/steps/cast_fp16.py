"""Cast a graph to fp16, and leave in float32 what real data shows to need it.

Not onnxruntime.transformers.float16: it changes neither opset nor Q/DQ scales (a QuantizeLinear before opset 19 takes
float32 alone), picks what stays by op and not by its values, and clips weights that do not fit without a word.
"""

import logging
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context, Settings
from optimize.steps._graph import matches, name_nodes, opset_of, raised
from optimize.steps._half import FP16, NO_HALF, HalfGraph, cast
from optimize.steps._probes import Probes, types
from runtime.errors import StepError

log = logging.getLogger(__name__)

WIDE = 2048  # a sum of more terms: above 2048 fp16 knows even numbers only, and each term may be lost
QDQ_OPSET = 19  # the first in which Q/DQ scales may be fp16
OLDEST_OPSET = 13
SHOWN = 8  # ops named in the notes

_MEANS = {"ReduceMean", "GlobalAveragePool", "AveragePool"}
_SUMS = {"ReduceSum", "ReduceL1"}
_SQUARES = {"ReduceL2", "ReduceSumSquare"}
_NORMS = {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization"}
_EXPONENTIALS = {"Softmax", "LogSoftmax"}


class Step(Settings):
    """Settings of the cast.

    Attributes:
        samples: of calibrate, from the beginning, for the range scan and the check after it.
        headroom: how many times larger values may be on other data than in the scan and still fit.
        keep_io: inputs and outputs stay float32; else they become float16, and whoever calls the model must know.
        exclude: patterns of node names (or op types) to leave in float32.
    """

    label: ClassVar[str] = "fp16"
    samples: int = Field(default=64, ge=1)
    headroom: float = Field(default=2.0, ge=1)
    keep_io: bool = True
    exclude: tuple[str, ...] = ()

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx in fp16.

        Raises:
            StepError: the model does not run, cannot be raised to the opset that Q/DQ in fp16 needs, or has an op that
                gives NaN or infinity in fp16; the op is named.
        """
        import onnx

        proto = onnx.load(model.path)
        if "tensor(float)" not in types(proto, context.folder).values():
            context.notes.append("no op of the model gives float32: it stays as it is")
            return write_onnx(proto, context.folder / "model.onnx")
        proto = _raised(proto, model, context)
        name_nodes(proto)
        graph = HalfGraph(proto, types(proto, context.folder))
        kept = graph.without_half() | graph.small_or_large_constants()
        kept |= {
            index: "excluded"
            for index, node in enumerate(proto.graph.node)
            if any(matches(node, pattern) for pattern in self.exclude)
        }
        kept = self._scan(graph, model, context) | kept
        graph.follow(kept, self.keep_io)
        cast(graph, kept, self.keep_io)
        written = write_onnx(proto, context.folder / "model.onnx")
        self._check(graph, model, written, context)
        context.notes.extend(_notes(graph, kept))
        return written

    def _scan(self, graph: HalfGraph, model: OnnxModel, context: Context) -> dict[int, str]:
        """Nodes that read or write a number, or add up to one, that is too large for fp16; with the reason."""
        probes = Probes(graph.proto)
        tensors = {name: probes.largest(name) for name in graph.floats if name not in graph.weights}
        sums = {index: asked for index, node in enumerate(graph.nodes) if (asked := _sum(probes, node, graph.floats))}
        found = probes.answer(context.calibrate, model.specs, self.samples, context.folder)
        limit = FP16.maximum / self.headroom
        kept: dict[int, str] = {}
        for index, node in enumerate(graph.nodes):
            values = [found[tensors[name]] for name in (*node.input, *node.output) if name in tensors]
            largest = max(values, key=lambda value: np.inf if np.isnan(value) else value, default=0.0)
            total, terms = (found[key] if key else 0.0 for key in sums.get(index, ("", "")))
            if not largest <= limit:
                kept[index] = f"values to {largest:.2g}"
            elif not total <= limit:
                kept[index] = f"adds up to {total:.2g}"
            elif terms > WIDE:
                kept[index] = f"sums of {terms:.0f} terms"
        return kept

    def _check(self, graph: HalfGraph, model: OnnxModel, written: OnnxModel, context: Context) -> None:
        """Raise StepError for the first op that gives NaN or infinity where it gave none in float32."""
        import onnx

        before, after = Probes(graph.before), Probes(onnx.load(written.path))
        asked = {name: (before.finite(name), after.finite(half)) for name, half in graph.halved.items()}
        was = before.answer(context.calibrate, model.specs, self.samples, context.folder)
        now = after.answer(context.calibrate, written.specs, self.samples, context.folder)
        for node in graph.nodes:
            for name in node.output:
                if name in asked and np.isnan(now[asked[name][1]]) and not np.isnan(was[asked[name][0]]):
                    raise StepError(
                        f"'{node.name}' ({node.op_type}) gives NaN or infinity in fp16 on calibration data; leave it "
                        f"in float32: exclude = ['{node.name}']"
                    )


def _sum(probes: Probes, node: Any, floats: Any) -> tuple[str, str] | None:
    """Ask how large a sum an op adds up, and of how many terms; no key where the sum cannot be large."""
    if not node.input or node.input[0] not in floats:
        return None
    x, op = node.input[0], node.op_type
    attributes = {attribute.name: attribute for attribute in node.attribute}

    def terms(whole: str, rest: str) -> str:
        return probes.node("Div", [probes.node("Size", [whole]), probes.node("Size", [rest])])

    def rows(whole: str, axis: int) -> str:
        """Sums over the second half of the axes, from `axis`."""
        return probes.node("ReduceSum", [probes.node("Flatten", [whole], axis=axis), probes.numbers([1])], keepdims=0)

    if op in _MEANS | _SUMS:
        total = probes.copy(node, probes.node("Abs", [x]), op)
        count = terms(x, total)
        if op == "AveragePool":  # its windows overlap
            count = probes.numbers([int(np.prod(attributes["kernel_shape"].ints))])
        if op in _MEANS:
            total = probes.node("Mul", [total, probes.node("Cast", [count], to=1)])
    elif op in _SQUARES:
        total = probes.copy(node, x, "ReduceSumSquare")
        count = terms(x, total)
    elif op in _NORMS:
        squares = probes.node("Mul", [x, x])
        axis = attributes["axis"].i if "axis" in attributes else -1
        if op == "GroupNormalization":
            squares = probes.node("Reshape", [squares, probes.numbers([0, attributes["num_groups"].i, -1])])
        total = rows(squares, axis if op in ("LayerNormalization", "RMSNormalization") else 2)
        count = terms(x, total)
    elif op in _EXPONENTIALS:
        axes = probes.numbers([attributes["axis"].i if "axis" in attributes else -1])
        return "", probes.largest(terms(x, probes.node("ReduceSum", [x, axes])))  # the terms are at most 1
    else:
        return None
    return probes.largest(total), probes.largest(count)


def _raised(proto: Any, model: OnnxModel, context: Context) -> Any:
    """The model in an opset whose Q/DQ takes fp16 scales; as it is where it needs none."""
    quantized = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in proto.graph.node)
    if opset_of(proto) >= (QDQ_OPSET if quantized else OLDEST_OPSET):
        return proto
    return raised(proto, model, context, QDQ_OPSET)


def _notes(graph: HalfGraph, kept: dict[int, str]) -> list[str]:
    able = len(graph.nodes) - len(graph.without_half())
    told = [(graph.nodes[index], why) for index, why in sorted(kept.items()) if why and why != NO_HALF]
    notes = [f"{len(graph.nodes) - len(kept)} of the {able} ops that could be fp16 are"]
    if told:
        words = ", ".join(f"{node.name} ({node.op_type}: {why})" for node, why in told[:SHOWN])
        more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        notes.append(f"left in float32: {words}{more}")
    return notes
