"""What scales and shifts the channels behind a convolution goes into its weights: exporters write batch norms so.

Engines fuse some of its forms, a quantizer none: it would round between the layer and its activation.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from optimize.steps._graph import drop_unused, fresh
from optimize.steps._layers import Graph
from runtime.tensors import Array


def fold(proto: Any) -> int:
    """Change a graph in place; returns how many nodes went into convolutions, those in float32."""
    from onnx import TensorProto, numpy_helper

    graph = Graph(proto)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    taken = {*graph.maker, *graph.users}
    folded: list[Any] = []
    for conv in graph.nodes:
        if conv.op_type != "Conv" or not all(name in weights for name in conv.input[1:]):
            continue
        kernel, *bias = (numpy_helper.to_array(weights[name]) for name in conv.input[1:])
        scale, shift = np.ones(len(kernel)), np.array(bias[0] if bias else np.zeros(len(kernel)), np.float64)
        before = len(folded)
        for user, value in _behind(graph, conv.output[0], weights, kernel):
            if user.op_type == "Mul":
                scale, shift = scale * value, shift * value
            else:
                shift = shift + value if user.op_type == "Add" else shift - value
            folded.append(user)
        if len(folded) > before:
            scaled = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            new = [fresh(f"{conv.output[0]}_{what}", taken) for what in ("kernel", "bias")]
            for name, array in zip(new, (scaled, shift), strict=True):
                proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
            conv.input[1:], conv.output[0] = new, folded[-1].output[0]
    if not folded:
        return 0
    kept = [node for node in graph.nodes if not any(node is one for one in folded)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    drop_unused(proto)
    return len(folded)


def _behind(graph: Graph, name: str, weights: Mapping[str, Any], kernel: Array) -> Iterator[tuple[Any, Array]]:
    """The nodes one behind the other that scale or shift the channels of a convolution's answer, and by how much."""
    from onnx import numpy_helper

    while name not in graph.outputs and len(users := graph.users.get(name, [])) == 1:
        (user,) = users
        if user.op_type not in ("Add", "Sub", "Mul") or (user.op_type == "Sub" and user.input[0] != name):
            return
        tensor = weights.get(next((other for other in user.input if other != name), ""))
        if tensor is None or len(tensor.dims) > kernel.ndim:
            return
        value = numpy_helper.to_array(tensor)
        wide = value.reshape((1,) * (kernel.ndim - value.ndim) + value.shape)
        if wide.size != (wide.shape[1] if wide.shape[1] == len(kernel) else 1):
            return
        yield user, np.broadcast_to(wide.reshape(-1).astype(np.float64), len(kernel))
        name = user.output[0]
