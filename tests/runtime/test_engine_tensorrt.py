import ast
import json
import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import standin_cuda
import tensorrt_cpu

import targets
from runtime import engines
from runtime.bundle import EngineEntry
from runtime.engines import _cuda, tensorrt
from runtime.engines import _tensorrt_vendor as vendor
from runtime.errors import EngineError, EngineMissing, InputError
from runtime.fitness import misfit
from runtime.host import facts
from runtime.tensors import Specs, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "runtime" / "engines").glob("*tensorrt*.py"))
SPECS = Specs((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 2)),))


@pytest.fixture
def trt(monkeypatch):
    """TensorRT with a real builder and parser, importable in this test only."""
    if lacking := tensorrt_cpu.lacking():
        pytest.skip(lacking)
    module = tensorrt_cpu.enable()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_onnx, tiny_data):
    """`tiny_onnx` by precision, made by the program's own steps in TensorRT's scheme, and in ONNX Runtime's."""
    from optimize.data import NAMES, from_arrays
    from optimize.models import read_onnx
    from optimize.steps import Context, get

    splits = from_arrays({name: {"image": tiny_data[0]} for name in NAMES}, "tiny")

    def context(target):
        scheme = targets.get(target).scheme("host", facts())
        axes = {"batch": {"min": 1, "best": 1, "max": 4}}
        return Context(splits.calibrate, axes, scheme, tmp_path_factory.mktemp("model"))

    plain = read_onnx(tiny_onnx)
    int8 = get("quantize_static")()(plain, context("tensorrt"))
    return {
        "fp32": plain.path,
        "fp16": get("cast_fp16")()(plain, context("tensorrt")).path,
        "int8": get("cast_fp16")()(int8, context("tensorrt")).path,
        "int8 for onnxruntime": get("quantize_static")()(plain, context("onnxruntime")).path,
        "bf16": get("cast_bf16")()(plain, context("tensorrt")).path,
        "int8 and bf16": get("cast_bf16")()(int8, context("tensorrt")).path,
        **{
            kind: get("fold_postprocessing")(kind=kind)(plain, context("tensorrt")).path
            for kind in ("softmax", "argmax", "top_k")
        },
    }


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Two matrix products with weights in blocks, by their bits and method."""
    from torch import nn

    from optimize.data import NAMES, from_arrays
    from optimize.models import TorchModel
    from optimize.steps import Context, get

    x = np.random.default_rng(0).standard_normal((16, 8, 128)).astype(np.float32)
    splits = from_arrays({name: {"x": x} for name in NAMES}, "tiny")

    def context():
        scheme = targets.get("tensorrt").scheme("host", facts())
        return Context(splits.calibrate, {}, scheme, tmp_path_factory.mktemp("model"))

    net = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128)).eval()
    plain = get("export")()(TorchModel(net, (TensorSpec("x", "float32", (1, 8, 128)),)), context())

    def make(bits, method):
        return get("cast_fp16")()(get("quantize_weights")(bits=bits, method=method)(plain, context()), context()).path

    return make


def layers(files) -> list[tuple[str, str]]:
    return [(each["type"], each["dtype"]) for each in json.loads(files["layers"].read_text())["layers"]]


PROFILE = {"image": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}


# --- building, with the real parser and builder


@pytest.mark.parametrize(("name", "dtype"), [("fp32", "FLOAT"), ("fp16", "HALF"), ("int8", "HALF")])
def test_a_plan_is_built_in_the_precision_of_its_graph(trt, models, name, dtype, tmp_path):
    files = tensorrt.compile(models[name], tmp_path, {"profiles": PROFILE})
    assert files == {"model": tmp_path / "model.plan", "layers": tmp_path / "layers.json"}
    assert files["model"].stat().st_size > 10_000
    found = layers(files)
    convolutions = [kind for layer, kind in found if layer == "CONVOLUTION"]
    assert convolutions == [dtype] * 2
    assert [kind for layer, kind in found if layer == "MATRIX_MULTIPLY"] == [dtype]
    assert [kind for layer, kind in found if layer == "REDUCE"] == [dtype]
    assert found[-1][1] == "FLOAT"  # outputs stay in float32
    pairs = [layer for layer, _ in found if layer in ("QUANTIZE", "DEQUANTIZE")]
    assert bool(pairs) == (name == "int8")
    if name == "int8":
        assert {kind for layer, kind in found if layer == "QUANTIZE"} == {"INT8"}
        assert {kind for layer, kind in found if layer == "DEQUANTIZE"} == {"HALF"}
        assert pairs.count("DEQUANTIZE") == pairs.count("QUANTIZE") + 3  # the three weights are stored in int8


@pytest.mark.parametrize(("name", "dtype"), [("bf16", "BF16"), ("int8 and bf16", "BF16")])
def test_a_plan_is_built_in_bf16_where_the_graph_is(trt, models, name, dtype, tmp_path):
    found = layers(tensorrt.compile(models[name], tmp_path, {"profiles": PROFILE}))
    assert [kind for layer, kind in found if layer in ("CONVOLUTION", "MATRIX_MULTIPLY")] == [dtype] * 3
    assert ("QUANTIZE", "INT8") in found or name == "bf16"


@pytest.mark.parametrize("kind", ["softmax", "argmax", "top_k"])
def test_what_follows_the_model_is_in_the_plan(trt, models, kind, tmp_path):
    found = [layer for layer, _ in layers(tensorrt.compile(models[kind], tmp_path, {"profiles": PROFILE}))]
    assert ("SOFTMAX" if kind == "softmax" else "TOPK") in found


@pytest.mark.parametrize(("bits", "method"), [(8, "rtn"), (4, "rtn"), (4, "gptq"), (4, "awq")])
def test_weights_in_blocks_stay_small_in_the_plan(trt, blocks, bits, method, tmp_path):
    found = layers(tensorrt.compile(blocks(bits, method), tmp_path, {}))
    assert found.count(("CONSTANT", f"INT{bits}")) == found.count(("DEQUANTIZE", "HALF")) == 2
    assert [kind for layer, kind in found if layer == "MATRIX_MULTIPLY"] == ["HALF"] * 2


def test_a_plan_is_built_without_a_profile_too(trt, models, tmp_path):
    assert tensorrt.compile(models["fp32"], tmp_path, {})["model"].stat().st_size > 10_000


@pytest.mark.parametrize(
    ("profiles", "words"),
    [
        ({"picture": PROFILE["image"]}, "the model has the inputs image"),
        ({"image": {**PROFILE["image"], "opt": [9, 3, 8, 8]}}, "min <= opt <= max"),
        ({"image": {**PROFILE["image"], "max": [4, 3, 9, 8]}}, "min <= opt <= max"),
        ({"image": {"min": [1], "opt": [1], "max": [1]}}, "min <= opt <= max"),
        ({"image": {"min": [1, 3, 8, 8]}}, "a shape each for min, opt, max"),
        ({"image": 3}, "a shape each for min, opt, max"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(trt, models, profiles, words, tmp_path):
    with pytest.raises(InputError, match=words):
        tensorrt.compile(models["fp32"], tmp_path, {"profiles": profiles})
    assert not list(tmp_path.iterdir())


def test_a_bias_in_int32_is_refused_by_the_parser_and_never_made_by_our_scheme(trt, models, tmp_path):
    onnx = pytest.importorskip("onnx")
    with pytest.raises(EngineError, match=r"node '\w+\.?\w*' \(DequantizeLinear\).*Int32"):
        tensorrt.compile(models["int8 for onnxruntime"], tmp_path, {})
    graph = onnx.load(models["int8"]).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    stored = [kinds[node.input[0]] for node in graph.node
              if node.op_type == "DequantizeLinear" and node.input[0] in kinds]  # fmt: skip
    assert stored == [onnx.TensorProto.INT8] * 3
    assert onnx.TensorProto.INT32 not in kinds.values()


def test_an_unsupported_op_is_named_with_its_node(trt, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes = [helper.make_node("Relu", ["x"], ["a"], "first"), helper.make_node("Det", ["a"], ["y"], "the odd one")]
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 3, 3]), ("y", [1]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"m\.onnx: node 'the odd one' \(Det\): it is not supported"):
        tensorrt.compile(tmp_path / "m.onnx", tmp_path, {})


@pytest.mark.parametrize("content", [b"", b"this is no model", None])
def test_what_is_no_model_is_refused(trt, content, tmp_path):
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot take m\.onnx"):
        tensorrt.compile(tmp_path / "m.onnx", tmp_path, {})


def test_settings_reach_the_builder(trt, models, tmp_path, caplog, monkeypatch):
    seen = {}
    original = tensorrt._configure

    def configure(module, config, options):
        original(module, config, options)
        flags = ("SPARSE_WEIGHTS", "TF32", "VERSION_COMPATIBLE")
        seen.update({flag: config.get_flag(getattr(module.BuilderFlag, flag)) for flag in flags})

    monkeypatch.setattr(tensorrt, "_configure", configure)
    tensorrt.compile(models["fp32"], tmp_path, {})
    assert seen == {"SPARSE_WEIGHTS": False, "TF32": True, "VERSION_COMPATIBLE": False}  # as its vendor ships it
    with caplog.at_level(logging.WARNING):
        tensorrt.compile(models["fp32"], tmp_path, {"sparsity": True, "tf32": False, "hardware_compatible": True})
    assert seen == {"SPARSE_WEIGHTS": True, "TF32": False, "VERSION_COMPATIBLE": False}
    assert "setHardwareCompatibilityLevel" in caplog.text  # the library that builds here has no other than its own


def test_what_the_builder_lacks_is_said_in_one_line(trt, models, tmp_path):
    with pytest.raises(
        EngineError, match=r"^TensorRT cannot build \S+: Unable to load library: libnvinfer_lean[^\n]*$"
    ):
        tensorrt.compile(models["fp32"], tmp_path, {"version_compatible": True})


def test_the_timing_cache_is_kept_between_builds(trt, models, tmp_path):
    cache = tmp_path / "caches" / "timings"
    given = []

    class Config:
        def create_timing_cache(self, data):
            given.append(bytes(data))
            return len(given)

        def set_timing_cache(self, cache, ignore_mismatch):
            assert ignore_mismatch is False
            return given[-1] != b"of another GPU"

    (tmp_path / "a").mkdir()
    tensorrt.compile(models["fp32"], tmp_path / "a", {"timing_cache": str(cache)})
    kept = cache.read_bytes()
    assert kept
    assert list(cache.parent.iterdir()) == [cache]
    tensorrt._load_timings(Config(), cache)
    tensorrt._load_timings(Config(), cache.parent / "none yet")
    cache.write_bytes(b"of another GPU")
    tensorrt._load_timings(Config(), cache)
    assert given == [kept, b"", b"of another GPU", b""]


def test_a_build_reports_its_progress(trt, models, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(vendor, "SAY_EVERY", 0.0)
    with caplog.at_level(logging.INFO):
        tensorrt.compile(models["fp32"], tmp_path, {})
    said = re.findall(r"TensorRT builds: (\d+)%, .+, about \d+ s left", caplog.text)
    shares = [int(share) for share in said]
    assert len(shares) > 10
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 100


def test_progress_counts_steps_within_steps():
    now, said = [0.0], []
    progress = vendor.Progress(said.append, lambda: now[0])
    progress.start("build", None, 4)
    progress.step("build", 0)
    progress.start("tune", "build", 10)
    for index in range(5):
        now[0] += 6
        progress.step("tune", index)
    assert said[-1] == f"TensorRT builds: 38%, tune, about {30 * (1 - 0.375) / 0.375:.0f} s left"
    progress.finish("tune")
    progress.start("tune again", "build", 10)
    now[0] += 6
    progress.step("tune again", 0)
    assert said[-1].startswith("TensorRT builds: 38%, tune again")  # what was said is not taken back


def test_without_a_driver_opening_is_an_error_and_the_target_says_so(trt, models, tmp_path):
    pytest.importorskip("cuda.bindings", reason="pip install cuda-python")
    if _cuda.devices():
        pytest.skip("a GPU is here")
    files = tensorrt.compile(models["fp32"], tmp_path, {})
    with pytest.raises(EngineError, match="driver"):
        tensorrt.open(files, SPECS, facts(), {})
    assert "run on the device" in targets.get("tensorrt").why_not()


def test_the_wheels_for_tests_alone_are_not_taken_for_tensorrt():
    if lacking := tensorrt_cpu.lacking():
        pytest.skip(lacking)
    code = "import onnxruntime, targets; print(targets.get('tensorrt').why_not())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "pip install 'edge-optimize[tensorrt]'" in done.stdout


# --- the API, held against the real bindings


# What a name in our sources stands for.
CLASSES = {
    "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "parser": "OnnxParser",
    "tensor": "ITensor", "each": "ILayer", "profile": "IOptimizationProfile", "runtime": "Runtime",
    "engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector", "error": "ParserError",
}  # fmt: skip
# What a call gives whose result is used at once.
GIVES = {"get_timing_cache": "ITimingCache", "create_engine_inspector": "EngineInspector", "get_output": "ITensor"}
OWN = {"__name__", "errors"}  # not TensorRT's: a module's name, the list that our logger keeps


def used() -> set[str]:
    """Every attribute of TensorRT that the sources use, from the module down: `Builder.create_network`."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(value=ast.Call(func=ast.Attribute(attr=call))) if call in GIVES:
                    found.add(f"{GIVES[call]}.{node.attr}")
                case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name)) if name.lstrip("_") in CLASSES:
                    found.add(f"{CLASSES[name.lstrip('_')]}.{node.attr}")
                case ast.Attribute(value=ast.Attribute(value=ast.Name(id="trt"), attr=kind), attr=member):
                    found.add(f"{kind}.{member}")
                case ast.Attribute(value=ast.Name(id="trt"), attr=kind):
                    found.add(kind)
    return found - OWN


def test_the_search_for_the_api_finds_it():
    found = used()
    assert len(found) > 50
    assert {name.partition(".")[0] for name in found} >= set(CLASSES.values())
    assert {"Builder.build_serialized_network", "BuilderFlag.TF32", "IExecutionContext.execute_async_v3"} <= found
    assert {"ITimingCache.serialize", "EngineInspector.get_engine_information", "ITensor.dtype"} <= found


WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.16": "tensorrt-cu12-bindings==10.16.1.11",
    "11": "tensorrt-cu13-bindings>=11,<12",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The oldest bindings that we promise (JetPack 6), the last of 10, and 11; in folders, as all have one name."""
    if lacking := tensorrt_cpu.lacking():
        pytest.skip(lacking)
    found = {}
    for version, wheel in WHEELS.items():
        folder = tmp_path_factory.mktemp("tensorrt")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), wheel]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PIP_NO_INPUT": "1"}
        )
        if done.returncode:
            pytest.skip(f"pip cannot get {wheel}: {done.stderr.strip().splitlines()[-1:]}")
        found[version] = folder
    return found


@pytest.mark.parametrize("wanted", WHEELS)
def test_every_attribute_that_we_use_is_in_the_real_bindings(wheels, wanted):
    code = """
import functools, json, sys
from pathlib import Path
import tensorrt_cpu
module = tensorrt_cpu.load_to_look_at(Path(sys.argv[1]), int(sys.argv[2]))
lacking = []
for name in json.loads(sys.argv[3]):
    try:
        functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        lacking.append(name)
print(json.dumps([module.__version__, lacking]))
"""
    ours = [f"IProgressMonitor.{name}" for name in ("phase_start", "step_complete", "phase_finish")]  # overridden
    names = json.dumps([*sorted(used()), *ours, "ILogger.log"])
    done = subprocess.run(
        [sys.executable, "-c", code, str(wheels[wanted]), wanted.partition(".")[0], names],
        capture_output=True, text=True, cwd=ROOT / "tests", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, lacking = json.loads(done.stdout)
    assert version.startswith(f"{wanted}.")
    assert lacking == []


def test_every_function_of_cuda_that_we_use_is_there_and_our_stand_in_has_it():
    real = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-python")
    names = {
        name for path in [*SOURCES, Path(_cuda.__file__)] for name in re.findall(r"\.(cuda[A-Z]\w+)", path.read_text())
    }
    assert len(names) > 15
    standin = standin_cuda.cuda()
    for module in (real, standin):
        enums = (*module.cudaMemcpyKind, *module.cudaStreamCaptureMode, *module.cudaDeviceAttr)
        members = {**vars(module), **{one.name: one for one in enums}}
        assert names - set(members) == set()


# --- running, with stand-ins for the GPU


def test_what_a_plan_needs_is_this_version_and_this_kind_of_gpu(gpu):
    found = tensorrt.facts()
    assert {key: found[key] for key in ("compute_capability", "driver", "cuda")} == {
        "compute_capability": "8.7", "driver": "12.6", "cuda": "13.0",
    }  # fmt: skip
    needs = tensorrt.needs({})
    assert needs == {"version": {"is": found["version"]}, "compute_capability": {"is": "8.7"}}
    wide = tensorrt.needs({"version_compatible": True, "hardware_compatible": True})
    assert wide == {"version": {"from": found["version"]}, "compute_capability": {"from": "8.0"}}
    entry = EngineEntry("e", "tensorrt", "tensorrt", {"model": "m"}, "s", needs=needs)
    assert misfit(entry, facts(), found) is None
    for other in ({"compute_capability": "9.0"}, {"version": "9.9"}):
        lack = misfit(entry, facts(), {**found, **other})
        assert lack is not None and lack.curable  # another GPU, or another version: it is compiled there


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """(open a session, the stand-in for CUDA, the stand-in for TensorRT)."""
    driver = standin_cuda.cuda()
    module = standin_cuda.tensorrt(driver)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    (tmp_path / "model.plan").write_bytes(b"plan of a network")

    def open_(options=None, specs=SPECS, content=None):
        if content is not None:
            (tmp_path / "model.plan").write_bytes(content)
        return tensorrt.open({"model": tmp_path / "model.plan"}, specs, facts(), options or {})

    return open_, driver, module


def feed(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 4)).astype(np.float32)


def right(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), 2, 2).sum(2)


@pytest.mark.parametrize("options", [{}, {"cuda_graph": True}], ids=["plain", "graph"])
def test_a_session_answers_for_each_batch(gpu, options):
    session = gpu[0](options)
    assert isinstance(session.threads, int)
    kept = []
    for seed, batch in enumerate((4, 4, 4, 1, 8, 8, 2, 2, 4)):
        x = feed(batch, seed)
        given = x[:, ::-1].copy()[:, ::-1] if seed % 2 else x
        kept.append((x, session.run({"x": given})["y"]))
    for x, y in kept:  # an answer does not change with the next
        np.testing.assert_array_equal(y, right(x))
    out = np.full((2, 3), np.nan, np.float32).T[:2].T[:, :2]
    session.run({"x": feed(2)}, out={"y": out})
    np.testing.assert_array_equal(out, right(feed(2)))
    assert session.precision() == {"f32": 1}


def test_the_network_alone_copies_nothing(gpu, monkeypatch):
    open_, driver, _ = gpu
    session = open_({"cuda_graph": True})
    once = session.inside({"x": feed(4)})
    copies = []
    monkeypatch.setattr(driver, "cudaMemcpyAsync", lambda *arguments: copies.append(arguments))
    for _ in range(3):
        once()
    assert copies == [] and driver.events == [] and not driver.pending
    session.close()
    assert driver.alive == {}


def test_each_layers_time_is_told(gpu, tmp_path):
    from optimize.profiles import tensorrt as profiles

    _, driver, _ = gpu
    reformat, total = profiles.profile({"model": tmp_path / "model.plan"}, {}, {"x": feed(2)}, 10)
    assert (reformat.name, reformat.kind, reformat.ms) == ("Reformat x", "convert", 0.25)
    assert (total.name, total.kind, total.ms, total.precision, total.op) == ("sum", "compute", 1.0, "f32", "kgen")
    assert driver.alive == {}


def test_a_repeated_shape_is_one_launch_of_a_graph(gpu):
    open_, driver, _ = gpu
    session = open_({"cuda_graph": True})
    for seed in range(4):
        np.testing.assert_array_equal(session.run({"x": feed(4, seed)})["y"], right(feed(4, seed)))
    assert driver.events == ["captured", "launched", "launched", "launched"]
    session.run({"x": feed(2)})
    session.run({"x": feed(4)})  # what was recorded for another shape is gone
    assert driver.events[4:] == ["captured", "captured"]
    session.close()
    assert not driver.alive
    assert not driver.streams


def test_a_network_that_cannot_be_recorded_is_an_error_that_says_what_to_do(gpu):
    open_, driver, _ = gpu
    driver.fail = "capture"
    session = open_({"cuda_graph": True})
    with pytest.raises(EngineError, match="leave out the option cuda_graph"):
        session.run({"x": feed(4)})


def test_a_session_answers_from_many_threads(gpu):
    open_, _, module = gpu
    session = open_()
    with ThreadPoolExecutor(8) as pool:
        feeds = [feed(1 + i % 8, i) for i in range(200)]
        for x, found in zip(feeds, pool.map(lambda x: session.run({"x": x})["y"], feeds), strict=True):
            np.testing.assert_array_equal(found, right(x))
    assert 1 <= module.network.contexts <= 8


def test_closing_gives_everything_back_and_a_call_after_it_is_an_error(gpu):
    open_, driver, _ = gpu
    session = open_()
    session.run({"x": feed(8)})
    assert driver.alive
    session.close()
    assert not driver.alive
    assert not driver.streams
    with pytest.raises(EngineError, match="closed"):
        session.run({"x": feed(8)})
    session.close()


def test_a_shape_outside_of_the_profile_is_an_error_and_the_session_goes_on(gpu):
    session = gpu[0]()
    session.run({"x": feed(4)})
    with pytest.raises(EngineError, match=r"'x' has the shape \(9, 4\); this plan takes \(1, 4\) to \(8, 4\)"):
        session.run({"x": feed(9)})
    np.testing.assert_array_equal(session.run({"x": feed(4)})["y"], right(feed(4)))


def test_an_output_as_long_as_its_values_say_is_refused(gpu):
    open_, _, module = gpu
    module.network.unknown_output = True
    with pytest.raises(EngineError, match="depends on the values"):
        open_().run({"x": feed(4)})


def test_memory_that_is_not_there_is_an_error_with_cudas_words(gpu):
    open_, driver, _ = gpu
    session = open_()
    for kind in ("device", "host"):
        driver.fail = kind
        with pytest.raises(EngineError, match="CUDA: out of memory"):
            session.run({"x": feed(4)})
    driver.fail = None
    np.testing.assert_array_equal(session.run({"x": feed(4)})["y"], right(feed(4)))


def test_a_session_is_checked_against_the_manifest(gpu):
    open_, _, _ = gpu
    for inputs, outputs in ((("z", "float32"), ("y", "float32")), (("x", "float16"), ("y", "float32"))):
        specs = Specs(*((TensorSpec(name, dtype, ("batch", 4)),) for name, dtype in (inputs, outputs)))
        with pytest.raises(EngineError, match="the manifest says"):
            open_(specs=specs)
    with pytest.raises(EngineError, match=r"cannot load model\.plan: no plan"):
        open_(content=b"something else")


def test_a_plans_own_code_is_let_in_only_where_it_is_asked_for(gpu):
    open_, _, module = gpu
    open_()
    assert module.runtime.engine_host_code_allowed is False
    open_({"version_compatible": True})
    assert module.runtime.engine_host_code_allowed is True


def test_options_are_checked():
    with pytest.raises(InputError, match="unknown option of tensorrt 'no_such'"):
        tensorrt.open({}, SPECS, facts(), {"no_such": 1})
    with pytest.raises(InputError, match="'sparsity' of tensorrt is 1"):
        tensorrt.compile(Path("x"), Path("y"), {"sparsity": 1})
    with pytest.raises(InputError, match="'profiles' of tensorrt"):
        tensorrt.compile(Path("x"), Path("y"), {"profiles": []})


def test_without_tensorrt_that_for_rtx_is_taken(monkeypatch):
    standin = standin_cuda.tensorrt(standin_cuda.cuda())
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # import says that it is not there
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineMissing, match=r"tensorrt is not installed: pip install 'edge-optimize\[tensorrt\]'"):
        vendor.find()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", standin)
    assert vendor.find() is standin


# --- what is read out of its files


def test_the_formats_of_a_plan_are_counted_in_both_forms_of_the_inspector():
    old = {
        "Layers": [
            {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32 format"}]},
            {
                "LayerType": "CaskConvolution",
                "Inputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
            },
            {"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Half"}, {"Format/Datatype": "Int8"}]},
            {"LayerType": "gemm", "Inputs": [], "Outputs": [{"Format/Datatype": "Half"}]},
        ],
        "Bindings": ["x", "y"],
    }
    assert tensorrt.precisions(json.dumps(old)) == {"int8": 2, "f16": 1}
    new = {
        "Layers": [
            {
                "LayerType": "kgen",
                "Inputs": [{"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "Float"}],
            },
            {"LayerType": "kgen", "Inputs": [{"Format": "kLINEAR", "DataType": "BFloat16"}]},
            {"LayerType": "kgen", "Inputs": [{"Format": "kLINEAR", "DataType": "Int64"}]},
        ],
        "I/O Tensors": [],
    }
    assert tensorrt.precisions(json.dumps(new)) == {"f32": 1, "bf16": 1}
    assert tensorrt.precisions(json.dumps({"Layers": ["names", "alone"]})) == {}
    assert set(engines.get("tensorrt").TOLERANCE) >= {"int8", "f16", "f32", "bf16"}


def test_the_axes_of_a_recipe_become_profiles():
    specs = Specs(
        (
            TensorSpec("tokens", "int64", ("batch", "length")),
            TensorSpec("table", "float32", (7, 3)),
            TensorSpec("other", "float32", ("batch", 3)),
        ),
        (),
    )
    axes = {"batch": {"min": 1, "best": 2, "max": 4}}
    assert targets.listing.get("targets", "tensorrt", "target").profiles(specs, axes) == {
        "tokens": {"min": [1, 1], "opt": [2, 1], "max": [4, 16]},
        "other": {"min": [1, 3], "opt": [2, 3], "max": [4, 3]},
    }
