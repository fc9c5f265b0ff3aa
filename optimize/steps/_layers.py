"""An ONNX graph as an int8 engine sees it: what multiplies, what is fused behind it, what stays in int8 between."""

from collections.abc import Callable, Collection
from typing import Any

from optimize.steps._graph import captured

MULTIPLIES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CONVOLVES = frozenset({"Conv", "ConvTranspose"})
FUSED = frozenset({"Relu", "Clip"})  # behind what multiplies; a rounding's range can stand for them
MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Pad", "Resize"})


class Graph:
    """Who makes and who uses each tensor of the outer graph.

    Attributes:
        nodes: in order.
        maker: by tensor, the node that gives it.
        users: by tensor, the nodes that take it, those that hold a subgraph which does among them.
        constants: the tensors that no input changes.
        outputs: the graph's.
    """

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.nodes: list[Any] = list(proto.graph.node)
        self.maker: dict[str, Any] = {name: node for node in self.nodes for name in node.output if name}
        self.users: dict[str, list[Any]] = {}
        self.constants: set[str] = {tensor.name for tensor in proto.graph.initializer}
        for node in self.nodes:
            for name in {*node.input, *captured(node)}:
                self.users.setdefault(name, []).append(node)
            if all(name in self.constants for name in node.input if name):
                self.constants.update(node.output)
        self.outputs: set[str] = {value.name for value in proto.graph.output}

    def moving(self, node: Any) -> list[str]:
        """The inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def behind(self, node: Any, activations: Collection[str] = FUSED) -> str:
        """What a node gives after the activations that are fused behind it."""
        name: str = node.output[0]
        while name not in self.outputs and len(self.users.get(name, ())) == 1:
            (user,) = self.users[name]
            if user.op_type not in activations or user.input[0] != name:
                break
            name = user.output[0]
        return name


def in_int8(graph: Graph, ops: Collection[str], kept: Callable[[Any], bool]) -> tuple[list[Any], list[str]]:
    """The nodes whose inputs are quantized, and the tensors that a kernel gives in int8 itself.

    What multiplies always is; a sum, a pooling or a concatenation is only where all that it takes is in int8 already:
    between float layers (after a matrix product, a norm) it would round twice and gain nothing.

    Args:
        graph: in float.
        ops: that the target computes in int8.
        kept: whether a node is left in float.
    """
    chosen: list[Any] = []
    given: list[str] = []
    small: set[str] = set()  # tensors in int8
    for node in graph.nodes:
        moving = graph.moving(node)
        if node.op_type in FUSED | MOVES:
            if moving and moving[0] in small:
                small.update(node.output)
        elif node.op_type in ops and not kept(node) and moving:
            multiplies = node.op_type in MULTIPLIES
            if not multiplies and not all(name in small for name in moving):
                continue
            chosen.append(node)
            if not multiplies or node.op_type in CONVOLVES:
                small.update(node.output)
                given.append(graph.behind(node))
    return chosen, given
