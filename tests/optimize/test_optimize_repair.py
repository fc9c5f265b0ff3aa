"""Layers back to float: what they regain for what they cost, by themselves and in a whole run."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_optimize_report import accuracy, row

from optimize import recipe, repair
from optimize.build import Built, Lost
from optimize.models import write_onnx
from optimize.plan import Candidate, expand
from optimize.progress import Progress
from optimize.repair import Repaired
from optimize.report import LayerRepair
from optimize.steps import get
from optimize.steps._float import quantized
from optimize.steps.quantize_static import Step as Static
from optimize.steps.repair import Step as Repair
from optimize.verify import judge
from runtime import host
from runtime.contender import Contender
from runtime.errors import StepError
from targets import Scheme

SCHEME = Scheme(ops=("Conv", "Gemm", "GlobalAveragePool"))


UNSEEN = SimpleNamespace(traces={})
ASKED = recipe.from_table(
    {"model": {"path": "m.onnx"}, "data": {"path": "d.npz"}, "targets": {"onnxruntime": {}}}, Path()
)


def judged(holds):
    """The row of a try that loses nothing with layers in float that are enough, and all with others."""
    return lambda one, made: row(one.name, validate=accuracy(drop=0.0 if holds(one.steps[-1].layers) else 1.0))


def test_a_layer_in_float_regains_a_share_of_the_noise(uneven, make_context, tiny_data, tmp_path):
    # one scale for all channels of a weight: the small ones of the first layer are lost
    context = make_context({"image": tiny_data[0]}, scheme=replace(SCHEME, per_channel=False))
    rounded = get("quantize_static")(bias_correction="none")(uneven, context)
    found = repair.regained(uneven, rounded, context.calibrate, tmp_path, lambda *told: None)
    assert [one.name for one in found] == ["first", "depthwise", "pointwise", "classifier"]
    assert max(one.regained for one in found) > 0.2 and all(one.regained < 1 for one in found)
    assert len({one.regained for one in found}) == 4


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A search over three layers whose gains and costs are given; `tried` has the layers of each try."""

    def search(gains, costs, enough, floor=0.01):
        tried = []
        candidate = Candidate("t-int8", "steps", SimpleNamespace(name="t"), (), {}, SCHEME, repair=Repair())

        def build(one):
            layers = one.steps[-1].layers
            if one.name.endswith("-repaired"):
                tried.append(layers)
            return (
                Lost("failed", "as told")
                if "broken" in layers
                else Built(None, {}, SimpleNamespace(name=one.name), "", (), None)
            )

        def measure(contenders, feeds, **asked):
            base = contenders[0].name
            names = {one.name: one.name.removeprefix("t-int8 with ").removesuffix(" in float") for one in contenders}
            traces = {name: SimpleNamespace(samples=np.full(3, 1e6)) for name in names}
            ratios = {name: SimpleNamespace(value=1 / (1 + costs.get(layer, 0.0))) for name, layer in names.items()}
            return SimpleNamespace(traces=traces, ratio=ratios.__getitem__, margin=floor, base=base)

        layers = [LayerRepair(name=name, op="Conv", regained=gain) for name, gain in gains.items()]
        monkeypatch.setattr(repair, "regained", lambda *asked: layers)
        monkeypatch.setattr(repair, "measure", measure)
        builder = SimpleNamespace(unrounded=lambda one: "before", build=build)
        subject = SimpleNamespace(calls=SimpleNamespace(calibrate=None), feeds={})
        built = Built(None, {}, SimpleNamespace(name="t-int8"), "", (), None)
        found = repair.repaired(
            subject, builder, candidate, built, judged(lambda layers: len(layers) >= enough), 0.5,
            tmp_path / "log", Progress(1, silent=True),
        )  # fmt: skip
        return found, tried

    return search


def test_of_two_layers_that_regain_alike_the_cheap_one_goes_first(world):
    found, tried = world({"dear": 0.3, "cheap": 0.3, "little": 0.05}, {"dear": 0.5, "cheap": 0.1, "little": 0.1}, 1)
    assert tried == [("cheap",)]
    assert [(one.name, one.returned) for one in found.layers] == [("cheap", True), ("dear", False), ("little", False)]
    assert [one.ms for one in found.layers] == pytest.approx([0.1, 0.5, 0.1])


def test_what_regains_most_goes_first_where_costs_cannot_be_told_apart(world):
    _, tried = world({"a": 0.1, "b": 0.4, "c": 0.2}, {"a": 0.0, "b": 0.009, "c": -0.004}, 3)
    assert tried == [("b",), ("b", "c"), ("b", "c", "a")]


def test_layers_that_regain_nothing_or_do_not_compile_are_left(world):
    assert world({"a": 0.0, "b": -0.2}, {}, 1) == (None, [])
    found, tried = world({"broken": 0.4, "b": 0.1}, {}, 1)
    assert tried == [("b",)] and [one.name for one in found.layers] == ["b"]


def test_the_step_itself(uneven, make_context, tiny_data):
    feeds = {"image": tiny_data[0]}
    rounded = get("quantize_static")()(uneven, make_context(feeds, scheme=SCHEME))
    context = replace(make_context(feeds, scheme=SCHEME), unrounded=uneven)
    found = Repair(layers=("depthwise",))(rounded, context)
    assert [node.name for node in quantized(onnx.load(found.path))] == ["first", "pointwise", "classifier"]
    assert judge(found).run(feeds)["logits"].shape == (64, 5)
    with pytest.raises(StepError, match="no layer 'relu' multiplies in int8; those that do: first, depthwise"):
        Repair(layers=("relu",))(rounded, context)
    with pytest.raises(StepError, match="nothing to repair"):
        Repair(layers=("first",))(uneven, context)


@pytest.mark.parametrize(
    ("found", "why_not", "words"),
    [
        (StepError("it does not run"), None, "it does not run"),
        (None, None, "no layer by itself regains anything in float"),
        (None, "no such library", "what a layer costs cannot be measured here"),
    ],
)
def test_a_repair_that_fails_costs_nothing_else_and_is_said(monkeypatch, found, why_not, words):
    from optimize import stages

    def search(*asked):
        if found:
            raise found

    monkeypatch.setattr(stages, "repaired", search)
    one = Candidate("t-int8", "steps", SimpleNamespace(name="t"), (), {}, SCHEME, why_not, Repair())
    built = {"t-int8": Built(None, {}, SimpleNamespace(name="t-int8"), "", (), None)}
    run = stages.Run(ASKED, None, [one], built, None, Progress(1, silent=True))
    rows = {"t-int8": row("t-int8", validate=accuracy(drop=0.5)), "original": row("original")}
    assert stages.mended(run, rows, None, 0.01, UNSEEN) == (run, rows, [f"t-int8 was not repaired: {words}"])
    rows["t-int8"] = row("t-int8").model_copy(update={"reason": stages.UNJUDGED})
    assert stages.mended(run, rows, None, 0.01, UNSEEN) == (run, rows, [])


def test_of_several_that_lose_too_much_the_best_is_repaired_and_the_others_only_where_that_is_not_enough(monkeypatch):
    from optimize import stages

    def searched(drops, after, limit=0.01):
        asked = []

        def search(subject, builder, candidate, *others):
            asked.append(candidate.name)
            name = f"{candidate.name}-repaired"
            made = Built(None, {}, SimpleNamespace(name=name), "", (), None)
            return Repaired(replace(candidate, name=name, repair=None), made, told(name, after), ())

        def told(name, drop):
            return row(name, validate=accuracy(drop=drop))

        monkeypatch.setattr(stages, "repaired", search)
        ways = sorted({name.removesuffix("-bf16") for name in drops})
        own = [
            Candidate(name, "steps", SimpleNamespace(name=name[0]), steps, {}, SCHEME, None, Repair())
            for name in drops
            for steps in [(Static(samples=1 + ways.index(name.removesuffix("-bf16"))),)]
        ]
        built = {name: Built(None, {}, SimpleNamespace(name=name), "", (), None) for name in drops}
        rows = {name: told(name, drop) for name, drop in drops.items()}
        run = stages.Run(ASKED, None, own, built, None, Progress(1, silent=True))
        run, rows, notes = stages.mended(run, {**rows, "original": row("original")}, None, limit, UNSEEN)
        return asked, notes, [one.name for one in run.candidates]

    drops = {"t-a": 0.3, "t-b": 0.1, "u-a": 0.2, "u-b": 0.0}
    asked, notes, names = searched(drops, 0.005)
    assert asked == ["t-b"] and names == ["t-a", "t-b", "t-b-repaired", "u-a", "u-b"]
    assert notes == ["u-a was not repaired: u-b holds the limit", "t-a was not repaired: t-b-repaired holds the limit"]
    assert searched(drops, 0.05)[0] == ["t-b", "t-a"]
    asked, notes, _ = searched({"t-a": 0.1, "t-a-bf16": 0.11, "t-b": 0.2, "t-c": 0.3}, 0.05)
    assert asked == ["t-a", "t-b"]  # the same layers with another option are not searched again
    assert notes == [
        "t-a-bf16 was not repaired: it is rounded as t-a is, and that was to no avail",
        "t-c was not repaired: it loses more than t-a and t-b, and that was to no avail",
    ]


CHEAP = frozenset(["a", "c"])


@pytest.mark.parametrize(("low", "wanted"), [(1.2, ["t-b", "t-int8", "t-int8-bf16"]), (1.0, ["t-b", "t-int8-bf16"])])
def test_layers_return_to_the_number_format_in_which_the_model_is_not_surely_slower(low, wanted):
    def ratio(name, base):
        return SimpleNamespace(value=1.3, low=low if (name, base) == ("t-fp32", "t-default") else 0.7, high=1.4)

    seen = SimpleNamespace(traces={"t-fp32": 1, "t-default": 2}, ratio=ratio)
    target, exact = SimpleNamespace(name="t"), {"precision": "f32"}
    own = [
        Candidate("t-fp32", "plain", target, (), exact, SCHEME),
        Candidate("t-default", "vendor", target, (), {}, SCHEME),
        Candidate("t-int8-bf16", "steps", target, (Static(),), {"precision": "bf16"}, SCHEME, None, Repair()),
        Candidate("t-int8", "steps", target, (Static(),), exact, SCHEME, None, Repair()),
        Candidate("t-b", "steps", target, (Static(samples=7),), exact, SCHEME, None, Repair()),
    ]
    drops = {"t-fp32": 0.0, "t-default": 0.0, "t-int8-bf16": 0.3, "t-int8": 0.31, "t-b": 0.2}
    rows = {name: row(name, validate=accuracy(drop=drop)) for name, drop in drops.items()}
    order = [one.name for one in repair.in_turn(own, rows, seen, 0.01)]
    assert order[: len(wanted)] == wanted
    assert repair.in_turn(own, rows, seen, 0.3)[1].name == "t-int8-bf16"  # it holds the limit, so none is repaired


@pytest.mark.parametrize(
    ("times", "taken", "said"),
    [
        (1.2, {"a", "c"}, "the cheapest is 1.20 times as fast as the first 2 layers"),
        (0.9, {"a", "b"}, "the cheapest is 0.90 times as fast as the first 2 layers"),
        (None, {"a", "b"}, "the cheapest failed when it was timed"),
    ],
)
def test_of_two_mixtures_the_engine_tells_which_is_faster(monkeypatch, times, taken, said):
    def measure(contenders, feeds, **asked):
        one, other = (contender.name for contender in contenders)
        traces = {one: None, other: None} if times else {one: None}
        return SimpleNamespace(traces=traces, ratio=lambda name: SimpleNamespace(value={other: times}[name]))

    layers = [LayerRepair(name=name, op="Conv", regained=gain) for name, gain in (("a", 0.5), ("b", 0.3), ("c", 0.1))]
    monkeypatch.setattr(repair, "regained", lambda *asked: layers)
    monkeypatch.setattr(repair, "_costs", lambda *asked: repair._Costs({"a": 1.0, "b": 1.0, "c": 0.9}, 0.1))
    monkeypatch.setattr(repair, "measure", measure)
    monkeypatch.setattr(repair, "cheapest", lambda ms, known, number, seed, tried: (tried(CHEAP), CHEAP)[1])

    def build(one):
        return Built(None, {}, Contender(one.name, "m:open"), "", (), None)

    candidate = Candidate("t", "steps", SimpleNamespace(name="t"), (Static(),), {}, SCHEME, None, Repair())
    subject = SimpleNamespace(calls=SimpleNamespace(calibrate=None), feeds={})
    found = repair.repaired(
        subject, SimpleNamespace(unrounded=lambda one: 1, build=build), candidate, build(candidate),
        judged(lambda layers: len(layers) >= 2), 0.5, None, Progress(1, silent=True), mixtures=5,
    )  # fmt: skip
    assert {one.name for one in found.layers if one.returned} == taken
    assert found.said == f"t: other mixtures of layers in float that were tried: 1; {said}"


@pytest.mark.parametrize(("low", "objective"), [(1.2, "latency"), (1.0, "latency"), (1.2, "size")])
def test_what_another_engine_surely_outruns_is_not_worth_repairing(monkeypatch, low, objective):
    from optimize import stages

    monkeypatch.setattr(stages, "repaired", lambda *asked: None)
    asked_of = []

    def ratio(name, base):
        asked_of.append((name, base))
        return SimpleNamespace(value=1.3, low=low, high=1.4)

    seen = SimpleNamespace(traces={"t-fp32": 1, "t-default": 2, "t-int8": 3}, ratio=ratio)
    target = SimpleNamespace(name="t")
    own = [
        Candidate("t-fp32", "plain", target, (), {}, SCHEME),
        Candidate("t-default", "vendor", target, (), {}, SCHEME),
        Candidate("t-int8", "steps", target, (Static(),), {}, SCHEME, None, Repair()),
    ]
    built = {one.name: Built(None, {}, SimpleNamespace(name=one.name), "", (), None) for one in own}
    drops = {"original": 0.0, "t-fp32": 0.0, "t-default": 0.02, "t-int8": 0.5}  # the default one loses too much too
    rows = {name: row(name, validate=accuracy(drop=drop)) for name, drop in drops.items()}
    asked = ASKED.model_copy(update={"constraints": ASKED.constraints.model_copy(update={"objective": objective})})
    run = stages.Run(asked, SimpleNamespace(feeds={}, batch=1), own, built, None, Progress(1, silent=True))
    _, _, (note,) = stages.mended(run, rows, None, 0.01, seen)
    of_it = [pair for pair in asked_of if "t-int8" in pair]
    assert of_it == ([("t-fp32", "t-int8")] if objective == "latency" else [])
    slow = objective == "latency" and low > 1.1
    why = "t-fp32 is 1.30 times [1.20, 1.40] as fast" if slow else "no layer by itself regains anything in float"
    assert note == f"t-int8 was not repaired: {why}"


@pytest.mark.parametrize("wanted", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_fewest_layers_that_hold_are_found_by_halving(monkeypatch, wanted):

    layers = [LayerRepair(name=f"l{i}", op="Conv", regained=(7 - i) / 7) for i in range(7)]
    tries = []

    def build(candidate):
        tries.append(len(candidate.steps[-1].layers))
        return Built(None, {}, SimpleNamespace(name=candidate.name), "", (), None)

    monkeypatch.setattr(repair, "regained", lambda *asked: layers)
    monkeypatch.setattr(repair, "_costs", lambda *asked: repair._Costs({one.name: 1.0 for one in layers}, 0.1))
    candidate = Candidate("t", "steps", SimpleNamespace(name="t"), (Static(),), {}, SCHEME, None, Repair())
    subject = SimpleNamespace(calls=SimpleNamespace(calibrate=None), feeds={})
    builder = SimpleNamespace(unrounded=lambda candidate: 1, build=build)
    found = repair.repaired(
        subject, builder, candidate, Built(None, {}, None, "", (), None), judged(lambda layers: len(layers) >= wanted),
        0.5, None, Progress(1, silent=True),
    )  # fmt: skip
    assert sum(one.returned for one in found.layers) == len(found.candidate.steps[-1].layers) == min(wanted, 7)
    assert found.row.validate_.drop == (0.0 if wanted <= 7 else 1.0)  # its own, whatever was tried last
    assert found.row.repair == list(found.layers)
    assert len(tries) <= 6 and len(set(tries)) == len(tries)


@pytest.fixture
def outlier(uneven, tmp_path):
    """The same network with one column of the classifier's weights so large that the others are rounded to nothing."""
    proto = onnx.load(uneven.path)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name, place, value in (("w3", np.s_[0], 0.0), ("b3", np.s_[0], 1e-4), ("w4", np.s_[:, 0], 300.0)):
        changed = numpy_helper.to_array(weights[name]).copy()
        changed[place] = value
        weights[name].CopyFrom(numpy_helper.from_array(changed, name))
    return write_onnx(proto, tmp_path / "outlier.onnx")


def unjudged(rows, *_):
    return next((one.name for one in rows if one.latency and one.validate_ is None), None)


@pytest.mark.parametrize("search", [{}, {"quick": True}, {"trials": 3}])
def test_a_run_repairs_what_loses_too_much_and_says_what_it_cost(outlier, search, tmp_path, monkeypatch):
    from optimize import stages
    from optimize.pipeline import run
    from optimize.report import json

    monkeypatch.setattr(stages, "outrun", lambda *asked: "")  # int8 has nothing to win in so small a network
    if "quick" in search:  # nor need it be the first to be judged
        monkeypatch.setattr(stages.select, "pending", unjudged)
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    x = np.random.default_rng(1).standard_normal((400, 3, 8, 8)).astype(np.float32)
    y = judge(outlier).run({"image": x})["logits"].argmax(1)
    np.savez(tmp_path / "data.npz", image=x, y=y)
    asked = recipe.from_table(
        {
            "model": {"path": str(outlier.path)}, "data": {"path": str(tmp_path / "data.npz")},
            "steps": [{"use": "quantize_static", "bias_correction": "none", "samples": 8}, {"use": "repair"}],
            "targets": {"onnxruntime": {}}, "measure": {"budget": 0.1}, "constraints": {"max_drop": 0.0},
            "search": search,
        },
        tmp_path,
    )  # fmt: skip
    assert [one.name for one in expand(asked, host.facts()) if one.repair] == ["onnxruntime-int8"]
    report = run(asked, out=tmp_path / "out", silent=True)
    int8, mended = report.row("onnxruntime-int8"), report.row("onnxruntime-int8-repaired")
    assert int8.validate_.drop > 0.1 and mended.validate_.drop < int8.validate_.drop
    assert mended.status == "measured" and mended.steps[-1]["use"] == "repair" and mended.steps[-1]["layers"]
    assert [one.name for one in mended.repair if one.returned] == mended.steps[-1]["layers"]
    assert mended.steps[-1]["layers"][0] == "classifier"
    assert all(one.ms is not None for one in mended.repair)
    looked_at = [row for row in report.candidates if row.sensitivity]
    assert len(looked_at) == ("quick" not in search), "a quick run does not ask why"
    for one in looked_at:
        assert one.sensitivity[0].sqnr_db == min(layer.sqnr_db for layer in one.sensitivity)
        assert one.sensitivity[0].drop is not None
    assert json.read(tmp_path / "out").model_dump_json() == report.model_dump_json()
    page, text = ((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert "what each layer in float would bring" in page and "## Layers returned to float" in text
