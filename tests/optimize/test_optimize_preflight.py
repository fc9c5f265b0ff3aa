"""What a run would do, before it is done."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimize.preflight import preflight
from runtime.errors import InputError


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    x, y = tiny_data
    np.savez("data.npz", x=x, y=y)
    return tmp_path


def test_what_would_be_done_and_what_it_takes(place, tiny_onnx):
    found = preflight(str(tiny_onnx), data="data.npz", targets=["openvino", "onnxruntime"])
    for target in ("openvino", "onnxruntime"):
        row = found["targets"][target]
        assert (row["compiles_here"], row["runs_here"], row["reason"]) == ("yes", "yes", "")
        assert row["plain_fp32_ms"] > 0 and row["ram_mib"] > 20 and 0 < row["flash_mib"] < 1
        assert "quantize_static" in found["candidates"][f"{target}-int8"]["steps"]
    assert re.match(r"about \d+\.\d min of compiling and measuring here", found["expected"])
    assert sorted(path.name for path in place.iterdir()) == ["cache", "data.npz"]  # results of steps are kept, no more


def test_how_long_steps_may_train_is_told_and_what_candidates_share_counts_once(place):
    layers = "nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)"
    (place / "model.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        f"    return nn.Sequential({layers})\n"
    )
    (place / "recipe.toml").write_text(
        '[model]\nentry = "model.py:build"\n[data]\npath = "data.npz"\n[targets.onnxruntime]\n[targets.openvino]\n'
        '[[steps]]\nuse = "prune_channels"\nmacs = 0.5\n[[steps]]\nuse = "recover"\nminutes = 2\n'
        '[[steps]]\nuse = "quantize_static"\n'
    )
    assert ", and 2 min of training at most; " in preflight("recipe.toml")["expected"]
    timed = preflight("recipe.toml", ["search.time=90"])["expected"]
    assert timed.endswith("; the search ends after 90 s")


def test_a_device_that_is_too_small_is_said(place, tiny_onnx):
    found = preflight(
        str(tiny_onnx), ["device.flash_mib=0.001", "device.ram_mib=8"], data="data.npz", targets=["onnxruntime"]
    )
    reason = found["targets"]["onnxruntime"]["reason"]
    assert "MiB of flash, the device has 0.001" in reason and "MiB of ram, the device has 8" in reason
    with pytest.raises(InputError, match=r"device\.flash_mib"):
        preflight(str(tiny_onnx), ["device.flash_mib=0"], data="data.npz", targets=["onnxruntime"])


def trees(path) -> str:
    """x[0] <= 0 -> 1, else 2: an op that ONNX Runtime has and OpenVINO has not."""
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0],
    )  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 3), ("y", 1))]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(
        helper.make_graph([node], "trees", ends[:1], ends[1:]), opset_imports=opsets, ir_version=9
    )
    onnx.save(model, path)
    return str(path)


def test_an_op_that_a_target_has_not_is_named(place):
    x = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    np.savez("rows.npz", x=x, y=np.where(x[:, :1] <= 0, 1, 2).astype(np.float32))
    found = preflight(trees(place / "trees.onnx"), data="rows.npz", targets=["openvino", "onnxruntime"])["targets"]
    assert (found["openvino"]["compiles_here"], found["onnxruntime"]["runs_here"]) == ("no", "yes")
    assert "TreeEnsembleRegressor" in found["openvino"]["reason"]


def test_a_target_that_cannot_be_built_here_says_what_mends_it(place, tiny_onnx):
    import targets

    if targets.get("tensorrt").why_not() is None:
        pytest.skip("a GPU is here")
    found = preflight(str(tiny_onnx), data="data.npz", targets=["tensorrt"])
    assert found["targets"]["tensorrt"]["compiles_here"] == "no" and found["targets"]["tensorrt"]["reason"]
    assert all(row["remark"] == "travels as its source" for row in found["candidates"].values())
