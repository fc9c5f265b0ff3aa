"""Measured peaks, and the operations of a call: counted by hand, and against torch's own count."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize import peak
from optimize.models import TorchModel, macs, read_onnx
from optimize.peak import multiplications, peaks, work
from runtime.errors import EngineError
from runtime.tensors import TensorSpec


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "wanted"),
    [
        ("Conv", [[2, 3, 8, 8], [16, 3, 3, 3]], [[2, 16, 8, 8]], 2 * 16 * 64 * 27),
        ("Conv", [[1, 16, 8, 8], [16, 1, 3, 3], [16]], [[1, 16, 8, 8]], 16 * 64 * 9),  # depthwise
        ("ConvTranspose", [[1, 4, 5, 5], [4, 2, 3, 3]], [[1, 2, 7, 7]], 100 * 18),
        ("MatMul", [[7, 2, 3], [3, 5]], [[7, 2, 5]], 7 * 2 * 5 * 3),
        ("Gemm", [[4, 6], [6, 5], [5]], [[4, 5]], 4 * 5 * 6),
        ("Gemm", [[6, 4], [5, 6]], [[4, 5]], 4 * 5 * 6),  # both transposed
        ("Relu", [[4, 6]], [[4, 6]], 0),
        ("Shape", [[4, 6]], [], 0),
    ],
)
def test_the_multiplications_of_a_node(op, inputs, outputs, wanted):
    assert multiplications(op, inputs, outputs) == wanted


@pytest.mark.parametrize("batch", [1, 3])
def test_a_models_operations_are_those_that_torch_counts(tiny_module, tiny_onnx, tiny_data, tmp_path, batch):
    np.savez(tmp_path / "feeds.npz", tiny_data[0][:batch])
    found = work(str(tiny_onnx), str(tmp_path / "feeds.npz"), ["image"])
    model = TorchModel(tiny_module, (TensorSpec("image", "float32", ("batch", 3, 8, 8)),))
    assert found["operations"] == 2 * batch * macs(model, {"batch": {"min": 1, "best": 1, "max": 4}})
    assert found["bytes"] == tiny_onnx.stat().st_size + batch * 3 * 8 * 8 * 4


def test_a_model_that_does_not_run_is_said(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    weights = [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "bad", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    np.savez(tmp_path / "feeds.npz", np.ones((1, 2), np.float32))
    with pytest.raises(EngineError, match=r"does not run m\.onnx"):
        work(str(tmp_path / "m.onnx"), str(tmp_path / "feeds.npz"), ["x"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_a_machine_reaches_at_best(engine, monkeypatch):
    monkeypatch.setattr(peak, "SIDE", 128)
    monkeypatch.setattr(peak, "SECONDS", 0.01)
    monkeypatch.setattr(peak, "COPY_BYTES", 2**20)
    found = peaks(engine, 1)
    assert {"f32", "int8", "copy"} <= set(found) <= {"f32", "int8", "bf16", "copy"}
    assert all(np.isfinite(value) and value > 0 for value in found.values())


@pytest.mark.parametrize("engine", ["reference", "tensorrt"])
def test_an_engine_without_a_yardstick_has_no_peak(engine):
    assert peaks(engine, 1) == {}


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_the_yardstick_is_a_valid_model(dtype, monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "SIDE", 32)
    path = peak._product(tmp_path / "product.onnx", dtype)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert [str(spec) for spec in read_onnx(path).specs.inputs] == ["x: float32[32, 32]"]
