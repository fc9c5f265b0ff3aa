"""What a node takes and gives while an ONNX graph becomes a torch program: tensors, and what is known beforehand."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from runtime.tensors import Array

RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}
QUANTIZED = torch.ops.quantized_decomposed


class Unsupported(Exception):
    """What a file asks for has no counterpart in torch, or one that answers otherwise; whoever reads it is told why."""


@dataclass(frozen=True)
class Known:
    """Numbers of the file, or worked out of lengths; those of dtype object may be symbols.

    Attributes:
        place: the module's buffer that holds them; empty where none does.
        turned: it has a matrix the other way round, as a linear layer takes it.
        buffer: it.
    """

    numbers: Array
    place: str = ""
    turned: bool = False
    buffer: Tensor | None = None


@dataclass(frozen=True)
class Rounded:
    """Integers that stand for floats: each op that takes them has its own dequantizing, by which its kernel is chosen.

    Attributes:
        value: a weight, or what was computed.
    """

    value: Known | Tensor
    scale: Known
    zero: Known
    axis: int

    def tensor(self, turned: bool = False) -> Tensor:
        """In float; the other way round where that is what its buffer has."""
        if turned and isinstance(self.value, Known) and self.value.buffer is not None:
            value, axis = self.value.buffer, 1 - self.axis
        else:
            value, axis = tensor(self.value), self.axis
        found: Tensor
        if self.scale.numbers.size == 1:
            scale, zero = float(self.scale.numbers.item()), int(self.zero.numbers.item())
            found = QUANTIZED.dequantize_per_tensor(value, scale, zero, *RANGES[value.dtype], value.dtype)
        else:
            given = value, tensor(self.scale), tensor(self.zero), axis, *RANGES[value.dtype], value.dtype
            found = QUANTIZED.dequantize_per_channel(*given)
        return found


Value: TypeAlias = Tensor | Known | Rounded | None


@dataclass(frozen=True)
class Node:
    """A node of the graph; a call gives an attribute."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    facts: dict[str, Any]
    proto: NodeProto

    def __call__(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is where it is not given."""
        return self.facts.get(name, default)


def node_of(proto: NodeProto, opset: int) -> Node:
    """A node, its attributes as Python has them."""
    facts = {one.name: helper.get_attribute_value(one) for one in proto.attribute}
    facts = {key: value.decode() if isinstance(value, bytes) else value for key, value in facts.items()}
    facts = {
        key: numpy_helper.to_array(value) if isinstance(value, TensorProto) else value for key, value in facts.items()
    }
    return Node(proto.name, proto.op_type, tuple(proto.input), tuple(proto.output), opset, facts, proto)


def rounded(x: Tensor, scale: Known, zero: Known, dtype: torch.dtype) -> Tensor:
    """Quantized by one scale and zero for all."""
    if scale.numbers.size > 1:
        raise Unsupported("it has a scale for each channel of what is computed")
    found: Tensor = QUANTIZED.quantize_per_tensor(
        x, float(scale.numbers.item()), int(zero.numbers.item()), *RANGES[dtype], dtype
    )
    return found


def linear(value: Value) -> Tensor | None:
    """A constant matrix as a linear layer takes it; None for one that is computed, or is not two-dimensional."""
    if isinstance(value, Rounded):
        return value.tensor(turned=True) if isinstance(value.value, Known) and value.value.turned else None
    return value.buffer if isinstance(value, Known) and value.turned else None


def tensor(value: Value) -> Tensor:
    """A value as a tensor."""
    if isinstance(value, Rounded):
        return value.tensor()
    if not isinstance(value, Known):
        assert value is not None  # an input that its op must have
        return value
    if value.buffer is not None and not value.turned:
        return value.buffer
    if value.numbers.dtype != object or not value.numbers.size:
        return torch.from_numpy(
            value.numbers.astype(np.int64 if value.numbers.dtype == object else value.numbers.dtype)
        )
    parts = [torch.scalar_tensor(one, dtype=torch.int64) for one in value.numbers.flat]
    return torch.stack(parts).reshape(value.numbers.shape)


def numbers(value: Value) -> list[Any]:
    """Numbers that must be known beforehand: axes, lengths, limits; raises Unsupported where they depend on data."""
    if not isinstance(value, Known):
        raise Unsupported("its axes or lengths depend on data")
    return list(value.numbers.flat)


def number(value: Value) -> Any:
    """The one number that must be known; None where it is not given."""
    return None if value is None else numbers(value)[0]


def slices(node: Node, *given: Value) -> list[tuple[Any, Any, int, int]]:
    """Start, end, axis and step of each axis that a Slice cuts; attributes in old files, inputs in new ones."""
    if node.opset < 10:
        starts, ends, more = node("starts"), node("ends"), [node("axes")]
    else:
        starts, ends, *more = (None if one is None else numbers(one) for one in given)
    axes, steps = [*more, None, None][:2]
    return list(zip(starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True))
