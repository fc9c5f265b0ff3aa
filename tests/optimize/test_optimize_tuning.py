import json

import numpy as np
import pytest
from test_optimize_report import row

import runtime
from optimize import lock, tuning
from optimize.models import read_onnx
from optimize.pipeline import run
from optimize.recipe import from_table
from optimize.report import Made
from optimize.stages import ORIGINAL, Run, sifted
from runtime import bundle as bundles
from runtime import host
from runtime.measure import Measurement, Trace


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_onnx, tiny_data):
    """A run in which other settings are taken even where they are no faster."""
    folder = tmp_path_factory.mktemp("tuned")
    np.savez(folder / "data.npz", x=tiny_data[0], y=tiny_data[1])

    def fastest(found, base, variants, ratios):
        return max(ratios, key=lambda name: ratios[name].value), ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "_preferred", fastest)
        report = run(
            tiny_onnx, out=folder / "out", silent=True, data=folder / "data.npz", targets=["openvino", "onnxruntime"],
            max_drop="90pp", changes=["steps=[]", "search.settings=true", "measure.budget=0.1"],
        )  # fmt: skip
    return report, folder / "out"


def test_the_best_of_each_target_is_tried_with_every_setting_and_the_fastest_becomes_a_candidate(tuned):
    report, out = tuned
    said = [note for note in report.notes if "with other settings, times as fast as with its own: " in note]
    assert (
        len(said) == 2 and all("1-thread" in note for note in said) and any("1-thread-fixed" in note for note in said)
    )
    assert any(" fixed " in note for note in said)
    assert not any(f"{host.cores()}-thread" in note for note in said)  # which is what it has by itself
    names = [one.name for one in report.candidates]
    found = [name for name in names if name.endswith(("-fixed", "thread", "threads", "spinning"))]
    assert [name.partition("-")[0] for name in found] == ["openvino", "onnxruntime"]
    for name in found:
        one = report.row(name)
        assert one.status == "measured" and one.latency.rounds == tuning.ROUNDS
        assert one.validate_ is not None and one.accuracy is not None
        base = names[names.index(name) - 1]
        assert report.row(base).latency.rounds == tuning.ROUNDS  # of the same look
        assert name.startswith(f"{base}-") and report.row(base).options != one.options
    held = lock.Lock.model_validate_json((out / lock.FILE).read_text())
    assert {name: held.candidates[name].options for name in found} == {name: report.row(name).options for name in found}


def test_a_locked_run_has_the_settings_too(tuned, tmp_path):
    report, out = tuned
    found = json.loads((out / lock.FILE).read_text())
    name = report.chosen["openvino"]
    found["chosen"] = {"openvino": name}
    path = tmp_path / "there" / lock.FILE
    path.parent.mkdir()
    found["folder"] = str((out / found["folder"]).resolve())
    path.write_text(json.dumps(found))
    again = run(locked=path, out=tmp_path / "again", silent=True)
    assert again.chosen == {"openvino": name} and again.row(name).options == report.row(name).options
    assert not again.unlike and not any("with other settings" in note for note in again.notes)
    (entry,) = [one for one in bundles.read(tmp_path / "again" / "bundle").engines if one.name == name]
    assert entry.options == report.row(name).options
    with runtime.load(tmp_path / "again" / "bundle") as model:
        assert model(np.zeros((3, 3, 8, 8), np.float32)).shape == (3, 5)  # not the size that it was compiled for first


def test_what_is_asked_for_is_no_setting_to_try(tiny_onnx):
    def settings(**asked):
        table = {"model": {"path": str(tiny_onnx)}, "data": {"path": "d.npz"}, "targets": {"openvino": asked}}
        return from_table(table, tiny_onnx.parent)

    assert not settings().tunes()
    assert from_table({**settings().plain(), "steps": "auto"}, tiny_onnx.parent).tunes()
    for more in ({"search": {"quick": True}}, {"constraints": {"objective": "size"}}, {"search": {"settings": False}}):
        assert not from_table({**settings().plain(), "steps": "auto", **more}, tiny_onnx.parent).tunes()


@pytest.mark.parametrize(
    ("spread", "values", "taken"),
    [(0.002, {"1-thread": 0.6, "fixed": 1.1}, "fixed"), (0.002, {"1-thread": 0.6, "fixed": 1.0}, None),
     (0.05, {"1-thread": 1.05, "fixed": 1.01}, "fixed"), (0.05, {"1-thread": 0.6, "fixed": 0.99}, "fixed"),
     (0.002, {"1-thread": 1.3, "fixed": 1.1, "1-thread-fixed": 1.31}, "1-thread-fixed"),
     (0.002, {"1-thread": 1.3, "fixed": 1.1}, "1-thread"), (0.05, {"1-thread": 1.0, "fixed": 0.8}, None),
     (0.05, {"1-thread": 1.0}, None), (0.05, {"1-thread": 1.05}, "1-thread")],
)  # fmt: skip
def test_known_sizes_are_taken_where_they_may_be_as_fast_as_any_and_others_where_they_are_faster(spread, values, taken):
    class Named:
        def __init__(self, name):
            self.name = name

    def trace(times, turn):  # each has its noise in other rounds
        wobble = np.exp(spread * np.roll([1, -1, 0.5, -0.5, 0.0], turn))
        return Trace(rounds=tuple(np.full(3, 1e6 / times * one) for one in wobble))

    traces = {f"a-{label}": trace(one, turn) for turn, (label, one) in enumerate(values.items())}
    traces["a"] = Trace(rounds=(np.full(3, 1e6),) * 5)
    found = Measurement("a", None, traces, {}, 5, "rounds", "CPU time", 0)
    variants = [tuning.Variant("a", Named(f"a-{label}"), None, label.endswith("fixed")) for label in values]
    name, why = tuning._preferred(found, "a", variants, tuning._ratios(found, "a", variants))
    assert name == (taken and f"a-{taken}")
    assert ("may be as fast as any" in why) == (taken == "fixed" and values["fixed"] < tuning.WORTH)


def test_sizes_are_fixed_where_the_batch_alone_is_open(tiny_onnx):
    class Subject:
        batch = 4

    class One:
        model = read_onnx(tiny_onnx)

    assert tuning._sizes(Run(None, Subject(), [], {}, None, None), One()) == {"batch": 4}


def test_where_little_of_the_signal_is_left_nobody_is_asked():
    class Candidate:
        role, repair = "steps", None

        def __init__(self, name):
            self.name = name

    def rounded(name, db, target="openvino"):
        made = Made(use="quantize_static", seconds=1.0, signal_to_noise_db=db)
        return row(name, target=target, made=[made], status="built, not measured")

    found = [rounded("a", 20.0), rounded("b", 1.0), rounded("c", 1.0, "onnxruntime"), rounded("d", 2.0, "onnxruntime")]
    rows = {ORIGINAL: row(ORIGINAL), **{one.name: one for one in found}}
    left = sifted(Run(None, None, [Candidate(one.name) for one in found], {}, None, None), rows)
    assert [name for name, one in left.items() if one.status == "dropped"] == ["b"]
    assert left["b"].reason == "only 1.0 dB of its signal are above its noise, on calibration data"
