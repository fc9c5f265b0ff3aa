"""Why, in a report: the layers of what was chosen, and the noise of each layer of one rounded candidate a target."""

from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest

from optimize import recipe
from optimize.causes import causes
from optimize.pipeline import run
from optimize.progress import Progress
from optimize.report import json
from runtime.errors import StepError


def test_a_report_says_why(tiny_onnx, tmp_path, monkeypatch):
    from optimize.models import read_onnx
    from optimize.verify import judge

    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    x = np.random.default_rng(1).standard_normal((240, 3, 8, 8)).astype(np.float32)
    y = judge(read_onnx(tiny_onnx)).run({"image": x})["output"].argmax(1)
    np.savez(tmp_path / "data.npz", image=x, y=y)
    asked = recipe.from_table(
        {
            "model": {"path": str(tiny_onnx)}, "data": {"path": str(tmp_path / "data.npz")},
            "steps": [{"use": "quantize_static", "samples": 32}], "targets": {"onnxruntime": {}},
            "measure": {"budget": 0.1}, "constraints": {"max_drop": "20pp"},
        },
        tmp_path,
    )  # fmt: skip
    report = run(asked, out=tmp_path / "out", silent=True)
    (name,) = report.chosen.values()
    seen = report.row(name).explained
    assert seen.sentence and seen.layers and "computing in" in " ".join(seen.ms)
    assert seen.total_ms == pytest.approx(sum(seen.ms.values()))
    assert seen.operations > 0 and seen.bytes > 0 and 0 < seen.reached["copy"] < 1
    assert not any(row.explained for row in report.candidates if row.name != name)
    (noisy,) = [row for row in report.candidates if row.noise]
    assert noisy.name.endswith("int8")
    assert noisy.noise[0].added == max(one.added for one in noisy.noise) > 0
    assert json.read(tmp_path / "out").model_dump_json() == report.model_dump_json()
    page, text = ((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert "Why it is (not) faster" in page and "layer by layer" in page
    assert "## Why it is (not) faster" in text and "## Where the signal was lost" in text


class Rowlike(SimpleNamespace):
    def model_copy(self, update):
        return Rowlike(**{**vars(self), **update})


def lined_up(targets="t", **unrounded):
    """Candidates without engines, of targets in turn, each with its path before rounding, or an error."""

    def ask(candidate):
        if isinstance(unrounded[candidate.name], Exception):
            raise unrounded[candidate.name]
        return unrounded[candidate.name] and SimpleNamespace(path=unrounded[candidate.name])

    candidates = [
        SimpleNamespace(name=name, target=SimpleNamespace(name=target))
        for name, target in zip(unrounded, cycle(targets), strict=False)
    ]
    built = {name: SimpleNamespace(files={}, body=name) for name in unrounded}
    rows = {name: Rowlike(name=name, noise=[], sensitivity=[]) for name in unrounded}
    subject = SimpleNamespace(calls=SimpleNamespace(calibrate="data", validate="more"), own_labels=False)
    return subject, SimpleNamespace(unrounded=ask), candidates, built, rows


def test_what_cannot_be_told_is_a_note_and_nothing_else_is_lost():
    asked = lined_up(plain=None, int8=StepError("no such op"))
    found, notes = causes(*asked, {"t": "plain"}, Progress(1, silent=True))
    assert notes == ["t: where the accuracy went could not be told: no such op"]
    assert set(found) == {"plain", "int8"} and not any(row.noise for row in found.values())


@pytest.fixture
def looked_at(monkeypatch):
    """What is looked at is told by its name."""
    monkeypatch.setattr("optimize.noise.by_layer", lambda before, after, split, samples, folder: [f"noise of {after}"])
    monkeypatch.setattr("optimize.sensitivity.by_layer", lambda *asked: [f"minded {asked[1]}"])


@pytest.mark.parametrize(("chosen", "told"), [("plain", "first"), ("second", "second"), (None, "first")])
def test_which_is_looked_at(looked_at, chosen, told):
    asked = lined_up(plain=None, first="before first", second="before second")
    found, notes = causes(*asked, {"t": chosen} if chosen else {}, Progress(1, silent=True))
    assert {name: row.noise for name, row in found.items() if row.noise} == {told: [f"noise of {told}"]}
    assert {name for name, row in found.items() if row.sensitivity} == {told} and notes == []


@pytest.mark.parametrize(("before", "minded"), [("the same", {"a"}), ("another", {"a", "b"})])
def test_each_layer_alone_is_told_once_of_what_is_rounded_for_several_targets(looked_at, before, minded):
    found, _ = causes(*lined_up("tu", a="the same", b=before), {"t": "a", "u": "b"}, Progress(1, silent=True))
    assert {name for name, row in found.items() if row.noise} == {"a", "b"}
    assert {name for name, row in found.items() if row.sensitivity} == minded
