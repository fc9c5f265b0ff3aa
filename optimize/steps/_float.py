"""Return layers of a Q/DQ graph to float, whatever library put the pairs there."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

import numpy as np

from optimize.steps._graph import drop_unused
from optimize.steps._layers import FUSED, MOVES, MULTIPLIES, Graph
from runtime.tensors import Array

_JOINS = FUSED | MOVES | {"Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"}
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def quantized(proto: Any) -> list[Any]:
    """The nodes that multiply in int8: a DequantizeLinear gives each of their factors."""
    graph = Graph(proto)
    return [node for node in graph.nodes if node.op_type in MULTIPLIES and _in_int8(graph, node)]


def to_float(proto: Any, names: Collection[str], before: Any) -> None:
    """Let these layers compute in float, in place.

    A pair between two of them goes; one with an int8 layer on either side stays, since that layer's kernel needs it. A
    sum or a pooling counts for the layers that it joins.

    Args:
        proto: with Q/DQ pairs.
        names: of nodes that multiply.
        before: the graph before rounding, for the exact weights. A weight that is not in it, or was changed before it
            was rounded, keeps its rounded value, in float.
    """
    from onnx import numpy_helper

    graph, earlier = Graph(proto), Graph(before)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in before.graph.initializer}
    twins = {node.name: node for node in earlier.nodes}
    left = {node.name for node in quantized(proto)} - set(names)
    for node in graph.nodes:
        if node.name not in names:
            continue
        twin = twins.get(node.name)
        exact = False
        for place, name in enumerate(node.input[:2]):
            back = graph.maker.get(name)
            if name not in graph.constants or back is None or back.op_type != "DequantizeLinear":
                continue
            value, step = _value(back, graph, stored)
            wanted = given.get(twin.input[place]) if twin is not None and len(twin.input) > place else None
            if wanted is not None and wanted.shape == value.shape and (np.abs(wanted - value) <= 1.01 * step).all():
                value, exact = wanted, True
            _give(proto, node, place, value)
        for one, place in _biases(graph, node):
            # it was corrected for the rounding that is gone now, unless the weight was changed before, and it with it
            own = twins.get(one.name)
            if exact and own is not None and len(own.input) > place and own.input[place] in given:
                _give(proto, one, place, given[own.input[place]])
            elif (back := graph.maker.get(one.input[place])) is not None and back.op_type == "DequantizeLinear":
                _give(proto, one, place, _value(back, graph, stored)[0])
    _drop_pairs(proto, left)
    drop_unused(proto)


def _give(proto: Any, node: Any, place: int, value: Array) -> None:
    """Let a node read these numbers."""
    from onnx import numpy_helper

    tensor = numpy_helper.from_array(value.astype(np.float32), f"{node.name}/{place}__float")
    proto.graph.initializer.append(tensor)
    node.input[place] = tensor.name


def _biases(graph: Graph, node: Any) -> list[tuple[Any, int]]:
    """The node and the place of its input that hold a layer's bias; of a MatMul, those of the Add alone behind it."""
    if len(node.input) > 2 and node.input[2] in graph.constants:
        return [(node, 2)]
    users = graph.users.get(node.output[0], [])
    if node.op_type != "MatMul" or [user.op_type for user in users] != ["Add"]:
        return []
    return [(users[0], place) for place, name in enumerate(users[0].input) if name in graph.constants]


def _in_int8(graph: Graph, node: Any) -> bool:
    makers = [graph.maker.get(name) for name in node.input[:2]]
    return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def _drop_pairs(proto: Any, left: Collection[str]) -> None:
    """Take out the pairs on activations that no int8 layer needs."""
    graph = Graph(proto)

    @cache
    def alone(name: str) -> bool:
        """Whether an int8 layer gives this tensor, with nothing but pairs and activations between."""
        node = graph.maker.get(name)
        if node is None or name in graph.constants:
            return False
        if node.op_type in MULTIPLIES:
            return node.name in left
        return node.op_type in FUSED | MOVES | _PAIR and any(alone(one) for one in node.input)

    @cache
    def makes(name: str) -> bool:
        """Whether an int8 layer gives this tensor, or a sum or a pooling of what one gives.

        What is rounded behind a sum comes of no layer any more: else all of a trunk of residuals would.
        """
        node = graph.maker.get(name)
        if node is None or name in graph.constants:
            return False
        if node.op_type in _JOINS:
            return any(makes(one) for one in node.input)
        return alone(name)

    @cache
    def takes(name: str) -> bool:
        """Whether an int8 layer, or a sum of what int8 layers give, reads this tensor."""
        for node in graph.users.get(name, []):
            if node.op_type in MULTIPLIES:
                if node.name in left:
                    return True
            elif node.op_type in _JOINS and (any(makes(one) for one in node.input) or takes(node.output[0])):
                return True
        return False

    replaced: dict[str, str] = {}
    for node in graph.nodes:
        before = graph.maker.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is None or before.op_type != "QuantizeLinear" or node.output[0] in graph.outputs:
            continue
        if node.output[0] not in graph.constants and not makes(before.input[0]) and not takes(node.output[0]):
            replaced[node.output[0]] = before.input[0]
    for node in graph.nodes:
        for place, name in enumerate(node.input):
            while name in replaced:
                name = replaced[name]
            node.input[place] = name
    _outputs(graph, makes)


def _outputs(graph: Graph, makes: Callable[[str], bool]) -> None:
    """A pair before a graph's output whose layer is in float now: the layer gives the output itself."""
    for name in graph.outputs:
        back = graph.maker.get(name)
        before = graph.maker.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
        if back is None or before is None or before.op_type != "QuantizeLinear" or makes(before.input[0]):
            continue
        source = graph.maker.get(before.input[0])
        if source is None:
            continue
        inner = before.input[0]
        back.output[0] = f"{name}__rounded"
        source.output[:] = [name if one == inner else one for one in source.output]
        for node in graph.users.get(inner, []):
            node.input[:] = [name if one == inner else one for one in node.input]
        for node in graph.users.get(name, []):
            node.input[:] = [name if one == name else one for one in node.input]


def _value(back: Any, graph: Graph, stored: Mapping[str, Any]) -> tuple[Array, Array]:
    """What a DequantizeLinear of a constant gives, and its step; of what the graph itself rounds, what it rounds."""
    from onnx import numpy_helper

    values = [numpy_helper.to_array(stored[name]) if name in stored else None for name in back.input]
    if values[0] is None:
        return numpy_helper.to_array(stored[graph.maker[back.input[0]].input[0]]), np.zeros((), np.float32)
    whole = values[0].astype(np.float32)
    axis = next((one.i for one in back.attribute if one.name == "axis"), 1)

    def along(value: Any) -> Any:
        shape = [-1 if place == axis % whole.ndim else 1 for place in range(whole.ndim)] if np.size(value) > 1 else []
        return np.reshape(value, shape).astype(np.float32)

    step = along(values[1])
    return (whole - (along(values[2]) if len(values) > 2 else 0)) * step, step
