"""What is ExecuTorch's own: integer kernels, memory that is laid out beforehand, ops that it does not get."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import targets
from runtime import engines, host
from runtime.errors import EngineError
from runtime.tensors import Specs, TensorSpec

NEEDS = "pip install 'edge-optimize[executorch]'"
executorch = pytest.importorskip("executorch", reason=NEEDS)
onnx = pytest.importorskip("onnx", reason=NEEDS)
helper, numpy_helper = onnx.helper, onnx.numpy_helper

SPECS = Specs((TensorSpec("x", "float32", ("batch", 3, 8, 8)),), (TensorSpec("y", "float32", ("batch", 5)),))
RNG = np.random.default_rng(0)


def layer(name: str, weight, given: str, op: str, rounds: bool, **facts):
    """A layer's nodes and weights: Q/DQ before it and on its weight, and behind it where it `rounds`."""
    scale = (np.abs(weight).reshape(len(weight), -1).max(1) / 127).astype(np.float32)
    integers = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
    held = {
        f"{name}w": integers, f"{name}s": scale, f"{name}z": np.zeros(len(scale), np.int8),
        f"{name}b": RNG.normal(size=len(weight)).astype(np.float32),
        f"{name}a": np.float32(0.05), f"{name}o": np.int8(-3),
    }  # fmt: skip
    node = helper.make_node
    made = [
        node("QuantizeLinear", [given, f"{name}a", f"{name}o"], [f"{name}q"]),
        node("DequantizeLinear", [f"{name}q", f"{name}a", f"{name}o"], [f"{name}x"]),
        node("DequantizeLinear", [f"{name}w", f"{name}s", f"{name}z"], [f"{name}v"], axis=0),
        node(op, [f"{name}x", f"{name}v", f"{name}b"], [f"{name}y"], **facts),
    ]
    if rounds:
        made += [
            node("Clip", [f"{name}y", "zero", "six"], [f"{name}c"]),
            node("QuantizeLinear", [f"{name}c", f"{name}a", f"{name}o"], [f"{name}r"]),
            node("DequantizeLinear", [f"{name}r", f"{name}a", f"{name}o"], [f"{name}"]),
        ]
    return made, held


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """A convolution that is padded on one side more, which rounds its answer, and a matrix product that does not."""
    conv, weights = layer("conv", RNG.normal(size=(4, 3, 3, 3)), "x", "Conv", True, strides=[2, 2], pads=[0, 0, 1, 1])
    flat = [helper.make_node("Flatten", ["conv"], ["flat"])]
    gemm, more = layer("gemm", RNG.normal(size=(5, 64)), "flat", "Gemm", False, transB=1)
    gemm[-1].output[0] = "y"
    held = {**weights, **more, "zero": np.float32(0), "six": np.float32(6)}
    graph = helper.make_graph(
        [*conv, *flat, *gemm], "g",
        [helper.make_tensor_value_info("x", 1, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["batch", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("rounded") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def opened(path, folder, **options):
    engine = engines.get("executorch")
    return engine.open(engine.compile(path, folder, options), SPECS, host.facts(), {})


def test_layers_in_int8_answer_as_their_file_does_and_the_rest_is_in_float(rounded, tmp_path):
    session = opened(rounded, tmp_path)
    reference = engines.get("reference").open({"model": rounded}, SPECS, host.facts(), {})
    for batch in (1, 3, 16):
        x = RNG.normal(size=(batch, 3, 8, 8)).astype(np.float32)
        error, _ = engines.relative_error(session.run({"x": x}), reference.run({"x": x}))
        assert error < 0.02
    assert session.precision() == {"int8": 2, "f32": 1}  # the convolution with its Clip; the product


def test_what_is_longer_than_was_planned_is_refused_and_more_can_be_planned(rounded, tmp_path):
    x = RNG.normal(size=(40, 3, 8, 8)).astype(np.float32)
    session = opened(rounded, tmp_path)
    with pytest.raises(EngineError, match=r"ExecuTorch failed on .*40, 3, 8, 8"):
        session.run({"x": x})
    assert session.run({"x": x[:2]})["y"].shape == (2, 5)  # and goes on
    limits = targets.get("executorch").profiles(SPECS, {"batch": {"min": 2, "best": 8, "max": 40}})
    (tmp_path / "more").mkdir()
    assert opened(rounded, tmp_path / "more", profiles=limits).run({"x": x})["y"].shape == (40, 5)


@pytest.mark.parametrize("most", [16, 32, 40])  # the layers have 32 channels and more
def test_no_number_of_samples_is_taken_for_that_of_channels(most, tmp_path):
    """Torch compares the two somewhere, and would take the example's side of it for the only one."""
    from optimize import flags

    model = f"{Path(flags.__file__).parent / 'examples' / 'digits' / 'model.py'}:build"
    flags.export(model, tmp_path / "model.onnx", None, None, ["image=batch,1,32,32"], 18, False)
    specs = Specs(
        (TensorSpec("image", "float32", ("batch", 1, 32, 32)),), (TensorSpec("output", "float32", ("batch", 10)),)
    )
    engine = engines.get("executorch")
    limits = targets.get("executorch").profiles(specs, {"batch": {"min": 1, "best": 8, "max": most}})
    session = engine.open(
        engine.compile(tmp_path / "model.onnx", tmp_path, {"profiles": limits}), specs, host.facts(), {}
    )
    reference = engines.get("onnxruntime").open({"model": tmp_path / "model.onnx"}, specs, host.facts(), {})
    for batch in (n for n in (1, 2, 8, 16, 31, 32, 33, 40) if n <= most):
        x = RNG.normal(size=(batch, 1, 32, 32)).astype(np.float32)
        error, _ = engines.relative_error(session.run({"image": x}), reference.run({"image": x}))
        assert error < 1e-4


def test_an_op_that_it_does_not_get_is_named(tmp_path):
    node = helper.make_node("Det", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [2, 2]), ("y", []))]
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), tmp_path / "m.onnx")
    with pytest.raises(EngineError, match="Det"):
        engines.get("executorch").compile(tmp_path / "m.onnx", tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_its_threads_are_those_asked_for(rounded, tmp_path):
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    engine = engines.get("executorch")
    files = engine.compile(rounded, tmp_path, {})
    sessions = {threads: engine.open(files, SPECS, host.facts(), {"threads": threads}) for threads in (1, 2)}
    for threads in (1, 2, 1):  # each call's, whatever another session has
        sessions[threads].run({"x": np.zeros((1, 3, 8, 8), np.float32)})
        assert sessions[threads].threads == _threadpool_get_thread_count() == threads


def test_no_method_outlives_the_threads_that_it_was_loaded_with(rounded, tmp_path):
    """In a process whose freed memory is overwritten: what still points to it crashes."""
    files = {name: str(path) for name, path in engines.get("executorch").compile(rounded, tmp_path, {}).items()}
    script = f"""
import numpy as np
from pathlib import Path
from runtime import engines, host
from runtime.tensors import Specs, TensorSpec
engine, files = engines.get("executorch"), {{name: Path(path) for name, path in {files}.items()}}
specs = Specs((TensorSpec("x", "float32", ("batch", 3, 8, 8)),), (TensorSpec("y", "float32", ("batch", 5)),))
opened = [engine.open(files, specs, host.facts(), {{"threads": threads}}) for threads in (1, 2, 3)]
feeds = {{"x": np.ones((9, 3, 8, 8), np.float32)}}
answers = [opened[place].run(feeds)["y"] for place in (0, 1, 2, 1, 0, 0)]
[session.inside(feeds)() for session in opened]
assert all(np.array_equal(answers[0], answer) for answer in answers)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "MALLOC_PERTURB_": "85"}
    )
    assert ended.returncode == 0, ended.stderr


def test_running_does_not_import_the_compiler_and_leaves_it_whole():
    """It takes four times as long as all else that a start imports."""
    script = """
import sys
from runtime.engines import executorch
executorch._library()
assert not {"executorch.exir", "torchao", "onnx"} & set(sys.modules)
assert executorch._library()._load_program
from executorch.exir import to_edge_transform_and_lower
assert executorch._library()._load_program
"""
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_what_portable_kernels_compute_is_counted(tmp_path):
    node = helper.make_node("Erf", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), tmp_path / "m.onnx")
    files = engines.get("executorch").compile(tmp_path / "m.onnx", tmp_path, {})
    assert json.loads(files["ports"].read_text())["precision"] == {"f32 in portable kernels": 1}
