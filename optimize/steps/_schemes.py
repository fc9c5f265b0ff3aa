"""Does a Q/DQ graph keep to the scheme of its target? Read from its nodes, whatever library wrote them."""

from typing import Any

import numpy as np

from optimize.steps._graph import drop_unused
from optimize.steps._layers import MULTIPLIES, Graph
from targets import Scheme

SHOWN = 3  # offenders
NARROW = 64  # the largest number of 7 bits


# the fields of a scheme that are read here
HEEDED = frozenset(
    {"activation", "weight", "activation_symmetric", "weight_symmetric", "per_channel", "quantize_bias", "reduce_range"}
)


def conform(proto: Any, scheme: Scheme) -> None:
    """Move activations' numbers into the scheme's dtype, in place.

    128 more or less on the zero point and on the numbers is the same grid; only a tensor that is never negative, in
    uint8 about 0, loses a bit where the scheme is signed and about zero.
    """
    from onnx import numpy_helper

    del proto.graph.value_info[:]  # says the old dtypes, and is not needed
    graph = Graph(proto)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or node.input[0] in graph.constants or len(node.input) < 3:
            continue
        point, scale = (numpy_helper.to_array(values[node.input[place]]) for place in (2, 1))
        if point.dtype == scheme.activation or point.dtype not in (np.int8, np.uint8):
            continue
        if scheme.activation == "uint8":
            point = (point.astype(np.int16) + 128).astype(np.uint8)
        elif scheme.activation_symmetric and not point.any():
            point, scale = point.astype(np.int8), (scale * (255 / 127)).astype(scale.dtype)
        else:
            point = (point.astype(np.int16) - 128).astype(np.int8)
        names = [f"{node.output[0]}/scale", f"{node.output[0]}/zero_point"]
        proto.graph.initializer.extend(
            numpy_helper.from_array(value, name) for value, name in zip((scale, point), names, strict=True)
        )
        for one in (node, *(user for user in graph.users[node.output[0]] if user.op_type == "DequantizeLinear")):
            one.input[1], one.input[2] = names


def narrow(proto: Any) -> int:
    """Halve the numbers of weights that have 8 bits, in place, where 7 are asked for; of how many layers.

    NNCF's `OverflowFix` leaves convolutions in groups as they are, by each channel or not. Rounded twice they are 0.75
    of a step off at most, in place of 0.5.
    """
    from onnx import numpy_helper

    graph = Graph(proto)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = 0
    for node in graph.nodes:
        back = graph.maker.get(node.input[1]) if node.op_type in MULTIPLIES else None
        if back is None or back.op_type != "DequantizeLinear" or not set(back.input) <= set(values):
            continue
        number, scale, *point = (numpy_helper.to_array(values[name]) for name in back.input)
        if np.abs(number.astype(int)).max(initial=0) <= NARROW or any(one.any() for one in point):
            continue
        halved = {"number": np.rint(number / 2).astype(number.dtype), "scale": (scale * 2).astype(scale.dtype)}
        for place, (what, value) in enumerate(halved.items()):
            back.input[place] = f"{back.output[0]}/{what}"
            proto.graph.initializer.append(numpy_helper.from_array(value, back.input[place]))
        found += 1
    drop_unused(proto)
    return found


def tables_last(proto: Any) -> None:
    """Look up in int8 tables what is then turned into float, in place: x = number * scale, of a tensor or a row.

    An engine that does not swap the two itself turns the whole table of an embedding into float in each call.
    """
    import onnx
    from onnx import numpy_helper

    graph = Graph(proto)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = []
    for node in graph.nodes:
        back = graph.maker.get(node.input[0]) if node.op_type == "Gather" else None
        facts = {one.name: one.i for one in (*node.attribute, *(back.attribute if back is not None else ()))}
        if back is None or back.op_type != "DequantizeLinear" or facts.get("axis", 0) or facts.get("block_size"):
            nodes.append(node)
            continue
        stored = [numpy_helper.to_array(values[name]) if name in values else None for name in back.input]
        if any(one is None for one in stored) or any(one is not None and one.any() for one in stored[2:]):
            nodes.append(node)
            continue
        table, scale, name = stored[0], stored[1], node.output[0]
        assert table is not None and scale is not None  # looked at above
        wide = scale.reshape(-1, *[1] * (table.ndim - 1))  # a row's is looked up beside it
        rows = f"{back.input[1]}/rows"
        if rows not in values:
            values[rows] = numpy_helper.from_array(wide if scale.size > 1 else scale.reshape(()), rows)
            proto.graph.initializer.append(values[rows])
        make = onnx.helper.make_node
        nodes.append(make("Gather", [back.input[0], node.input[1]], [f"{name}/int8"], node.name, axis=0))
        nodes.append(
            make("Cast", [f"{name}/int8"], [f"{name}/number"], f"{node.name}/number", to=onnx.TensorProto.FLOAT)
        )
        if scale.size > 1:
            nodes.append(make("Gather", [rows, node.input[1]], [f"{name}/scale"], f"{node.name}/scale", axis=0))
            rows = f"{name}/scale"
        nodes.append(make("Mul", [f"{name}/number", rows], [name], f"{node.name}/float"))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    drop_unused(proto)


def offences(proto: Any, scheme: Scheme) -> list[str]:
    """What in a graph the target's kernels would not fuse, in words; empty where all is as it should be.

    Args:
        proto: with QuantizeLinear and DequantizeLinear nodes.
        scheme: the target's.
    """
    from onnx import numpy_helper

    graph = Graph(proto)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}

    def number(node: Any, place: int) -> Any:
        known = len(node.input) > place and node.input[place] in values
        return numpy_helper.to_array(values[node.input[place]]) if known else np.zeros((), np.uint8)

    found: dict[str, list[str]] = {}

    def offends(what: str, name: str) -> None:
        found.setdefault(what, []).append(name)

    for node in graph.nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] not in graph.constants:
            point = number(node, 2)
            if point.dtype != scheme.activation:
                offends(f"activations in {point.dtype} instead of {scheme.activation}", node.input[0])
            elif scheme.activation_symmetric and point.any():
                offends("activations with a zero point", node.input[0])
            if point.size > 1:
                offends("activations with a scale a channel", node.input[0])
        if node.op_type not in MULTIPLIES:
            continue
        for place, name in enumerate(node.input[1:], 1):
            back = graph.maker.get(name)
            if back is None or back.op_type != "DequantizeLinear" or name not in graph.constants:
                continue
            point, scale = number(back, 2), number(back, 1)
            if place == 2:
                if not scheme.quantize_bias:
                    offends("biases in int32 instead of float", node.name)
                continue
            if point.dtype != scheme.weight:
                offends(f"weights in {point.dtype} instead of {scheme.weight}", node.name)
            elif scheme.weight_symmetric and point.any():
                offends("weights with a zero point", node.name)
            if scale.size > 1 and not scheme.per_channel:
                offends("weights with a scale a channel", node.name)
            if scheme.reduce_range and np.abs(number(back, 0).astype(int)).max(initial=0) > NARROW:
                offends("weights in 8 bits instead of 7", node.name)
    return [
        f"{what} ({', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''})"
        for what, names in found.items()
    ]
