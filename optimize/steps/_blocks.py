"""Weights in blocks that share a scale: what ONNX Runtime calls MatMulNBits, and the same in ONNX's own ops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimize.steps._graph import drop_unused, fresh
from runtime.tensors import Array

BLOCKED_OPSET = 21  # DequantizeLinear with blocks, and int4


@dataclass(frozen=True)
class Blocks:
    """A weight (K, N) whose rows share scales in blocks.

    Attributes:
        numbers: (K, N), uint8.
        scale: (blocks, N).
        zero: (blocks, N), uint8; None for the middle of the numbers.
        bits: of a number.
        block: rows that share a scale.
    """

    numbers: Array
    scale: Array
    zero: Array | None
    bits: int
    block: int


def gemms_to_products(proto: Any) -> None:
    """Gemm with a constant weight as MatMul and Add, in place: only MatMul has a form with weights in blocks."""
    import onnx
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    taken = {name for node in proto.graph.node for name in (node.name, *node.input, *node.output)} | set(values)
    nodes = []
    for node in proto.graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in values:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(values[node.input[1]])
        name = fresh(f"{node.input[1]}__product", taken)
        turned = np.ascontiguousarray(weight.T) if attributes.get("transB", 0) else weight
        proto.graph.initializer.append(numpy_helper.from_array(turned, name))
        biased = len(node.input) > 2 and node.input[2]
        product = fresh(f"{node.output[0]}__product", taken) if biased else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if biased:
            added = onnx.helper.make_node("Add", [product, node.input[2]], list(node.output), fresh("Add", taken))
            nodes.append(added)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    drop_unused(proto)


def in_nbits(proto: Any, weights: Mapping[str, Blocks], level: int) -> Any:
    """A copy of a graph with MatMulNBits in place of products.

    Args:
        proto: with MatMul nodes.
        weights: by the name of their node.
        level: the `accuracy_level`: 0 for float, 4 for activations that are rounded to int8 in the call.
    """
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        if node.name not in weights:
            continue
        found = weights[node.name]
        deep, wide = found.numbers.shape
        blocks = len(found.scale)
        filled = np.full((blocks * found.block, wide), 2 ** (found.bits - 1), np.uint8)
        filled[:deep] = found.numbers
        name = f"{node.input[1]}__{node.name}"
        tensors = {
            f"{name}__numbers": _packed(filled.T, found.bits).reshape(wide, blocks, -1),
            f"{name}__scale": np.ascontiguousarray(found.scale.T).reshape(-1),
        }
        if found.zero is not None:
            tensors[f"{name}__zero_point"] = _packed(found.zero.T, found.bits).reshape(-1)
        copy.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in tensors.items())
        facts: dict[str, Any] = {"K": deep, "N": wide, "bits": found.bits, "block_size": found.block}
        if level:
            facts["accuracy_level"] = level
        inputs = [node.input[0], *tensors]
        made = onnx.helper.make_node(
            "MatMulNBits", inputs, list(node.output), node.name, domain="com.microsoft", **facts
        )
        node.CopyFrom(made)
    if "com.microsoft" not in {entry.domain for entry in copy.opset_import}:
        copy.opset_import.add(domain="com.microsoft", version=1)
    return copy


def blocks_of(proto: Any) -> dict[str, Blocks]:
    """The weights that DequantizeLinear gives in blocks, by the name of the MatMul that takes them."""
    import onnx
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    users = {node.input[1]: node for node in proto.graph.node if node.op_type == "MatMul"}
    found = {}
    for node in proto.graph.node:
        user = users.get(node.output[0])
        if node.op_type != "DequantizeLinear" or node.input[0] not in values or user is None:
            continue
        facts = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        kept = values[node.input[0]]
        half = onnx.TensorProto.INT4, onnx.TensorProto.UINT4
        bits = 4 if kept.data_type in half else 8
        signed = kept.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.INT8)
        middle = 2 ** (bits - 1) if signed else 0
        whole = [numpy_helper.to_array(values[name]).astype(np.int16) for name in (node.input[0], *node.input[2:3])]
        numbers, *zero = [(value + middle).astype(np.uint8) for value in whole]
        scale = numpy_helper.to_array(values[node.input[1]])
        found[user.name] = Blocks(numbers, scale, zero[0] if zero else None, bits, int(facts["block_size"]))
    return found


def in_own_ops(proto: Any) -> None:
    """Each MatMulNBits as DequantizeLinear and MatMul, in place.

    Its weights are (N, blocks, bytes) along K, low bits first, with a scale and perhaps a zero point a block; see the
    contrib operators of ONNX Runtime. A weight in one block has a scale a channel, which older opsets have too.

    Args:
        proto: in opset 21 or newer, where a weight has several blocks, or 4 bits.
    """
    import onnx
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    taken = {name for node in proto.graph.node for name in (node.name, *node.input, *node.output)} | set(values)
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "MatMulNBits":
            nodes.append(node)
            continue
        facts = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        bits, block, deep, wide = (int(facts[name]) for name in ("bits", "block_size", "K", "N"))
        blocks = -(-deep // block)
        numbers = _unpacked(numpy_helper.to_array(values[node.input[1]]).reshape(wide, -1), bits)[:, :deep].T
        scale = numpy_helper.to_array(values[node.input[2]]).reshape(wide, blocks).T
        name = f"{node.input[1]}__blocks"
        if len(node.input) > 3 and node.input[3]:
            point = _unpacked(numpy_helper.to_array(values[node.input[3]]).reshape(wide, -1), bits)[:, :blocks].T
            tensors = [_small(numbers, f"uint{bits}", name), _tensor(scale, blocks, f"{name}_scale")]
            tensors.append(_small(point if blocks > 1 else point[0], f"uint{bits}", f"{name}_zero_point"))
        else:
            signed = numbers.astype(np.int16) - 2 ** (bits - 1)
            if bits == 8:  # TensorRT refuses a scale below 0, which is there to have one number more on that side
                turned = np.where(np.repeat(scale < 0, block, axis=0)[:deep], -signed, signed)
                signed, scale = turned.clip(-128, 127), np.abs(scale)
            tensors = [_small(signed, f"int{bits}", name), _tensor(scale, blocks, f"{name}_scale")]
        proto.graph.initializer.extend(tensors)
        wide_weight = fresh(f"{name}_float", taken)
        axes: dict[str, Any] = {"axis": 0, "block_size": block} if blocks > 1 else {"axis": 1}
        back = [tensor.name for tensor in tensors]
        nodes.append(
            onnx.helper.make_node("DequantizeLinear", back, [wide_weight], fresh(f"{node.name}_weight", taken), **axes)
        )
        nodes.append(
            onnx.helper.make_node("MatMul", [node.input[0], wide_weight], list(node.output), fresh(node.name, taken))
        )
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    drop_unused(proto)


def _unpacked(packed: Array, bits: int) -> Array:
    """Whole numbers, one a byte, out of rows of bytes that hold one or two."""
    if bits == 8:
        return packed
    return np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(len(packed), -1)


def _packed(numbers: Array, bits: int) -> Array:
    """Rows of bytes that hold one or two whole numbers."""
    if bits == 8:
        return np.ascontiguousarray(numbers)
    if numbers.shape[1] % 2:
        numbers = np.pad(numbers, ((0, 0), (0, 1)))
    packed: Array = numbers[:, ::2] | numbers[:, 1::2] << 4
    return packed


def _small(numbers: Array, dtype: str, name: str) -> Any:
    import ml_dtypes
    from onnx import numpy_helper

    kind = getattr(ml_dtypes, dtype) if dtype.endswith("int4") else np.dtype(dtype)
    return numpy_helper.from_array(np.ascontiguousarray(numbers).astype(kind), name)


def _tensor(scale: Array, blocks: int, name: str) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(scale if blocks > 1 else scale[0]), name)
