"""Transposes moved behind what treats each number alike, so that they meet their inverse and go.

A graph of pictures with channels last (Keras's) transposes around every convolution; what stands between the two, a
batch norm say, is then no neighbour of the convolution, and no engine fuses it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimize.steps._graph import captured, drop_unused, fresh

ELEMENTWISE = frozenset({
    "Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min",
    "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
Perm = tuple[int, ...]


def sink(proto: Any) -> bool:
    """Change a graph in place where fewer Transposes are left then; returns whether they are."""
    moved = _Moved(proto)
    for node in proto.graph.node:
        moved.take(node)
    for value in proto.graph.output:
        moved.made(value.name)
    if _transposes(moved.nodes) >= _transposes(proto.graph.node):
        return False
    del proto.graph.node[:]
    proto.graph.node.extend(moved.nodes)
    proto.graph.initializer.extend(moved.weights)
    drop_unused(proto)
    return True


def _transposes(nodes: Sequence[Any]) -> int:
    return sum(node.op_type == "Transpose" for node in nodes)


class _Moved:
    """The nodes again, a Transpose only where one asks for what it gives.

    Attributes:
        nodes: in order.
        weights: new ones.
    """

    def __init__(self, proto: Any) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._values = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._taken = {name for node in proto.graph.node for name in (node.name, *node.input, *node.output)}
        self._owed: dict[str, tuple[str, Perm]] = {}  # a tensor is another one, transposed so
        self._made: set[str] = set()  # of these, what there is as a tensor too

    def take(self, node: Any) -> None:
        """Add a node, or owe the Transpose that it is or that is moved behind it."""
        perm = next((tuple(one.ints) for one in node.attribute if one.name == "perm"), ())
        if node.op_type == "Transpose" and perm:
            source, before = self._owed.get(node.input[0], (node.input[0], tuple(range(len(perm)))))
            self._owed[node.output[0]] = source, tuple(before[axis] for axis in perm)
            return
        again = type(node)()
        again.CopyFrom(node)
        perms = {self._owed[name][1] for name in node.input if name in self._owed}
        earlier = self._earlier(node, *perms) if node.op_type in ELEMENTWISE and len(perms) == 1 else None
        if earlier:
            again.input[:], again.output[0] = earlier, fresh(f"{node.output[0]}_moved", self._taken)
            self._owed[node.output[0]] = again.output[0], *perms
        else:
            again.input[:] = [self._source(name) or self.made(name) for name in node.input]
            for name in captured(node):
                self.made(name)
        self.nodes.append(again)

    def made(self, name: str) -> str:
        """The tensor itself, by a Transpose now where it is owed."""
        import onnx

        if name in self._owed and name not in self._made:
            source, perm = self._owed[name]
            node = onnx.helper.make_node("Identity", [source], [name], fresh(f"{name}_made", self._taken))
            if not self._source(name):
                node.op_type = "Transpose"
                node.attribute.append(onnx.helper.make_attribute("perm", perm))
            self.nodes.append(node)
            self._made.add(name)
        return name

    def _source(self, name: str) -> str | None:
        """The tensor that this one equals, its Transposes being each other's inverse."""
        source, perm = self._owed.get(name, ("", (1,)))
        return source if perm == tuple(range(len(perm))) else None

    def _earlier(self, node: Any, perm: Perm) -> list[str] | None:
        """The inputs of a node as they are before this Transpose; None where one is not of those nor a weight."""
        found = [self._owed[name][0] if name in self._owed else self._constant(name, perm) for name in node.input]
        return None if None in found else [name for name in found if name is not None]

    def _constant(self, name: str, perm: Perm) -> str | None:
        """A weight as it is before a Transpose; None where it is none, or has more axes."""
        from onnx import numpy_helper

        tensor = self._values.get(name)
        if not name or (tensor is not None and not tensor.dims):  # left out, or a single number
            return name
        if tensor is None or len(tensor.dims) > len(perm):
            return None
        value = numpy_helper.to_array(tensor)
        value = value.reshape((1,) * (len(perm) - value.ndim) + value.shape).transpose(np.argsort(perm))
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), fresh(f"{name}_moved", self._taken)))
        return str(self.weights[-1].name)
