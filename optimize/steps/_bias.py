"""Empirical bias correction: rounding shifts the mean of a layer's channels, and the bias takes that back.

Each layer is looked at by itself, its rounded form fed from the float graph, so that shifts of the layers before it are
not counted twice (Nagel et al. 2019, arXiv:1906.04721, section 4.2; what NNCF calls fast).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from optimize.models import OnnxModel
from optimize.steps import Context
from optimize.steps._layers import Graph
from optimize.steps._probes import Probes
from runtime.tensors import Array

SIGN = "__rounded/"  # begins the names of rounded layers beside the float ones


def correct_bias(proto: Any, rounded: Any, model: OnnxModel, context: Context, samples: int) -> int:
    """Change the biases of a float graph in place, so that its rounded form has the means of the float one.

    Args:
        proto: in float; its nodes have names.
        rounded: the same with Q/DQ pairs; the names of its nodes and tensors are kept.
        model: whose inputs the data is for.
        context: with the calibration data, and the folder for what is temporary.
        samples: of the data.

    Returns:
        How many layers were corrected.

    Raises:
        StepError: the two do not run together.
    """
    from onnx import numpy_helper

    biases = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = _biased(proto, biases)
    twins = _Twins(proto, rounded)
    probes = Probes(proto)
    asked: dict[str, tuple[str, str]] = {}
    for node in rounded.graph.node:
        before, where = layers.get(node.name, (None, ""))
        if before is None or node.input[1] == before.input[1]:
            continue
        shift = probes.node("Sub", [before.output[0], twins.of(node)])
        if node.op_type == "MatMul":
            shift = probes.node("Flatten", [shift], axis=-1)  # all but the last axis are samples
        kernel = biases.get(before.input[1])  # a signal's has three axes, a picture's four
        deep = len(kernel.dims) if kernel is not None else 4
        axes = [0, *range(2, deep)] if node.op_type == "Conv" else [0]
        asked[where] = (
            probes.ask(probes.reduce("ReduceSum", shift, axes)),
            probes.ask(probes.node("Size", [shift])),
        )
    probes.weights(twins.weights, twins.nodes)
    sums: dict[str, Array] = probes.arrays(context.calibrate, model.specs, samples, context.folder, np.add)
    for name, (shift, size) in asked.items():
        bias = numpy_helper.to_array(biases[name])
        mean = sums[shift] * len(bias) / sums[size]
        biases[name].CopyFrom(numpy_helper.from_array((bias + mean).astype(np.float32), name))
    return len(asked)


def _biased(proto: Any, weights: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """By the name of a layer, itself and its bias; of a MatMul what an Add behind it adds, alone, to each channel."""
    graph, found = Graph(proto), {}
    for node in graph.nodes:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            found[node.name] = node, node.input[2]
        elif node.op_type == "MatMul" and [user.op_type for user in graph.users.get(node.output[0], [])] == ["Add"]:
            (add,) = graph.users[node.output[0]]
            (other,) = [name for name in add.input if name != node.output[0]] or [""]
            wide = weights[node.input[1]].dims[-1] if node.input[1] in weights else None
            if other in weights and list(weights[other].dims) == [wide]:
                found[node.name] = node, other
    return {
        name: (node, bias) for name, (node, bias) in found.items() if bias in weights and len(graph.users[bias]) == 1
    }


class _Twins:
    """Rounded layers that read the float graph's tensors.

    Attributes:
        nodes: in order.
        weights: that they read.
    """

    def __init__(self, proto: Any, rounded: Any) -> None:
        self._known = {value.name for value in proto.graph.input}
        self._known |= {tensor.name for tensor in proto.graph.initializer}
        self._known |= {name for node in proto.graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in rounded.graph.initializer}
        self._maker = {name: node for node in rounded.graph.node for name in node.output}
        self._made: set[str] = set()
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def of(self, node: Any) -> str:
        """The output of a copy of this node, whose inputs come from the float graph."""
        twin = type(node)()
        twin.CopyFrom(node)
        twin.name = SIGN + node.name
        twin.input[:] = [self._input(name) for name in node.input]
        twin.output[:] = [SIGN + name for name in node.output]
        self.nodes.append(twin)
        return str(twin.output[0])

    def _input(self, name: str) -> str:
        if not name or name in self._known:
            return name
        if name not in self._made:
            self._made.add(name)
            if name in self._stored:
                copy = type(self._stored[name])()
                copy.CopyFrom(self._stored[name])
                copy.name = SIGN + name
                self.weights.append(copy)
            else:
                self.of(self._maker[name])
        return SIGN + name
