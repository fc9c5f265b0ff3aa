"""Bundles and models of any origin: rechecked on other data, and timed with their size and the clock's cover said."""

import shutil

import numpy as np
import pytest

from optimize import foreign
from optimize.bench import Scenarios, bench_all
from optimize.models import read_onnx
from optimize.scenarios import Sweep
from runtime import engines, writer
from runtime.bundle import EngineEntry, Fallback
from runtime.errors import BundleError, InputError


@pytest.fixture
def bundle(tmp_path, tiny_onnx):
    """The tiny network for ONNX Runtime, plain and as an engine of its own."""
    (tmp_path / "engine").mkdir()
    files = engines.get("onnxruntime").compile(tiny_onnx, tmp_path / "engine", {"threads": 1})
    entry = EngineEntry(
        "onnxruntime-same", "onnxruntime", "onnxruntime", {k: str(v) for k, v in files.items()}, str(tiny_onnx)
    )
    fallback = Fallback({"model": str(tiny_onnx)}, {"onnxruntime": {"threads": 1}})
    specs = read_onnx(tiny_onnx).specs
    return writer.write(
        tmp_path / "bundle", name="tiny", specs=specs, engines=[entry], fallback=fallback, axes={}, made_with={}
    )


@pytest.fixture
def data(tmp_path, tiny_data):
    np.savez(tmp_path / "new.npz", x=tiny_data[0], y=tiny_data[1])
    return str(tmp_path / "new.npz")


def test_a_bundle_is_rechecked_against_its_plain_model(bundle, data):
    found = foreign.recheck(str(bundle.path), data, None, None, "10pp", "all")
    assert list(found["models"]) == ["fallback on onnxruntime", "onnxruntime-same"] and found["metric"] == "accuracy"
    row = found["models"]["onnxruntime-same"]
    assert (row["status"], row["drop"], row["verdict"], row["agreement"], row["flipped"]) == (
        "measured", 0, "within", 1.0, 0,
    )  # fmt: skip
    assert found["samples"] == 64


def test_an_engine_that_does_not_run_here_is_said(bundle, data, tiny_onnx):
    other = EngineEntry(
        "elsewhere", "openvino", "openvino", {}, str(tiny_onnx), needs={"instruction_sets_any": ["no_such_set"]}
    )
    plain = Fallback({"model": str(tiny_onnx)}, {"onnxruntime": {}})
    path = bundle.path.with_name("second")
    writer.write(path, name="t", specs=bundle.specs, engines=[other], fallback=plain, axes={}, made_with={})
    found = foreign.recheck(str(path), data, None, None, None, "all")
    assert found["models"]["elsewhere"]["status"] == "failed"
    assert "it needs one of no_such_set" in found["models"]["elsewhere"]["reason"]


def test_what_is_no_bundle_or_no_data_is_refused(bundle, data, tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        foreign.recheck(str(tmp_path / "none"), data, None, None, None, None)
    with pytest.raises(InputError):
        foreign.recheck(str(bundle.path), str(tmp_path / "none.npz"), None, None, None, None)
    with pytest.raises(InputError, match="max-drop"):
        foreign.recheck(str(bundle.path), data, None, None, "much", None)


def test_bench_says_what_is_covered_and_how_large_it_is(bundle, tiny_onnx, tmp_path):
    copied = shutil.copy(tiny_onnx, tmp_path / "model.onnx")
    found = bench_all([str(copied), str(bundle.path)], None, None, (), 1, 0.1, False)
    sizes = {name: row["size_bytes"] for name, row in found["models"].items()}
    assert sizes[str(copied)] == tiny_onnx.stat().st_size < sizes[str(bundle.path)]
    assert found["clock"].startswith("host to host")
    itself = found["base_against_itself"]
    assert itself["low"] < itself["ratio"] < itself["high"]
    assert found["noisy"] is False or "run again" in found["noisy"]
    assert found["rounds"] >= 8 and "paced" not in found


def test_what_else_is_asked_for_has_a_section_of_its_own(bundle):
    asked = Scenarios(paced=200, arrivals=True, soak=4, sweep=Sweep((1, 4)))
    found = bench_all([str(bundle.path)], None, None, (), 1, 0.1, False, asked)
    name = str(bundle.path)
    paced = found["paced"][name]
    assert paced["calls"] == 1000 and 0 < paced["p50_ms"] <= paced["p90_ms"] <= paced["p99_ms"]
    loads = list(found["arrivals"].values())
    assert len(loads) == 4 and all(row["calls"] >= 100 for row in loads)
    assert loads[-1]["p99_ms"] > loads[0]["p50_ms"], "who comes when it is busy waits"
    soak = found["soak"][name]
    assert soak["seconds"] == 4 and soak["memory_mib"] > 1 and abs(soak["memory_mib_a_minute"]) < 500
    assert [(row["contender"], row["batch"]) for row in found["throughput"]] == [(name, 1), (name, 4)]
    assert all(row["samples_a_second"] > 0 for row in found["throughput"])


def test_a_batch_that_does_not_run_is_said(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (2, 3)) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "fixed", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "f.onnx")
    found = bench_all([str(tmp_path / "f.onnx")], None, None, (), 1, 0.1, False, Scenarios(sweep=Sweep((2, 3))))
    good, bad = found["throughput"]
    assert good["samples_a_second"] > 0 and bad["failed"] == "the model takes batches of 2 alone"


def test_one_that_fails_alone_costs_neither_the_measurement_nor_the_others(bundle, tiny_onnx, monkeypatch):
    from optimize import scenarios
    from runtime.errors import EngineError

    paced = scenarios.paced

    def failing(worker, rate):
        if worker.name == str(bundle.path):
            raise EngineError("it stopped on the way")
        return paced(worker, rate)

    monkeypatch.setattr(scenarios, "paced", failing)
    found = bench_all([str(tiny_onnx), str(bundle.path)], None, None, (), 1, 0.1, False, Scenarios(paced=500))
    assert list(found["paced"]) == [str(tiny_onnx)] and len(found["models"]) == 2
    assert found["failed alone"] == {str(bundle.path): {"reason": "it stopped on the way"}}
