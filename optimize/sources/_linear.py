"""An ONNX file of skl2onnx's, with one output, and what is linear in it in plain ops, after ONNX-ML's specification.

Engines but ONNX Runtime have none of the domain ai.onnx.ml. Trees and support vectors stay what they are.
"""

from typing import Any

import numpy as np

from optimize.steps._graph import drop_unused
from runtime.tensors import Array

OPSET = 18
_LINEAR = ("Scaler", "Normalizer", "LinearRegressor", "LinearClassifier")
_AFTER = {"NONE": None, "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax"}


def in_plain_ops(proto: Any, classes: int, output: str) -> Any:
    """The same file with its answer alone, called `output`.

    Args:
        proto: as skl2onnx writes it: of a classifier labels and probabilities (or scores), else what it predicts.
        classes: how many; 0 of what predicts numbers.
        output: of shape [batch, classes], or [batch] of a regressor of one number.
    """
    import onnx
    from onnx import helper

    graph = proto.graph
    for node in graph.node:  # a tensor of their own by this name makes room
        for names in (node.input, node.output):
            names[:] = [f"{output}_inside" if name == output else name for name in names]
    kept = graph.output[1 if classes else 0]
    widths = [classes] if classes else [one.dim_value for one in kept.type.tensor_type.shape.dim][1:]
    flat = not classes and widths == [1]
    # a ZipMap makes a dictionary a sample
    answer = next((node.input[0] for node in graph.node if node.op_type == "ZipMap"), kept.name)
    writer = _Writer(graph)
    nodes = []
    for node in graph.node:
        nodes += writer.plain(node) if node.domain == "ai.onnx.ml" and node.op_type in _LINEAR else [node]
    ends = [helper.make_node("Reshape", [kept.name, writer.constant(np.array([-1]))], [output])] if flat else [
        helper.make_node("Identity", [answer], [output])
    ]  # fmt: skip
    del graph.node[:]
    graph.node.extend([*nodes, *ends])
    del graph.output[:]
    shape = ["batch"] if flat else ["batch", *widths]
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))
    for one in graph.input:
        one.type.tensor_type.shape.dim[0].dim_param = "batch"
    drop_unused(proto)
    trees = [one for one in proto.opset_import if one.domain and any(node.domain == one.domain for node in graph.node)]
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid("", OPSET), *trees])
    onnx.checker.check_model(proto)
    return proto


class _Writer:
    """Writes nodes and their constants, by names that nothing has yet."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"linear_{self._count}"

    def constant(self, value: Array) -> str:
        from onnx import numpy_helper

        name = self.name()
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def plain(self, node: Any) -> list[Any]:
        """A node of ai.onnx.ml in plain ops; the node itself where it asks for what they do not say."""
        from onnx import helper

        facts = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        make = helper.make_node
        given = node.input[0]
        if node.op_type == "Scaler":  # (x - offset) * scale
            middle = self.name()
            offset, scale = (self.constant(np.array(facts[key], np.float32)) for key in ("offset", "scale"))
            return [make("Sub", [given, offset], [middle]), make("Mul", [middle, scale], [node.output[0]])]
        if node.op_type == "Normalizer":
            if facts.get("norm") != b"L1":
                return [node]
            total, axis = self.name(), self.constant(np.array([-1]))
            return [
                make("ReduceL1", [given, axis], [total], keepdims=1), make("Div", [given, total], [node.output[0]]),
            ]  # fmt: skip
        after = facts.get("post_transform", b"NONE").decode()
        bias = np.array(facts.get("intercepts", []), np.float32)
        if after not in _AFTER or not bias.size:
            return [node]
        weights = self.constant(np.array(facts["coefficients"], np.float32).reshape(len(bias), -1))
        out = node.output[1 if node.op_type == "LinearClassifier" else 0]
        scores = self.name() if _AFTER[after] else out
        made = [make("Gemm", [given, weights, self.constant(bias)], [scores], transB=1)]
        if name := _AFTER[after]:
            made.append(make(name, [scores], [out]))  # the last axis is Softmax's own
        if node.op_type == "LinearClassifier":  # whoever reads its labels keeps it; else it goes with what is unused
            made.append(make(node.op_type, node.input, [node.output[0], self.name()], domain=node.domain, **facts))
        return made
