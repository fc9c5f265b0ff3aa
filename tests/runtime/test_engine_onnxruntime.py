"""What only ONNX Runtime has: execution providers, and graphs that are optimized for one processor."""

from dataclasses import replace

import numpy as np
import pytest

from runtime import engines, host
from runtime.bundle import EngineEntry
from runtime.errors import EngineError, InputError
from runtime.fitness import misfit
from runtime.tensors import Specs, TensorSpec

ort = pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
ENGINE = engines.get("onnxruntime")
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))


def opened(path, **options):
    return ENGINE.open({"model": path}, SPECS, host.facts(gpus=False), options)


def test_a_provider_that_is_not_there_is_named_with_those_that_are(tiny_onnx):
    with pytest.raises(EngineError, match=r"no execution provider NoSuchProvider here; it has .*CPUExecutionProvider"):
        opened(tiny_onnx, providers=["NoSuchProvider"])


def test_a_provider_that_runs_nothing_is_an_error_unless_that_is_allowed(tiny_onnx, tiny_data):
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has no provider that takes no node")
    asked = ["AzureExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(
        EngineError, match=r"AzureExecutionProvider was asked for and runs no node .*CPUExecutionProvider \d"
    ):
        opened(tiny_onnx, providers=asked)
    found = opened(tiny_onnx, providers=asked, allow_fallback=True).run({"image": tiny_data[0][:2]})
    np.testing.assert_array_equal(
        found["output"], opened(tiny_onnx, threads=1).run({"image": tiny_data[0][:2]})["output"]
    )


@pytest.mark.parametrize(
    "options", [{"graph": "best"}, {"providers": [1]}, {"providers": "CPUExecutionProvider"}, {"allow_fallback": 1}]
)
def test_options_that_cannot_be_are_refused(tiny_onnx, tmp_path, options):
    with pytest.raises(InputError):
        opened(tiny_onnx, **options)
    with pytest.raises(InputError):
        ENGINE.compile(tiny_onnx, tmp_path, options)


def test_a_graph_for_this_processor_answers_alike_and_says_what_it_needs(tiny_onnx, tmp_path, tiny_data):
    answers = {}
    for graph in ("portable", "host"):
        (tmp_path / graph).mkdir()
        files = ENGINE.compile(tiny_onnx, tmp_path / graph, {"threads": 1, "graph": graph})
        answers[graph] = opened(files["model"], threads=1).run({"image": tiny_data[0][:2]})["output"]
    np.testing.assert_allclose(answers["host"], answers["portable"], rtol=1e-4, atol=1e-5)
    assert "layout" not in ENGINE.needs({"graph": "portable"})
    here = host.facts(gpus=False)
    entry = EngineEntry("e", "o", "onnxruntime", {"model": "m"}, "s", needs=ENGINE.needs({"graph": "host"}))
    assert misfit(entry, here, ENGINE.facts()) is None
    for other in ((), ("avx2",), ("avx2", "avx512f"), ("asimd",)):
        there = replace(here, instruction_sets=other)
        lack = misfit(entry, there, ENGINE.facts())
        same = {name for name in ("avx2", "avx512f", "asimd") if name in here.instruction_sets} == set(other)
        assert (lack is None) is same
        assert lack is None or (lack.curable and "it was compiled for a processor with" in lack.reason)


def test_a_provider_that_fails_in_a_call_is_an_error(tiny_onnx, tiny_data, monkeypatch, capsys):
    class Failing:
        """In the place of the library's own session."""

        def __init__(self, own):
            self.own = own

        def run(self, *args):
            raise ort.capi.onnxruntime_pybind11_state.EPFail("out of memory")

        def __getattr__(self, name):
            return getattr(self.own, name)

    class Session(ort.InferenceSession):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self._sess = Failing(self._sess)

    monkeypatch.setattr(ort, "InferenceSession", Session)
    with pytest.raises(EngineError, match="out of memory"):
        opened(tiny_onnx, threads=1).run({"image": tiny_data[0][:2]})
    assert capsys.readouterr().out == ""  # where ONNX Runtime's own `run` says that it takes another provider
