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
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9 if opset > 9 else 3),
        folder / "m.onnx",
    )
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


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_softmax_goes_over_the_axes_that_its_opset_says(tmp_path, opset):
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Unsqueeze", ["x"], ["wide"], axes=[2])
        if opset < 13
        else onnx.helper.make_node("Unsqueeze", ["x", "last"], ["wide"]),
        onnx.helper.make_node("Softmax", ["wide"], ["soft"], **({} if opset < 13 else {"axis": 1})),
        onnx.helper.make_node("Reshape", ["soft", "shape"], ["y"]),
    ]
    weights = {"shape": np.array([2, 3]), **({} if opset < 13 else {"last": np.array([2])})}
    found = session(tmp_path, nodes, FLOAT, weights, opset).run({"x": x})["y"]
    wanted = np.exp(x) / np.exp(x).sum(1, keepdims=True)  # of old ones over all axes from the second on
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_text_of_fixed_length_is_text(tmp_path):
    nodes = [
        onnx.helper.make_node("Equal", ["x", "red"], ["same"]),
        onnx.helper.make_node("Cast", ["same"], ["y"], to=FLOAT),
    ]
    found = session(tmp_path, nodes, STRING, {"red": np.array(["red"], object)}, 19)
    words = np.array([["red", "blue", "red"]])
    for given in (words, words.astype(object)):
        assert found.run({"x": given})["y"].tolist() == [[1, 0, 1]]
