"""Why, in a report: the layers of what was chosen, and the noise of each layer of one rounded candidate a target."""

import numpy as np
import pytest

from optimize import causes, recipe
from optimize.pipeline import run
from optimize.report import json
from runtime.errors import StepError


@pytest.fixture
def asked(tiny_onnx, tiny_data, tmp_path, monkeypatch):
    """A recipe of `tiny_onnx`, labelled by itself: int8 for two targets, and TensorRT, which cannot be built here."""
    from optimize.models import read_onnx
    from optimize.verify import judge

    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    x = np.random.default_rng(1).standard_normal((240, 3, 8, 8)).astype(np.float32)
    y = judge(read_onnx(tiny_onnx)).run({"image": x})["output"].argmax(1)
    np.savez(tmp_path / "data.npz", image=x, y=y)

    def make(**changes):
        return recipe.from_table(
            {
                "model": {"path": str(tiny_onnx)}, "data": {"path": str(tmp_path / "data.npz")},
                "steps": [{"use": "quantize_static", "samples": 32}], "targets": {"onnxruntime": {}, "openvino": {}},
                "measure": {"budget": 0.1}, "constraints": {"max_drop": "20pp"}, **changes,
            },
            tmp_path,
        )  # fmt: skip

    return make


def test_a_report_says_why(asked, tmp_path):
    report = run(asked(), out=tmp_path / "out", silent=True)
    for target, name in report.chosen.items():
        seen = report.row(name).explained
        assert seen.sentence and seen.layers and "computing in" in " ".join(seen.ms)
        assert seen.total_ms == pytest.approx(sum(seen.ms.values()))
        assert seen.operations > 0 and seen.bytes > 0 and 0 < seen.reached["copy"] < 1
        (noisy,) = [row for row in report.candidates if row.target == target and row.noise]
        assert noisy.name.endswith("int8")
        assert noisy.noise[0].lost_db == max(one.lost_db for one in noisy.noise) > 0
    assert not any(row.explained for row in report.candidates if row.name not in report.chosen.values())
    assert json.read(tmp_path / "out") == report
    page, text = ((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert "Why it is (not) faster" in page and "layer by layer" in page
    assert "## Why it is (not) faster" in text and "## Where the signal was lost" in text


def test_what_cannot_be_told_is_a_note_and_nothing_else_is_lost(asked, tmp_path, monkeypatch):
    def refuse(*_):
        raise StepError("the graphs are of opset 17 and 18")

    monkeypatch.setattr(causes.noise, "by_layer", refuse)
    report = run(asked(targets={"onnxruntime": {}}), out=tmp_path / "out", silent=True)
    assert "onnxruntime: where the accuracy went could not be told: the graphs are of opset 17 and 18" in report.notes
    assert report.chosen and not any(row.noise for row in report.candidates)


def test_nothing_that_rounds_has_no_noise(asked, tmp_path):
    report = run(asked(targets={"onnxruntime": {}}, steps=[]), out=tmp_path / "out", silent=True)
    assert report.row(report.chosen["onnxruntime"]).explained
    assert not any(row.noise for row in report.candidates)
