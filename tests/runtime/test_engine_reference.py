"""What onnx's evaluator has not by itself: Q/DQ of older opsets, and text that is no object."""

import numpy as np
import pytest

from runtime import engines, host
from runtime.tensors import Specs, TensorSpec

onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
FLOAT, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING


def session(folder, nodes, kind, weights, opset):
    helper = onnx.helper
    ports = [helper.make_tensor_value_info("x", kind, ["n", 3]), helper.make_tensor_value_info("y", FLOAT, ["n", 3])]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), folder / "m.onnx")
    dtype = "str" if kind == STRING else "float32"
    specs = Specs((TensorSpec("x", dtype, ("n", 3)),), (TensorSpec("y", "float32", ("n", 3)),))
    return engines.get("reference").open({"model": folder / "m.onnx"}, specs, host.facts(), {})


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_it_dequantizes_in_every_opset(tmp_path, opset):
    scales, zeros = np.array([0.1, 0.5, 1], np.float32), np.array([128, 0, 7], np.uint8)
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    x = np.array([[0.26, 0.6, 2.4]], np.float32)
    found = session(tmp_path, nodes, FLOAT, {"s": scales, "z": zeros}, opset).run({"x": x})["y"]
    np.testing.assert_allclose(found, [[0.3, 0.5, 2.0]], rtol=1e-6)


def test_text_of_fixed_length_is_text(tmp_path):
    nodes = [
        onnx.helper.make_node("Equal", ["x", "red"], ["same"]),
        onnx.helper.make_node("Cast", ["same"], ["y"], to=FLOAT),
    ]
    found = session(tmp_path, nodes, STRING, {"red": np.array(["red"], object)}, 19)
    words = np.array([["red", "blue", "red"]])
    for given in (words, words.astype(object)):
        assert found.run({"x": given})["y"].tolist() == [[1, 0, 1]]
