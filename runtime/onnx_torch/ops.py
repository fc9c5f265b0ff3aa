"""ONNX's ops in torch, by ONNX's operator specification: an entry gets its node and the inputs, and gives the outputs.

Those that work on numbers known beforehand, lengths for the most part, stand in `lengths`.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx.helper import tensor_dtype_to_np_dtype
from torch import Tensor

from runtime.onnx_torch.layers import LAYERS
from runtime.onnx_torch.values import (
    RANGES,
    Known,
    Node,
    Rounded,
    Unsupported,
    Value,
    number,
    numbers,
    rounded,
    slices,
    tensor,
)

Op = Callable[..., Any]
_ZERO = np.zeros(1, np.float32)

# ------------------------------------------------------------------ Q/DQ


def _quantize(node: Node, given: Value, scale: Known, zero: Value = None) -> Tensor:
    x = tensor(given)
    at = zero.numbers if isinstance(zero, Known) else np.zeros(1, np.uint8)
    dtype = torch.from_numpy(np.zeros(1, at.dtype)).dtype
    return rounded(x, scale, Known(at), dtype)


def _dequantize(node: Node, given: Value, scale: Known, zero: Value = None) -> Value:
    value = tensor(given)
    at = zero if isinstance(zero, Known) else Known(np.zeros(scale.numbers.shape, np.int64))
    if node("block_size", 0):
        raise Unsupported("its weights have a scale for each block")
    if value.dtype not in RANGES:  # a bias, in int32
        shape = [-1] + [1] * (value.ndim - 1 - node("axis", 1) % max(value.ndim, 1))
        return value.to(torch.float32) * tensor(scale).reshape(shape if scale.numbers.size > 1 else [])
    return Rounded(given if isinstance(given, Known) else value, scale, at, node("axis", 1) % max(value.ndim, 1))


# ------------------------------------------------------------------ what moves numbers


def _gather(node: Node, data: Value, places: Value) -> Tensor:
    x, at, axis = tensor(data), tensor(places), node("axis", 0)
    axis = axis % x.ndim
    if at.dtype not in (torch.int32, torch.int64):
        raise Unsupported(f"places of {at.dtype}")
    if isinstance(places, Known):
        at = torch.where(at < 0, at + x.shape[axis], at)
        if at.ndim == 0:
            return x.select(axis, int(number(places)))
    if axis == 0 and x.ndim == 2:
        return F.embedding(at, x)
    found = x.index_select(axis, at.reshape(-1))
    return found.reshape([*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]])


def _slice(node: Node, given: Value, *limits: Value) -> Tensor:
    x = tensor(given)
    for start, end, axis, step in slices(node, *limits):
        if step < 0:
            if not isinstance(x.shape[axis], int):
                raise Unsupported("it goes backwards over an axis whose length varies")
            places = range(x.shape[axis])[start : None if end < -x.shape[axis] else end : step]
            x = x.index_select(axis % x.ndim, torch.tensor(places))
            continue
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, None if end >= 2**31 - 1 else end, step),)]
    return x


def _split(node: Node, given: Value, lengths: Value = None) -> tuple[Tensor, ...]:
    x, axis = tensor(given), node("axis", 0)
    parts = node("split") if lengths is None else numbers(lengths)
    if parts is None:
        parts = -(-x.shape[axis] // len(node.outputs))
    return tuple(torch.split(x, parts, axis))


def _axes(node: Node, given: Value = None) -> list[int] | None:
    """Axes are an attribute in old files, an input in new ones."""
    return node("axes") if given is None else numbers(given)


def _squeeze(node: Node, given: Value, axes: Value = None) -> Tensor:
    x, asked = tensor(given), _axes(node, axes)
    return x.squeeze() if asked is None else x.squeeze([axis % x.ndim for axis in asked])


def _unsqueeze(node: Node, given: Value, axes: Value = None) -> Tensor:
    x, asked = tensor(given), _axes(node, axes) or []
    for axis in sorted(axis % (x.ndim + len(asked)) for axis in asked):
        x = x.unsqueeze(axis)
    return x


def _reshape(node: Node, given: Value, shape: Value) -> Tensor:
    x = tensor(given)
    asked = numbers(shape)
    if not node("allowzero", 0):
        asked = [x.shape[i] if isinstance(n, int | np.integer) and n == 0 else n for i, n in enumerate(asked)]
    return x.reshape([int(n) if isinstance(n, np.integer) else n for n in asked])


def _flatten(node: Node, given: Value) -> Tensor:
    x = tensor(given)
    axis = node("axis", 1)
    return x.flatten(1) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)


def _expand(node: Node, given: Value, shape: Value) -> Tensor:
    x, asked = tensor(given), numbers(shape)
    own = [1] * (len(asked) - x.ndim) + list(x.shape)
    asked = [1] * (len(own) - len(asked)) + asked
    return x.expand(
        [have if isinstance(n, int | np.integer) and n == 1 else n for n, have in zip(asked, own, strict=True)]
    )


def _pad(node: Node, given: Value, pads: Value = None, fill: Value = None, axes: Value = None) -> Tensor:
    x = tensor(given)
    asked = [int(one) for one in (node("pads") if pads is None else numbers(pads))]
    over = range(x.ndim) if axes is None else [axis % x.ndim for axis in numbers(axes)]
    around = [0] * 2 * x.ndim
    for place, axis in enumerate(over):
        last = 2 * (x.ndim - 1 - axis)
        around[last], around[last + 1] = asked[place], asked[len(over) + place]
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[node("mode", "constant")]
    if mode != "constant":
        return F.pad(x, around[: 2 * (x.ndim - 2)], mode=mode)
    return F.pad(x, around, value=float(node("value", 0.0) if fill is None else number(fill)))


def _cast(node: Node, given: Value) -> Tensor:
    kind = torch.from_numpy(np.zeros(1, tensor_dtype_to_np_dtype(node("to")))).dtype
    return tensor(given).to(kind)


# ------------------------------------------------------------------ reductions and the rest


def _reduced(compute: Op) -> Op:
    def reduced(node: Node, given: Value, axes: Value = None) -> Tensor:
        x, asked = tensor(given), _axes(node, axes)
        if not asked and node("noop_with_empty_axes", 0):
            return x
        found: Tensor = compute(x, asked or list(range(x.ndim)), bool(node("keepdims", 1)))
        return found

    return reduced


def _softmax(compute: Op) -> Op:
    def softmax(node: Node, given: Value) -> Tensor:
        x = tensor(given)
        axis = node("axis", -1 if node.opset >= 13 else 1)
        whole = node.opset >= 13 or axis % x.ndim == x.ndim - 1  # older ones go over all axes from this on
        found: Tensor = compute(x, axis) if whole else compute(x.flatten(axis), -1).reshape(x.shape)
        return found

    return softmax


def _clip(node: Node, given: Value, least: Value = None, most: Value = None) -> Tensor:
    limits = [node("min"), node("max")] if node.opset < 11 else [number(least), number(most)]
    if limits == [None, None]:
        return tensor(given)
    if limits == [0, None]:
        return F.relu(tensor(given))
    low, high = (one.item() if isinstance(one, np.generic) else one for one in limits)
    if low is not None and high is not None and low <= high and tensor(given).is_floating_point():
        return F.hardtanh(tensor(given), low, high)  # which backends fuse into a quantized layer, unlike clamp
    return torch.clamp(tensor(given), low, high)


def _dropout(node: Node, given: Value, ratio: Value = None, training: Value = None) -> Value:
    if number(training):
        raise Unsupported("it is in training")
    return given


def _top_k(node: Node, given: Value, k: Value) -> tuple[Tensor, Tensor]:
    found = torch.topk(tensor(given), number(k), node("axis", -1), bool(node("largest", 1)), bool(node("sorted", 1)))
    return found.values, found.indices


def _arg_max(node: Node, given: Value) -> Tensor:
    if node("select_last_index", 0):
        raise Unsupported("of equal ones the last is asked for")
    return torch.argmax(tensor(given), node("axis", 0), bool(node("keepdims", 1)))


def _on(compute: Op) -> Op:
    """An op whose inputs all are tensors."""
    return lambda node, *given: compute(*map(tensor, given))


def _all_of(compute: Op) -> Op:
    """One of two inputs, over as many as there are."""
    return lambda node, *given: reduce(compute, map(tensor, given))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.dtype.is_floating_point else torch.div(a, b, rounding_mode="trunc")


def _tensors(compute: Op, facts: dict[str, tuple[str, Any]]) -> Op:
    """An op of one tensor whose attributes torch calls otherwise: name in torch to name and default in ONNX."""
    return lambda node, x: compute(tensor(x), **{key: node(*one) for key, one in facts.items()})


def _constant(node: Node) -> Known:
    return Known(np.asarray(next(iter(node.facts.values()))))


def _p_relu(node: Node, given: Value, slope: Value) -> Tensor:
    x, s = tensor(given), tensor(slope)
    if s.numel() in (1, x.shape[1]) and s.numel() == max(s.shape, default=1):
        return F.prelu(x, s.reshape(-1))
    return torch.where(x < 0, x * s, x)


OPS: dict[str, Op] = {
    **LAYERS, "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
    "GlobalAveragePool": lambda node, x: tensor(x).mean(list(range(2, tensor(x).ndim)), keepdim=True),
    "GlobalMaxPool": lambda node, x: tensor(x).amax(list(range(2, tensor(x).ndim)), keepdim=True),
    "Gather": _gather, "Slice": _slice, "Split": _split, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Reshape": _reshape, "Flatten": _flatten, "Expand": _expand, "Pad": _pad, "Cast": _cast, "Constant": _constant,
    "Transpose": lambda node, x: tensor(x).permute(node("perm", list(range(tensor(x).ndim))[::-1])),
    "Concat": lambda node, *given: torch.cat([tensor(one) for one in given], node("axis")),
    "Identity": lambda node, x: x, "Dropout": _dropout,
    "Shape": lambda node, x: Known(np.array([*tensor(x).shape], object)[node("start", 0) : node("end")]),
    "ConstantOfShape": lambda node, shape: tensor(Known(node("value", _ZERO))).expand(numbers(shape)),
    "Range": lambda node, a, b, step: torch.arange(number(a), number(b), number(step), dtype=tensor(step).dtype),
    "ReduceMean": _reduced(torch.mean), "ReduceSum": _reduced(torch.sum), "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "Softmax": _softmax(F.softmax), "LogSoftmax": _softmax(F.log_softmax), "Clip": _clip, "TopK": _top_k,
    "ArgMax": _arg_max, "PRelu": _p_relu,
    "Add": _on(torch.add), "Sub": _on(torch.sub), "Mul": _on(torch.mul), "Div": _on(_divide),
    "Pow": _on(lambda a, b: torch.pow(a, b).to(a.dtype)),
    "Min": _all_of(torch.minimum), "Max": _all_of(torch.maximum), "Sum": _all_of(torch.add),
    "Equal": _on(torch.eq), "Greater": _on(torch.gt), "Less": _on(torch.lt), "GreaterOrEqual": _on(torch.ge),
    "LessOrEqual": _on(torch.le), "And": _on(torch.logical_and), "Or": _on(torch.logical_or),
    "Not": _on(torch.logical_not), "Where": _on(torch.where), "Relu": _on(F.relu), "Sigmoid": _on(torch.sigmoid),
    "Tanh": _on(torch.tanh), "Erf": _on(torch.erf), "Exp": _on(torch.exp), "Log": _on(torch.log),
    "Sqrt": _on(torch.sqrt), "Neg": _on(torch.neg), "Abs": _on(torch.abs), "Reciprocal": _on(torch.reciprocal),
    "Floor": _on(torch.floor), "Ceil": _on(torch.ceil), "Sin": _on(torch.sin), "Cos": _on(torch.cos),
    "Softplus": _on(F.softplus), "HardSwish": _on(F.hardswish),
    "Gelu": lambda node, x: F.gelu(tensor(x), approximate=node("approximate", "none")),
    "LeakyRelu": _tensors(F.leaky_relu, {"negative_slope": ("alpha", 0.01)}),
    "Elu": _tensors(F.elu, {"alpha": ("alpha", 1.0)}),
    "HardSigmoid": lambda node, x: torch.clamp(tensor(x) * node("alpha", 0.2) + node("beta", 0.5), 0.0, 1.0),
    "DepthToSpace": lambda node, x: _depth_to_space(node, tensor(x)),
}  # fmt: skip


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = node("blocksize")
    if node("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
