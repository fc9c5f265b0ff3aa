"""What only OpenVINO has here: kernels of an older processor, devices, streams."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import targets
from runtime import engines, host
from runtime.contender import Contender, Worker
from runtime.engines.openvino import ISAS, properties
from runtime.errors import EngineError, InputError
from runtime.tensors import Specs, TensorSpec

pytest.importorskip("openvino", reason="pip install 'edge-optimize[openvino]'")
ENGINE = engines.get("openvino")
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
WIDE = Specs((TensorSpec("x", "float32", ("n", 64, 8, 8)),), (TensorSpec("y", "float32", ("n", 16, 8, 8)),))
WIDE_INT8 = {"avx512_vnni", "avx_vnni"}


@pytest.fixture(scope="module")
def saturating(tmp_path_factory):
    """A convolution of int8 weights and ones, and what its Q/DQ file means: 576 in the middle of each picture."""
    onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
    from onnx import helper, numpy_helper

    def write(weight: int) -> Path:
        tensors = {
            "sx": np.float32(1 / 255), "zx": np.uint8(0), "W": np.full((16, 64, 3, 3), weight, np.int8),
            "sw": np.full(16, 1 / weight, np.float32), "zw": np.zeros(16, np.int8),
        }  # fmt: skip
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "sx", "zx"], ["d"]),
            helper.make_node("DequantizeLinear", ["W", "sw", "zw"], ["w"], axis=0),
            helper.make_node("Conv", ["d", "w"], ["y"], pads=[1] * 4),
        ]
        ends = [
            helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, list(spec.shape))
            for spec in (*WIDE.inputs, *WIDE.outputs)
        ]
        weights = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        path = tmp_path_factory.mktemp("saturating") / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path

    return write


def answer(path: Path, **options) -> float:
    """In a process of its own: kernels can be limited only before OpenVINO is loaded."""
    arguments = {"engine": "openvino", "files": {"model": str(path)}, "specs": WIDE.to_json(), "options": options}
    feeds = {"x": np.ones((1, 64, 8, 8), np.float32)}
    with Worker.start(Contender("e", "runtime.worker:open_engine", arguments), feeds) as worker:
        return float(worker.outputs["y"][0, 0, 4, 4])


def test_int8_that_saturates_on_an_older_processor_is_seen_on_this_one(saturating):
    """u8 x s8 products, two of which are summed in 16 bits by AVX2: 2 x 255 x 127 is too much, 2 x 255 x 64 is not."""
    if host.facts().architecture not in ("x86_64", "AMD64"):
        pytest.skip("this processor has no AVX2 to be limited to")
    if WIDE_INT8 & set(host.facts().instruction_sets):
        assert answer(saturating(127), precision="f32") == pytest.approx(576, rel=1e-3)
    assert answer(saturating(127), precision="f32", isa="AVX2") < 0.6 * 576
    assert answer(saturating(64), precision="f32", isa="AVX2") == pytest.approx(576, rel=1e-3)


def test_as_it_ships_it_runs_on_older_kernels_though_the_processor_has_bf16(saturating):
    if host.facts().architecture not in ("x86_64", "AMD64"):
        pytest.skip("this processor has no AVX2 to be limited to")
    for cpu in ("avx2", "vnni"):
        older = targets.get("openvino").engine_options({"cpu": cpu})
        assert older["isa"] in ISAS[:-1], "those without bf16"
        assert properties(older, 2)["INFERENCE_PRECISION_HINT"] == "f32"
    older = targets.get("openvino").engine_options({"cpu": "avx2"})
    assert answer(saturating(64), **older) == pytest.approx(576, rel=1e-3)
    assert properties({"isa": "AVX512_CORE_BF16"}, 2) == properties({}, 2) == {}


def test_a_limit_that_comes_too_late_is_an_error(tiny_onnx):
    ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(gpus=False), {})
    with pytest.raises(EngineError, match="loaded in this process already"):
        ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(gpus=False), {"isa": "AVX2"})
    with pytest.raises(InputError, match="'isa' of openvino is 'AVX3'"):
        ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(gpus=False), {"isa": "AVX3"})


def test_a_device_that_is_not_there_is_named_with_those_that_are(tiny_onnx):
    with pytest.raises(EngineError, match=r"finds no device NPU7 here; it finds .*CPU"):
        ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(gpus=False), {"device": "NPU7"})


def test_streams_and_the_model_cache(tiny_onnx, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path))
    feeds = {"image": tiny_data[0][:2]}
    here = host.facts(gpus=False)
    plain = ENGINE.open({"model": tiny_onnx}, SPECS, here, {"threads": 1}).run(feeds)["output"]
    for options in ({"threads": 2, "streams": 2, "hint": "throughput"}, {"threads": 1, "cache": True}):
        found = ENGINE.open({"model": tiny_onnx}, SPECS, here, options)
        np.testing.assert_allclose(found.run(feeds)["output"], plain, rtol=1e-5, atol=1e-6)
    assert list((tmp_path / "openvino").glob("*.blob"))


def test_a_single_number_that_may_not_be_written_is_taken(tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
    node = onnx.helper.make_node("Mul", ["x", "x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph, ir_version=9), tmp_path / "m.onnx")
    specs = Specs((TensorSpec("x", "float32", ()),), (TensorSpec("y", "float32", ()),))
    session = ENGINE.open({"model": tmp_path / "m.onnx"}, specs, host.facts(), {})
    x = np.array(3, np.float32)
    x.flags.writeable = False
    assert session.run({"x": x})["y"] == 9 and session.begin({"x": x})()["y"] == 9


def test_fixed_sizes_are_compiled_first_and_others_when_they_come(tiny_onnx, tiny_data):
    plain = ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(), {"precision": "f32"})
    found = ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(), {"precision": "f32", "fixed": {"batch": 2}})
    for size in (2, 5, 2, 3):
        feeds = {"image": tiny_data[0][:size]}
        np.testing.assert_allclose(found.run(feeds)["output"], plain.run(feeds)["output"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.begin(feeds)()["output"], plain.run(feeds)["output"], rtol=1e-5, atol=1e-6)
        found.inside(feeds)()
    assert found.threads == plain.threads and found.precision() == plain.precision()
    for session in (plain, found):
        session.close()
    for size in (2, 5):
        with pytest.raises(EngineError, match="closed"):
            found.run({"image": tiny_data[0][:size]})


def test_a_model_for_fixed_sizes_alone_loads_nothing_else(tiny_onnx, tiny_data):
    found = ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(), {"fixed": {"batch": 2}})
    found.run({"image": tiny_data[0][:2]})
    assert found._other is None
    found.close()
    with pytest.raises(EngineError, match="closed"):  # and does not open it then
        found.run({"image": tiny_data[0][:5]})


@pytest.mark.parametrize("fixed", [{"batch": 0}, {"batch": "2"}, {"batch": True}, {"batch": 1.5}])
def test_fixed_sizes_are_whole_numbers(tiny_onnx, fixed):
    with pytest.raises(InputError, match=r"option 'fixed' of openvino is .*; it takes axes with a size each"):
        ENGINE.open({"model": tiny_onnx}, SPECS, host.facts(), {"fixed": fixed})


def test_its_converter_is_not_imported_with_it_and_is_there_for_whom_asks():
    code = """
import sys
from runtime import engines
engines.get("openvino").facts()
import openvino
assert not any(name.startswith(("openvino.tools.ovc", "urllib.request")) for name in sys.modules)
assert not hasattr(openvino, "no_such_name")
from openvino.tools.ovc import convert_model
assert openvino.convert_model is convert_model
assert engines.get("openvino").facts()["version"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_choice_by_a_mask_is_not_taken_for_int8(tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
    from onnx import helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4, 8]) for name in "xy"]
    mask, zero = np.arange(32).reshape(4, 8) % 3 == 0, np.zeros(1, np.float32)
    tensors = [numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(zero, "zero")]
    nodes = [helper.make_node("Where", ["mask", "x", "zero"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    specs = Specs((TensorSpec("x", "float32", ("n", 4, 8)),), (TensorSpec("y", "float32", ("n", 4, 8)),))
    session = ENGINE.open({"model": path}, specs, host.facts(), {"precision": "f32"})
    assert session.precision() == {"f32": 2}
    session.close()
