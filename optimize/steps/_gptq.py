"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): the error of rounding one weight is made up for in those after it.

Not the one of ONNX Runtime's quantizer: that rounds its result once more, on the grid of what came out, and fails
where the number of blocks is odd; on related inputs it lost more than rounding to nearest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from optimize.models import OnnxModel
from optimize.steps import Context
from optimize.steps._blocks import Blocks, in_nbits
from optimize.steps._probes import Probes
from runtime.tensors import Array

DAMPING = 0.01  # of the mean of the diagonal, so that related inputs can be told apart
HELD_BYTES = 2**29  # of Hessians in one pass over the data


def by_gptq(
    proto: Any, model: OnnxModel, context: Context, chosen: Sequence[str], *,
    samples: int, bits: int, block: int, symmetric: bool, level: int,
) -> Any:  # fmt: skip
    """A copy of a float graph with MatMulNBits in place of the chosen products.

    Args:
        proto: in float32; its nodes have names.
        model: whose inputs the calibration data is for.
        context: with the data.
        chosen: names of the MatMul nodes, with weights (K, N).
        samples: of calibrate.
        bits: of a weight.
        block: how many weights along K share a scale.
        symmetric: no zero points.
        level: the `accuracy_level` of MatMulNBits.
    """
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node if node.name in chosen}
    depth = {node.input[0]: values[node.input[1]].dims[0] for node in nodes.values()}
    found: dict[str, Blocks] = {}
    for group in _groups(depth):
        hessians = _hessians(proto, group, model, context, samples)
        for name, node in nodes.items():
            if node.input[0] in hessians:
                weight = numpy_helper.to_array(values[node.input[1]])
                found[name] = rounded(weight, hessians[node.input[0]], bits, block, symmetric)
                context.progress(len(found), len(nodes), "gptq, layer by layer")
    return in_nbits(proto, found, level)


def rounded(weight: Array, hessian: Array, bits: int, block: int, symmetric: bool) -> Blocks:
    """Round a weight (K, N) along K; what one row loses is taken off the rows that are still to come.

    Args:
        weight: float.
        hessian: (K, K), the sum of x x^T over the inputs; a row that is all zero is of an input that never is used.
        bits: of a number.
        block: rows that share a scale.
        symmetric: no zero points.
    """
    deep, wide = weight.shape
    top = 2**bits - 1
    sums = hessian.astype(np.float64)
    unused = np.diag(sums) == 0
    sums[unused, unused] = 1
    sums[np.diag_indices(deep)] += DAMPING * np.diag(sums).mean()
    spread = np.linalg.cholesky(np.linalg.inv(sums)).T
    left = weight.astype(np.float64)
    numbers = np.zeros((deep, wide), np.uint8)
    scales, zeros = [], []
    for start in range(0, deep, block):
        stop = min(start + block, deep)
        scale, zero = _grid(left[start:stop], top, symmetric)
        scales.append(scale)
        zeros.append(zero)
        errors = np.zeros((stop - start, wide))
        for row in range(start, stop):
            number = np.clip(np.round(left[row] / scale) + zero, 0, top)
            numbers[row] = number
            errors[row - start] = error = (left[row] - scale * (number - zero)) / spread[row, row]
            left[row + 1 : stop] -= np.outer(spread[row, row + 1 : stop], error)
        left[stop:] -= spread[start:stop, stop:].T @ errors
    zero_points = None if symmetric else np.stack(zeros).astype(np.uint8)
    return Blocks(numbers, np.stack(scales).astype(weight.dtype), zero_points, bits, block)


def _grid(weight: Array, top: int, symmetric: bool) -> tuple[Array, Array]:
    """Scale and zero point of each column."""
    if symmetric:
        scale = np.abs(weight).max(0) / (top / 2)
        return np.where(scale > 0, scale, 1.0), np.full(scale.shape, (top + 1) // 2)
    low, high = np.minimum(weight.min(0), 0), np.maximum(weight.max(0), 0)
    scale = np.where(high > low, high - low, 1.0) / top
    return scale, np.round(-low / scale)


def _groups(depth: Mapping[str, int]) -> Iterator[list[str]]:
    """Inputs whose Hessians fit into memory together."""
    group: list[str] = []
    held = 0
    for name, deep in depth.items():
        if group and held + 8 * deep**2 > HELD_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += 8 * deep**2
    yield group


def _hessians(proto: Any, names: Sequence[str], model: OnnxModel, context: Context, samples: int) -> dict[str, Array]:
    probes = Probes(proto)
    asked = {}
    for name in names:
        rows = probes.node("Flatten", [name], axis=-1)  # all but the last axis are samples
        turned = probes.node("Transpose", [rows], perm=[1, 0])
        asked[name] = probes.ask(probes.node("MatMul", [turned, rows]))
    found = probes.arrays(context.calibrate, model.specs, samples, context.folder, np.add)
    return {name: found[key] for name, key in asked.items()}
