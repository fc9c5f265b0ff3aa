"""What is seen of ONNX Runtime's CUDA provider without a GPU: which wheel is there, and that no fallback is silent."""

import numpy as np
import pytest

import targets
from runtime import engines, host
from runtime.engines.onnxruntime import CPU, CUDA
from runtime.errors import EngineError, EngineMissing
from runtime.tensors import Specs, TensorSpec

ort = pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
engine = engines.get("onnxruntime_cuda")

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
