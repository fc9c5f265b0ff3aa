"""Equalize the ranges of a convolution's channels before rounding: what one scale for a tensor must hold is alike then.

Channel c of a tensor between convolutions is multiplied by s_c in the weights before it and divided by it in the
weights behind it (cross-layer equalization, Nagel et al. 2019, arXiv:1906.04721; by the ranges of activations as
SmoothQuant has them, Xiao et al. 2023, arXiv:2211.10438). Where weights have a scale a channel, the ones before it do
not care, nor do depthwise ones behind it; another convolution behind it sums over the channels and pays, so there
the root is taken.
"""

from typing import Any

import numpy as np

from optimize.models import OnnxModel
from optimize.steps import Context
from optimize.steps._graph import name_nodes
from optimize.steps._layers import FUSED, Graph
from optimize.steps._probes import Probes
from runtime.tensors import Array

# f(s x) = s f(x) for each s above 0; of Clip up to its bound. What is behind them need not be fused to be stretched.
_HOMOGENEOUS = FUSED | {"PRelu", "LeakyRelu"}
HEADROOM = 1.25  # times larger than on calibration data a value may be before an upper bound (ReLU6's) cuts it
MOST = 64.0  # times a channel is stretched
SIGN = "__equalized"  # ends the names of tensors that hold other numbers now


def equalize(proto: Any, model: OnnxModel, context: Context, samples: int) -> int:
    """Change weights in place, and rename the tensors between; returns how many tensors were equalized.

    The graph computes the same, but for values above an upper bound's `HEADROOM`.

    Raises:
        StepError: the model does not run on the data.
    """
    from onnx import numpy_helper

    name_nodes(proto)
    graph = Graph(proto)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    pairs = [pair for node in graph.nodes if (pair := _pair(graph, node, weights))]
    probes = Probes(proto)
    asked = [probes.ask(probes.reduce("ReduceMax", probes.node("Abs", [t]), [0, 2, 3])) for _, t, _, _ in pairs]
    largest = probes.arrays(context.calibrate, model.specs, samples, context.folder)

    def change(name: str, factor: Array) -> None:
        value = numpy_helper.to_array(weights[name])
        weights[name].CopyFrom(numpy_helper.from_array((value * factor).astype(np.float32), name))

    renamed: dict[str, str] = {}
    for key, (node, tensor, users, bound) in zip(asked, pairs, strict=True):
        depthwise = all(_depthwise(user, weights) for user in users)
        stretch = _stretch(largest[key], bound, 1.0 if depthwise else 0.5)
        change(node.input[1], stretch.reshape(-1, 1, 1, 1))
        if len(node.input) > 2:
            change(node.input[2], stretch)
        for name in {user.input[1] for user in users}:
            user = next(user for user in users if user.input[1] == name)
            (given, taken, *_), group = weights[name].dims, _group(user)  # each group takes channels of its own
            of_group = np.repeat(stretch.reshape(group, 1, taken), given // group, axis=1)
            change(name, 1 / of_group.reshape(given, taken, 1, 1))
        inner = node
        while True:
            renamed[inner.output[0]] = f"{inner.output[0]}{SIGN}"
            if inner.output[0] == tensor:
                break
            (inner,) = graph.users[inner.output[0]]
    for node in graph.nodes:
        for side in (node.input, node.output):
            side[:] = [renamed.get(name, name) for name in side]
    del proto.graph.value_info[:]
    return len(pairs)


def _pair(graph: Graph, node: Any, weights: dict[str, Any]) -> tuple[Any, str, list[Any], float] | None:
    """A convolution, what it gives behind its activation, the convolutions that take it, and the activation's bound."""
    if node.op_type != "Conv" or not _own(graph, node, weights):
        return None
    tensor = graph.behind(node, _HOMOGENEOUS)
    users = graph.users.get(tensor, [])
    if tensor in graph.outputs or not users:
        return None
    for user in users:
        plain = user.op_type == "Conv" and user.input[0] == tensor and _own(graph, user, weights)
        if not plain:
            return None
    bound, name = np.inf, node.output[0]
    while name != tensor:
        (between,) = graph.users[name]
        if between.op_type == "Clip":
            limits = [_number(weights, between, place) for place in (1, 2)]
            if limits[0] != 0 or limits[1] is None:
                return None
            bound = min(bound, limits[1])
        name = between.output[0]
    return node, tensor, users, bound


def _own(graph: Graph, node: Any, weights: dict[str, Any]) -> bool:
    """Whether a two-dimensional convolution has weights and biases that no other node reads."""
    names = list(node.input[1:])
    known = all(name in weights and len(graph.users[name]) == 1 for name in names)
    return known and len(weights[names[0]].dims) == 4


def _group(node: Any) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "group"), 1)


def _depthwise(node: Any, weights: dict[str, Any]) -> bool:
    shape = weights[node.input[1]].dims
    return _group(node) > 1 and shape[1] == 1 and shape[0] % _group(node) == 0


def _number(weights: dict[str, Any], node: Any, place: int) -> float | None:
    """A constant scalar input; None where it is absent or not constant."""
    from onnx import numpy_helper

    if len(node.input) <= place or node.input[place] not in weights:
        return None
    value = numpy_helper.to_array(weights[node.input[place]])
    return float(value.reshape(-1)[0]) if value.size == 1 else None


def _stretch(largest: Array, bound: float, power: float) -> Array:
    """By channel how many times it is stretched, so that all come near the largest one; 1 and above."""
    dead = largest < 1e-6 * max(float(largest.max()), 1e-30)  # a channel that is always zero gains nothing
    seen = np.where(dead, largest.max(), largest)
    found = (largest.max() / seen) ** power
    if np.isfinite(bound):
        found = np.minimum(found, bound / (HEADROOM * seen))
    stretch: Array = np.clip(found, 1.0, MOST)
    return stretch
