"""One file on every engine: what agrees, and what is seen where something does not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimize.consistency import consistency
from runtime.errors import InputError


def test_a_sound_model_agrees_everywhere(tiny_onnx, tiny_data, tmp_path):
    np.savez(tmp_path / "data.npz", x=tiny_data[0], y=tiny_data[1])
    found = consistency(str(tiny_onnx), str(tmp_path / "data.npz"))
    assert found["differ"] == "none" and found["samples"] == 64
    ran = {name: row for name, row in found["engines"].items() if row["runs_here"] == "yes"}
    assert {"onnxruntime", "openvino", "reference"} <= set(ran)
    for row in ran.values():
        assert row["relative_difference"] < 1e-4 and row["largest_difference"] < 1e-4 and row["agreement"] == 1
        assert row["batch_against_one_by_one"] < 1e-4
        assert row["two_builds"] == "the same bytes"
    for name, row in found["engines"].items():
        assert name in ran or row["reason"]


def test_rows_that_depend_on_their_neighbours_are_seen(tmp_path):
    """x minus the batch's mean: what a BatchNormalization left in training mode does."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    mean = helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1)
    nodes = [mean, helper.make_node("Sub", ["x", "mean"], ["y"])]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    found = consistency(str(tmp_path / "m.onnx"), None, samples=8)
    for name in ("onnxruntime", "openvino"):
        assert "depends on those beside it" in found["engines"][name]["differs"]
    assert "onnxruntime" in found["differ"]


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"takes an \.onnx file or a bundle"):
        consistency(str(tmp_path / "model.py"), None)
