"""An ONNX graph as a torch module that `torch.export` takes.

Engines that compile torch programs read a candidate's file by it, so that what they run is what every other engine
runs. Nothing in the exported program depends on data: what is constant in the file stays so, and lengths are worked
out on numbers, of which some may be torch's symbols. Needs torch and onnx.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from runtime.errors import EngineError
from runtime.onnx_torch.lengths import LENGTHS
from runtime.onnx_torch.ops import OPS
from runtime.onnx_torch.values import Known, Node, Unsupported, Value, node_of, tensor
from runtime.tensors import Array


class OnnxModule(nn.Module):
    """Takes inputs by position, in the file's order, and gives a tuple of the outputs.

    Attributes:
        inputs: of what is not constant, name to dtype and shape; the name of an axis stands for its length.
        outputs: names.
    """

    def __init__(self, path: Path) -> None:
        """Read a file; raises EngineError where it has ops that are not known here, with their names."""
        super().__init__()
        proto = onnx.load(path)
        opset = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 1)
        constants = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
        self.outputs = [one.name for one in proto.graph.output]
        self._nodes = _in_float([node_of(node, opset) for node in proto.graph.node], constants)
        read = {*self.outputs, *(name for node in self._nodes for name in node.inputs)}
        constants = {name: numbers for name, numbers in constants.items() if name in read}
        if unknown := sorted({node.op for node in self._nodes} - OPS.keys()):
            raise EngineError(f"ops that cannot be brought to torch here: {', '.join(unknown)}.")
        self._constants: dict[str, Known] = {}
        turned = _swapped(self._nodes)
        zeros = {node.inputs[2] for node in self._nodes if node.op == "DequantizeLinear" and len(node.inputs) > 2}
        for name, numbers in constants.items():
            place = f"constant_{len(self._constants)}"
            swapped = name in turned and numbers.ndim == 2
            try:
                buffer = torch.from_numpy((numbers.T if swapped else numbers).copy())
                self.register_buffer(place, buffer.to(torch.int64) if name in zeros else buffer)
            except TypeError as error:  # strings, and formats that numpy has not
                raise EngineError(f"the constant '{name}' cannot be brought to torch: {error}") from error
            self._constants[name] = Known(numbers, place, swapped)
        weights = {one.name for one in proto.graph.initializer}
        self.inputs = {one.name: _port(one) for one in proto.graph.input if one.name not in weights}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Each node in the file's order, in which they can be computed; raises EngineError with the node's name."""
        # a buffer is looked up in each call, since exporting replaces it
        values: dict[str, Value] = {
            name: replace(known, buffer=getattr(self, known.place)) for name, known in self._constants.items()
        }
        values.update(zip(self.inputs, inputs, strict=True))
        values[""] = None  # an optional input that is not given
        for node in self._nodes:
            values.update(zip(node.outputs, _computed(node, [values[name] for name in node.inputs]), strict=False))
        return tuple(tensor(values[name]) for name in self.outputs)


def _in_float(nodes: Sequence[Node], constants: dict[str, Array]) -> list[Node]:
    """The nodes without those that dequantize a weight which no integer kernel will take; it is put in float instead.

    Such a kernel takes integers and gives integers, whatever is fused between.
    """
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    back = {node.outputs[0] for node in nodes if node.op == "DequantizeLinear"}

    def rounds(name: str) -> bool:
        after = users.get(name, [])
        return bool(after) and all(
            one.op == "QuantizeLinear" or (one.op in ("Relu", "Clip") and rounds(one.outputs[0])) for one in after
        )

    kept = []
    for node in nodes:
        weight = node.op == "DequantizeLinear" and constants.keys() >= {*node.inputs}
        after = users.get(node.outputs[0], [])
        if weight and not (after and all(one.inputs[0] in back and rounds(one.outputs[0]) for one in after)):
            given = {name: constants[name] for name in node.inputs}
            # it has the op from version 19 on, which says the same of what older files hold
            found: Any = ReferenceEvaluator(node.proto, opsets={"": max(node.opset, 19)}).run(None, given)
            constants[node.outputs[0]] = np.asarray(found[0])
        else:
            kept.append(node)
    return kept


def _swapped(nodes: Sequence[Node]) -> set[str]:
    """What a linear layer has the other way round: the second factor of MatMul, and of Gemm as it is.

    A kernel wants its weight constant, so it is turned beforehand.
    """
    found = {node.inputs[1] for node in nodes if node.op == "MatMul" or (node.op == "Gemm" and not node("transB", 0))}
    return found | {node.inputs[0] for node in nodes if node.op == "DequantizeLinear" and node.outputs[0] in found}


def _port(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...]]:
    kind = value.type.tensor_type
    if kind.elem_type == onnx.TensorProto.STRING:
        raise EngineError(f"the input '{value.name}' is text, which torch has not.")
    # an axis without a name is as open as one that has one
    shape = tuple(one.dim_value or one.dim_param or f"{value.name}_{i}" for i, one in enumerate(kind.shape.dim))
    return str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape


def _computed(node: Node, given: list[Value]) -> tuple[Value, ...]:
    on_lengths = node.op in LENGTHS and all(isinstance(value, Known | None) for value in given)
    try:
        found = (LENGTHS if on_lengths else OPS)[node.op](node, *given)
        found = found if isinstance(found, tuple) else (found,)
        if any(node.outputs[len(found) :]):
            raise Unsupported(f"its output '{node.outputs[-1]}' is asked for")
    # the last ones are torch's and Python's own, for shapes, dtypes and attributes of a file that no entry foresaw
    except (Unsupported, AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise EngineError(f"{node.op} '{node.name}' cannot be brought to torch: {error}") from error
    return found
