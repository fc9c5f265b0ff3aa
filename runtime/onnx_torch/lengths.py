"""ONNX's ops on numbers that are known beforehand, in numpy: an array of objects holds torch's symbols for lengths."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from runtime.onnx_torch.values import Known, Node, slices

Op = Callable[..., Any]
_ZERO = np.zeros(1, np.float32)


def _on_numbers(compute: Op) -> Op:
    return lambda node, *given: Known(np.asarray(compute(node, *(one.numbers for one in given if one is not None))))


def _sliced(node: Node, x: Any, *limits: Any) -> Any:
    for start, end, axis, step in slices(node, *map(Known, limits)):
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _divided(node: Node, a: Any, b: Any) -> Any:
    return a // b if a.dtype.kind in "iuO" else a / b


LENGTHS: dict[str, Op] = {
    "Gather": _on_numbers(lambda node, x, at: np.take(x, at.astype(np.int64), node("axis", 0))),
    "Concat": _on_numbers(lambda node, *given: np.concatenate(given, node("axis"))),
    "Unsqueeze": _on_numbers(
        lambda node, x, axes=None: np.expand_dims(x, tuple(node("axes") if axes is None else axes.tolist()))
    ),
    "Squeeze": _on_numbers(
        lambda node, x, axes=None: np.squeeze(x, None if (a := node("axes") if axes is None else axes.tolist()) is None
                                              else tuple(a))
    ),
    "Slice": _on_numbers(_sliced), "Reshape": _on_numbers(lambda node, x, shape: x.reshape(shape.astype(np.int64))),
    "Add": _on_numbers(lambda node, a, b: a + b), "Sub": _on_numbers(lambda node, a, b: a - b),
    "Mul": _on_numbers(lambda node, a, b: a * b), "Div": _on_numbers(_divided),
    "Cast": _on_numbers(lambda node, x: x if x.dtype == object else x.astype(tensor_dtype_to_np_dtype(node("to")))),
    "Equal": _on_numbers(lambda node, a, b: a == b), "Where": _on_numbers(lambda node, c, a, b: np.where(c, a, b)),
    "ConstantOfShape": _on_numbers(lambda node, shape: np.full(shape.astype(np.int64), node("value", _ZERO))),
}  # fmt: skip
