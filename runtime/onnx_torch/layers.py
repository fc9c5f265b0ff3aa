"""ONNX's layers in torch: what has weights, or a window, or a grid; by ONNX's operator specification."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.onnx_torch.values import Known, Node, Rounded, Unsupported, Value, linear, numbers, rounded, tensor


def _padded(node: Node, given: Value, kernel: Sequence[int], fill: float) -> tuple[Tensor, list[int]]:
    """The input, padded where its two sides differ, and the padding that is left for torch's op."""
    x = tensor(given)
    mode, rank = node("auto_pad", "NOTSET"), len(kernel)
    if mode.startswith("SAME"):
        steps = node("strides", [1] * rank)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, node("dilations", [1] * rank), strict=True)]
        total = [
            max((math.ceil(n / s) - 1) * s + k - n, 0)
            for n, s, k in zip(x.shape[2:], steps, reach, strict=True)
        ]  # fmt: skip
        small, large = [n // 2 for n in total], [n - n // 2 for n in total]
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    else:
        pads = node("pads", [0] * 2 * rank)
        before, after = list(pads[:rank]), list(pads[rank:])
    if before == after:
        return x, before
    around = [one for pair in zip(reversed(before), reversed(after), strict=True) for one in pair]
    x = F.pad(x, around, value=fill)
    if isinstance(given, Rounded):  # again, so that its op still finds integers next to it; the numbers are the same
        x = replace(given, value=rounded(x, given.scale, given.zero, tensor(given.value).dtype)).tensor()
    return x, [0] * rank


def _conv(node: Node, given: Value, w: Value, b: Value = None) -> Tensor:
    weight = tensor(w)
    rank = weight.ndim - 2
    x, padding = _padded(node, given, weight.shape[2:], 0)
    compute = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    bias = None if b is None else tensor(b)
    return compute(
        x, weight, bias, node("strides", [1] * rank), padding, node("dilations", [1] * rank), node("group", 1)
    )


def _conv_transpose(node: Node, given: Value, w: Value, b: Value = None) -> Tensor:
    weight = tensor(w)
    rank = weight.ndim - 2
    pads = list(node("pads", [0] * 2 * rank))
    if node("output_shape") or node("auto_pad", "NOTSET") != "NOTSET" or pads[:rank] != pads[rank:]:
        raise Unsupported("torch takes no length of its output, nor a padding whose two sides differ")
    compute = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    return compute(
        tensor(given), weight, None if b is None else tensor(b), node("strides", [1] * rank), pads[:rank],
        node("output_padding", [0] * rank), node("group", 1), node("dilations", [1] * rank),
    )  # fmt: skip


def _gemm(node: Node, a: Value, b: Value, c: Value = None) -> Tensor:
    x = tensor(a).T if node("transA", 0) else tensor(a)
    weight = tensor(b) if node("transB", 0) else linear(b)
    weight = tensor(b).T if weight is None else weight
    bias = None if c is None else tensor(c)
    if node("alpha", 1.0) == node("beta", 1.0) == 1 and (bias is None or bias.ndim == 1):
        return F.linear(x, weight, bias)
    found: Tensor = F.linear(x, weight) * node("alpha", 1.0)
    return found if bias is None else found + bias * node("beta", 1.0)


def _matmul(node: Node, a: Value, b: Value) -> Tensor:
    weight = linear(b)
    return torch.matmul(tensor(a), tensor(b)) if weight is None else F.linear(tensor(a), weight)


def _max_pool(node: Node, given: Value) -> Tensor:
    kernel = node("kernel_shape")
    rank = len(kernel)
    x, padding = _padded(node, given, kernel, -math.inf)
    compute = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    found: Tensor = compute(
        x, kernel, node("strides", [1] * rank), padding, node("dilations", [1] * rank),
        bool(node("ceil_mode", 0)),
    )  # fmt: skip
    return found


def _average_pool(node: Node, given: Value) -> Tensor:
    kernel, counted = node("kernel_shape"), bool(node("count_include_pad", 0))
    rank = len(kernel)
    x, padding = _padded(node, given, kernel, 0)
    upward, padded = bool(node("ceil_mode", 0)), x.shape != tensor(given).shape
    if set(node("dilations", [1])) != {1}:
        raise Unsupported("torch has no dilated average")
    if upward and (counted or padded):
        raise Unsupported("where lengths are rounded upward, torch counts another padding")
    compute = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    found: Tensor = compute(x, kernel, node("strides", [1] * rank), padding, upward, counted)
    if padded and not counted:  # by the share of each window that is no padding
        ones = torch.ones_like(tensor(given))
        found = found / compute(_padded(node, ones, kernel, 0)[0], kernel, node("strides", [1] * rank))
    return found


def _resize(node: Node, given: Value, roi: Value = None, scales: Value = None, sizes: Value = None) -> Tensor:
    x = tensor(given)
    mode, place = node("mode", "nearest"), node("coordinate_transformation_mode", "half_pixel")
    if scales is None and sizes is None:  # Upsample has its scales where Resize has the region, or as an attribute
        old = node("scales")
        roi, scales, place = None, Known(np.asarray(old)) if old else roi, "asymmetric"
    asked = numbers(sizes)[2:] if sizes is not None else None
    factors = [float(one) for one in numbers(scales)[2:]] if asked is None else None
    how: dict[str, Any] = {"size": asked, "scale_factor": factors}
    if mode == "nearest":
        whole = asked is None and all(one == int(one) for one in factors or ())
        if not whole and (place, node("nearest_mode", "round_prefer_floor")) != ("asymmetric", "floor"):
            raise Unsupported(f"nearest by {place}, {node('nearest_mode', 'round_prefer_floor')}")
        return F.interpolate(x, **how, mode="nearest")
    name = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    lengths = asked or [have * one for have, one in zip(x.shape[2:], factors or (), strict=True)]
    if (
        place not in ("half_pixel", "pytorch_half_pixel", "align_corners")
        or node("antialias", 0) or node("exclude_outside", 0)
        or (mode == "cubic" and node("cubic_coeff_a", -0.75) != -0.75)
        or (place == "pytorch_half_pixel" and 1 in lengths)
        or (place == "align_corners" and any(one != int(one) for one in lengths))
    ):  # fmt: skip
        raise Unsupported(f"{mode} by {place}, as it is set")
    return F.interpolate(x, **how, mode=name[mode, x.ndim - 2], align_corners=place == "align_corners")


def _batch_norm(node: Node, *given: Value) -> Tensor:
    x, scale, bias, mean, variance = map(tensor, given)
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node("epsilon", 1e-5))


def _layer_norm(node: Node, given: Value, scale: Value, bias: Value = None) -> Tensor:
    x = tensor(given)
    shape = list(x.shape[node("axis", -1) :])
    return F.layer_norm(x, shape, tensor(scale), None if bias is None else tensor(bias), node("epsilon", 1e-5))


LAYERS: dict[str, Callable[..., Tensor]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul, "MaxPool": _max_pool,
    "AveragePool": _average_pool, "Resize": _resize, "Upsample": _resize, "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
}  # fmt: skip
