"""What is seen of ONNX Runtime's CUDA provider without a GPU: which wheel is there, and that no fallback is silent."""

import numpy as np
import pytest

import targets
from runtime import engines, host
from runtime.engines.onnxruntime import CPU, CUDA
from runtime.errors import EngineError, EngineMissing, InputError
from runtime.tensors import Specs, TensorSpec

ort = pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
engine = engines.get("onnxruntime_cuda")

LACKS = targets.get("onnxruntime_cuda").why_not()
no_gpu = pytest.mark.skipif(bool(host.facts().gpus), reason="a GPU is here: the contract tests use it")


@pytest.fixture
def its_wheel(monkeypatch):
    """ONNX Runtime says that it has the provider, as its wheel for GPUs does wherever it is."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)


def test_the_wheel_for_cpus_is_told_apart_with_the_commands_that_change_it(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(
        EngineMissing, match=r"pip uninstall -y onnxruntime && pip install 'edge-optimize\[onnxruntime_cuda"
    ):
        engine.facts()
    assert "exclude each other" in targets.get("onnxruntime_cuda").why_not()


@no_gpu
def test_without_a_gpu_it_is_for_the_device(its_wheel):
    assert targets.get("onnxruntime_cuda").why_not().endswith("run on the device")


@no_gpu
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_runs_nothing_is_an_error_unless_a_fallback_is_allowed(
    its_wheel, tiny_onnx, tiny_data, tmp_path
):
    files = engine.compile(tiny_onnx, tmp_path, {})
    with pytest.raises(EngineError, match=f"{CUDA} was asked for and runs no node"):
        engine.open(files, SPECS, host.facts(), {"tf32": False})
    session = engine.open(files, SPECS, host.facts(), {"allow_fallback": True})
    assert set(session.precision()) == {"f32 on the CPU"}
    wanted = engines.get("onnxruntime").open(files, SPECS, host.facts(), {}).run({"image": tiny_data[0][:2]})
    np.testing.assert_allclose(session.run({"image": tiny_data[0][:2]})["output"], wanted["output"], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {}),
        ({"tf32": False}, {"use_tf32": "0"}),
        ({"search": "heuristic"}, {"cudnn_conv_algo_search": "HEURISTIC"}),
        ({"search": "exhaustive", "tf32": True}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
    ],
)
def test_options_reach_the_provider(options, given, its_wheel, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(engine, "OnnxRuntimeSession", lambda *given, providers: seen.append(providers))
    engine.open({"model": tmp_path / "model.onnx"}, SPECS, host.facts(gpus=False), options)
    assert seen == [[(CUDA, given), (CPU, {})]]


def test_a_search_that_is_none_is_refused(its_wheel, tmp_path):
    with pytest.raises(InputError, match="'search' of onnxruntime_cuda is 'best'; it takes exhaustive, heuristic"):
        engine.open({"model": tmp_path / "model.onnx"}, SPECS, host.facts(gpus=False), {"search": "best"})
    with pytest.raises(InputError, match="it takes exhaustive, heuristic"):
        engine.compile(tmp_path / "model.onnx", tmp_path, {"search": "best"})


@pytest.mark.skipif(LACKS is not None, reason=f"a GPU alone can tell: {LACKS}")
def test_a_search_is_what_the_session_does(tiny_onnx, tmp_path):
    files = engine.compile(tiny_onnx, tmp_path, {"search": "heuristic"})
    session = engine.open(files, SPECS, host.facts(), {"search": "heuristic"})
    assert session._session.get_provider_options()[CUDA]["cudnn_conv_algo_search"] == "HEURISTIC"


def test_a_library_that_is_there_and_lacks_another_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_a_library.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineMissing, match=r"half_a_library does not load \(No module named 'what_it_needs'\)"):
        engines.library("half_a_library", "onnxruntime_cuda")
    with pytest.raises(EngineMissing, match=r"not_there\.at_all is not installed"):
        engines.library("not_there.at_all", "onnxruntime_cuda")
