"""Explaining an engine: whom to blame, and the engines' own profiles of networks with a planted layer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import targets
from optimize.data import Split
from optimize.explain import blame, explain, flat, islands, profile, shares
from optimize.models import read_onnx
from optimize.profiles import Layer
from optimize.steps import Context
from optimize.steps.quantize_static import Step as Quantize
from runtime import engines, host, writer
from runtime.bundle import EngineEntry, Fallback
from runtime.errors import BundleError, WorkError


def layer(name, ms, precision="int8", kind="compute", op="Conv"):
    return Layer(name, op, ms, precision, kind)


CHAIN = [layer("a", 1), layer("b", 1), layer("c", 1), layer("d", 1), layer("e", 1)]


def test_no_single_layer_is_to_blame():
    assert blame(CHAIN).startswith(
        "No single layer is to blame: the largest, a (Conv, int8), takes 1.000 of 5.000 ms (20%)"
    )


def test_the_layer_that_takes_most_is_named():
    assert blame([*CHAIN, layer("big", 9, "f32")]).startswith(
        "big (Conv, f32) is to blame: it alone takes 9.000 of 14.000"
    )


def test_who_interrupts_int8_is_named_with_what_it_costs_around():
    odd = [layer("q", 0.5, "f32", "convert"), layer("odd", 0.2, "f32", op="Sin"), layer("dq", 0.5, "int8", "convert")]
    said = blame([*CHAIN[:2], *odd, *CHAIN[2:]])
    assert said.startswith("odd (Sin) is to blame: it runs in f32 between layers in int8, with 2 conversions")
    assert "1.200 of 6.200 ms (19%)" in said
    (island,) = islands([*CHAIN[:2], *odd, *CHAIN[2:]])
    assert [one.name for one in island.layers] == ["q", "odd", "dq"]


def test_what_comes_before_the_first_and_after_the_last_int8_layer_is_no_interruption():
    ends = [layer("q", 3, "int8", "convert"), *CHAIN, layer("softmax", 0.5, "f32", op="Softmax")]
    assert islands(ends) == []
    assert islands([layer("x", 1, "f32")] * 3) == [] and islands([]) == []


def test_the_parts_sum_to_the_whole():
    layers = [*CHAIN, layer("q", 0.5, "int8", "convert"), layer("r", 0.25, "f32", "move"), layer("s", 3, "f32")]
    found = shares(layers)
    assert found == {"computing in int8": 5, "computing in f32": 3, "converting": 0.5, "moving": 0.25}
    assert blame([]) == "The profile has no times."


# --- the engines' own


def network(path: Path, odd: str | None) -> Path:
    """Six convolutions of 32 channels with ReLU; `odd` is an op planted between the third and the fourth."""
    random = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for i in range(6):
        weight = (random.standard_normal((32, 32, 3, 3)) * 0.08).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        name = f"r{i}"
        if i == 2 and odd:
            nodes.append(helper.make_node(odd, [name], ["planted"], "planted"))
            name = "planted"
    nodes[-1].output[0] = "y"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 32, 24, 24)) for n in "xy"]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Makes a bundle of the network in int8 for an engine, with or without the planted op."""

    def make(engine: str, odd: str | None):
        folder = tmp_path_factory.mktemp("explained")
        source = read_onnx(network(folder / "model.onnx", odd))
        x = np.random.default_rng(1).standard_normal((8, 32, 24, 24)).astype(np.float32)
        split = Split("calibrate", lambda: iter([({"x": x[i : i + 1]}, None) for i in range(8)]))
        scheme = targets.get(engine).scheme("host", host.facts())
        (folder / "quantized").mkdir()
        made = Quantize()(source, Context(split, {}, scheme, folder / "quantized"))
        (folder / "engine").mkdir()
        options = targets.get(engine).plain
        files = engines.get(engine).compile(made.path, folder / "engine", options)
        entry = EngineEntry(
            f"{engine}-int8", engine, engine, {role: str(file) for role, file in files.items()}, str(made.path), options
        )
        return writer.write(
            folder / "bundle", name="chain", specs=source.specs, engines=[entry], axes={}, made_with={},
            fallback=Fallback({"model": str(source.path)}, {engine: dict(options)}),
        )  # fmt: skip

    return make


FEEDS = {"x": np.random.default_rng(2).standard_normal((1, 32, 24, 24)).astype(np.float32)}


def profiled(bundle):
    entry = bundle.engines[0]
    return profile(entry.engine, bundle.resolve(entry.files), entry.options, FEEDS)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_planted_op_that_breaks_the_fusion_is_named(bundle, engine):
    clean, broken = bundle(engine, None), bundle(engine, "Erf")
    layers = profiled(clean)
    assert sum(one.precision == "int8" and one.kind == "compute" for one in layers) >= 5
    assert not any("planted" in one.name for island in islands(layers) for one in island.layers)
    layers = profiled(broken)
    (island,) = [one for one in islands(layers) if one.head.op == "Erf" or "planted" in one.head.name]
    assert "planted" in island.head.name and island.head.precision == "f32"
    assert all(one.ms >= 0 for one in layers) and sum(one.ms for one in layers) > 0


def test_a_bundle_is_explained_and_an_engine_without_a_profile_said(bundle, tmp_path):
    made = bundle("onnxruntime", "Erf")
    found = explain(str(made.path), None, 1)
    engine = found["engines"]["onnxruntime-int8"]
    assert "planted" in engine["sentence"] or "is to blame" in engine["sentence"]
    assert engine["plain_fp32_ms"] > 0 and engine["total_ms"] == pytest.approx(sum(engine["ms"].values()))
    assert json.dumps(found) and "onnxruntime-int8, costliest layers" in flat(found)
    reference = bundle("reference", None)
    assert "gives no profile" in explain(str(reference.path), None, 1)["engines"]["reference-int8"]["sentence"]
    with pytest.raises(BundleError):
        explain(str(tmp_path / "none"), None, 1)


def test_a_peak_that_cannot_be_measured_is_said_and_the_profile_stays(bundle, monkeypatch):
    def fails(engine, threads):
        raise WorkError("killed at its limit")

    monkeypatch.setattr("optimize.explain._peaks", fails)
    engine = explain(str(bundle("onnxruntime", None).path), None, 1)["engines"]["onnxruntime-int8"]
    assert engine["layers"] and engine["total_ms"] > 0 and not engine["reached"]
    assert engine["reach"] == "What share of this machine's peak it reaches could not be told: killed at its limit"


def test_the_command(bundle):
    made = bundle("openvino", None)
    done = subprocess.run(
        [sys.executable, "-m", "optimize", "explain", made.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "openvino-int8: " in done.stdout and "int8 instructions" in done.stdout
