"""Adaptive average pools in ONNX, which has none, for torch's exporter.

The exporter takes one apart into a gather for each place of a window and sums of these: 400 nodes for one to 20 x 20,
and an engine may spend a third of a call in another. Output i of o is the mean of the inputs from floor(i n / o) to
ceil((i + 1) n / o) of n (aten/src/ATen/native/AdaptivePooling.h), along each axis by itself. So it is one of three:

- an AveragePool, where all windows are alike;
- a convolution of each channel: windows repeat every p = n / gcd(n, o) places, so that one with kernel and stride p
  gives all outputs of a period as channels, and DepthToSpace lays these side by side;
- a product with a matrix of windows from either side, where that is fewer multiplications, and where sizes are not
  known beforehand.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime.tensors import Array


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` takes as `custom_translation_table`."""
    import torch

    # one axis becomes this one by torch itself; of three axes its exporter has nothing
    return {torch.ops.aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d}


def adaptive_avg_pool2d(x: Any, output_size: Sequence[int]) -> Any:
    """A graph's value [..., C, H, W] pooled to [..., C, *output_size], in its own dtype."""
    from onnxscript import opset18 as op

    sizes, outputs = list(x.shape[-2:]), list(output_size)
    if not all(isinstance(size, int) for size in (x.shape[-3], *sizes, *outputs)):
        return _by_products(op, x, [_windows_of(op, x, axis, outputs[axis]) for axis in (-2, -1)])
    common = [math.gcd(n, o) for n, o in zip(sizes, outputs, strict=True)]
    period = [n // g for n, g in zip(sizes, common, strict=True)]
    block = [o // g for o, g in zip(outputs, common, strict=True)]
    if block == [1, 1] and len(x.shape) == 4:
        return op.AveragePool(x, kernel_shape=period, strides=period)
    # multiplications an input
    folded, products = block[0] * block[1], outputs[0] + outputs[0] * outputs[1] / sizes[0]
    if block[0] == block[1] and len(x.shape) == 4 and folded <= products:
        rows, columns = (windows(n, o) for n, o in zip(period, block, strict=True))
        kernels = np.einsum("ih,jw->ijhw", rows, columns).reshape(-1, 1, *period)
        channels = x.shape[-3]
        weight = _constant(op, x, np.tile(kernels, (channels, 1, 1, 1)))
        return op.DepthToSpace(op.Conv(x, weight, group=channels, strides=period), blocksize=block[0], mode="CRD")
    return _by_products(op, x, [_constant(op, x, windows(n, o)) for n, o in zip(sizes, outputs, strict=True)])


def windows(size: int, outputs: int) -> Array:
    """float64 [outputs, size]: what each input counts in each output."""
    i, place = np.arange(outputs)[:, None], np.arange(size)
    first, end = i * size // outputs, -(-(i + 1) * size // outputs)
    return ((first <= place) & (place < end)) / (end - first)


def _by_products(op: Any, x: Any, sides: Sequence[Any]) -> Any:
    return op.MatMul(op.MatMul(sides[0], x), op.Transpose(sides[1], perm=[1, 0]))


def _constant(op: Any, x: Any, numbers: Array) -> Any:
    from onnxscript import ir

    return op.Constant(value=ir.tensor(numbers.astype(x.dtype.numpy())))


def _windows_of(op: Any, x: Any, axis: int, outputs: Any) -> Any:
    """As `windows`, of sizes that are known when it runs; torch's symbols have the operators of numbers."""
    size, n = op.Gather(op.Shape(x), op.Constant(value_int=axis)), op.Reshape(outputs, op.Constant(value_ints=[-1]))
    n = op.Squeeze(n)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    i, place = op.Unsqueeze(op.Range(zero, n, one), op.Constant(value_ints=[1])), op.Range(zero, size, one)
    first, end = (i * size) / n, ((i + 1) * size + (n - 1)) / n
    inside = op.And(first <= place, place < end)
    return op.CastLike(inside, x) / op.CastLike(end - first, x)
