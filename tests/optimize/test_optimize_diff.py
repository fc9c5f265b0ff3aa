"""What differs between two bundles: a sample, and copies of it in which one thing is another."""

import json
import shutil
import zipfile
from pathlib import Path

import awkward_report
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from optimize.diff import as_text, diff
from optimize.report import Data, Report, Row, SplitFacts
from optimize.report import json as report_json
from runtime import writer
from runtime.bundle import sha256
from runtime.errors import InputError

SAMPLE = Path(__file__).parents[1] / "runtime" / "bundles" / "2"
ONNX = "fallback/model.onnx"


@pytest.fixture
def copy(tmp_path):
    """A copy of the sample: `manifest` changes what the manifest says, `files` what is written beside it."""

    def make(name="new", manifest=lambda found: None, files=lambda folder: None):
        folder = tmp_path / name
        shutil.copytree(SAMPLE, folder)
        files(folder)
        found = json.loads((folder / "manifest.json").read_text())
        manifest(found)
        found["files"] = {
            path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in folder.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
        (folder / "manifest.json").write_text(json.dumps(found))
        return folder

    return make


def graph(change):
    def files(folder):
        proto = onnx.load(folder / ONNX)
        change(proto)
        onnx.save(proto, folder / ONNX)

    return files


def test_a_bundle_differs_from_itself_in_nothing(copy):
    found = diff(SAMPLE, copy())
    assert found["same"] is True
    assert {found[key] for key in ("interface", "engines", "graphs", "figures", "files", "made_with")} == {"the same"}
    assert "no report that can be read" in found["recipe"]


def test_weights_of_the_same_form_are_counted_with_their_largest_difference(copy):
    def change(proto):
        (weight,) = (one for one in proto.graph.initializer if one.name == "w")
        value = numpy_helper.to_array(weight).copy()
        value[0, 0] -= 0.25
        value[2, 1] += 0.5
        weight.CopyFrom(numpy_helper.from_array(value, "w"))

    found = diff(SAMPLE, copy(files=graph(change)))
    assert found["same"] is False
    assert found["decides_answers"] == ["the ONNX file of plain fp32", "the ONNX file of onnxruntime"]
    seen = found["graphs"]["onnxruntime"]
    assert seen == found["graphs"]["plain fp32"]
    assert (seen["nodes_added"], seen["nodes_removed"], seen["otherwise"]) == ("none", "none", "")
    assert seen["weights_that_differ"] == "1 of 2 of one name and form" and seen["largest_difference"] == 0.5
    assert found["files"] == {ONNX: {"old_bytes": 156, "new_bytes": 156, "said": "differs"}}


def test_nodes_are_told_by_their_ops_and_other_weights_apart(copy):
    def change(proto):
        proto.graph.node[1].op_type = "Sigmoid"
        proto.graph.node.append(helper.make_node("Identity", ["h"], ["unused"]))
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.int8), "more"))

    seen = diff(SAMPLE, copy(files=graph(change)))["graphs"]["plain fp32"]
    assert (seen["nodes_added"], seen["nodes_removed"]) == ("1 Identity, 1 Sigmoid", "1 Relu")
    assert seen["weights_that_differ"] == "0 of 2 of one name and form" and seen["weights_of_one_alone"] == 1

    def attribute(proto):
        proto.graph.node[0].attribute.append(helper.make_attribute("alpha", 2.0))

    seen = diff(SAMPLE, copy("third", files=graph(attribute)))["graphs"]["plain fp32"]
    assert (seen["nodes_added"], seen["nodes_removed"], seen["largest_difference"]) == ("none", "none", 0.0)
    assert "attributes" in seen["otherwise"]


@pytest.mark.parametrize(
    ("place", "value", "section", "decides"),
    [
        ("engines.0.options.threads", 2, "engines", "the options of onnxruntime"),
        ("engines.0.engine", "openvino", "engines", "the options of onnxruntime"),
        ("engines.0.target", "openvino", "engines", "an engine for onnxruntime, which one alone has"),
        ("fallback.engines.onnxruntime.threads", 2, "engines", "the options of plain fp32"),
        ("outputs.0.name", "z", "interface", "inputs and outputs"),
        ("axes.batch.max", 9, "interface", "inputs and outputs"),
        ("engines.0.name", "another", "engines", None),
        ("engines.0.precision", "bf16", "engines", None),
        ("engines.0.needs.version.from", "9", "engines", None),
        ("made_with.edge-optimize", "0.2.0", "made_with", None),
        ("name", "another", None, None),
    ],
)
def test_what_the_manifest_says_otherwise_and_whether_it_decides(copy, place, value, section, decides):
    def manifest(found):
        *parents, last = place.split(".")
        for part in parents:
            found = found[int(part) if part.isdigit() else part]
        found[last] = value

    found = diff(SAMPLE, copy(manifest=manifest))
    assert found["same"] is (decides is None)
    assert decides is None or decides in found["decides_answers"]
    for key in ("interface", "engines", "made_with", "graphs", "files"):
        assert (found[key] != "the same") is (key == section)
    if section == "engines" and decides and "alone" not in decides:
        assert value in [row["new"] for row in found["engines"].values()]


def reported(ms, drop, cpu="one", sha="0", threads=1):
    """What writes a report, and the manifest's figures, of the sample's engine."""
    name, target = "onnxruntime-fp32", "onnxruntime"
    accuracy = awkward_report.accuracy(0.9 - drop, drop, drop - 0.01, drop + 0.01)
    row = Row(name=name, target=target, engine=target, status="measured", latency=awkward_report.latency(ms, 2.0))
    report = Report(
        made_with={}, made_at="2026-01-01T00:00:00+00:00", machine={"cpu": cpu, "cores": 2},
        recipe={"targets": {target: {"threads": threads}}}, inputs=[], outputs=[], batch=1, max_drop=0.01,
        data=Data(place="data.npz", labels=True, metric="mse", unit="", higher_is_better=False,
                  splits={"test": SplitFacts(samples=9, sha256=sha)}),
        objective="latency", original=Row(name="original", engine="torch", status="measured"), candidates=[row],
        screening=None, headline=None, chosen={target: name}, why={}, closest={}, notes=[], seconds=1.0, exit_code=0,
        bundle="bundle",
    )  # fmt: skip

    def files(folder):
        (folder / "report").mkdir()
        report_json.write(report, folder / "report")

    def manifest(found):
        found["engines"][0]["measured"] = {"accuracy": accuracy.model_dump(include={"metric", "drop", "low", "high"})}

    return {"files": files, "manifest": manifest}


def test_figures_differ_only_where_their_intervals_do_not_overlap(copy):
    old = copy("old", **reported(1.0, 0.0))
    found = diff(old, copy("near", **reported(1.01, 0.005)))
    assert found["same"] is True
    assert {key: row["said"] for key, row in found["figures"].items()} == dict.fromkeys(
        ["onnxruntime p50 ms", "onnxruntime drop of mse"], "cannot be told apart: the intervals overlap"
    )
    assert found["figures"]["onnxruntime p50 ms"]["new"] == "1.01 [0.9898, 1.03]"
    assert found["recipe"] == found["machine"] == found["data"] == "the same"
    found = diff(old, copy("far", **reported(2.0, 0.5)))
    assert {row["said"] for row in found["figures"].values()} == {"differs"}
    found = diff(old, copy("elsewhere", **reported(2.0, 0.5, cpu="another", sha="1", threads=2)))
    assert found["figures"]["onnxruntime p50 ms"]["said"] == "not compared: unlike machines (cpu)"
    assert found["figures"]["onnxruntime drop of mse"]["said"] == "differs"
    assert found["machine"] == {"cpu": {"old": "one", "new": "another"}}
    assert found["recipe"] == {"targets.onnxruntime.threads": {"old": 1, "new": 2}}
    assert found["data"] == {"splits.test.sha256": {"old": "0", "new": "1"}}


def test_zips_and_bundles_of_several_models(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    other = copy("other", lambda found: found["engines"][0]["options"].update(threads=2))
    writer.join(tmp_path / "both", {"a": SAMPLE, "b": SAMPLE})
    writer.join(tmp_path / "mixed", {"a": SAMPLE, "b": other, "c": SAMPLE})
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
        for file in (tmp_path / "mixed").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "mixed"))
    found = diff(tmp_path / "both", tmp_path / "mixed.zip")
    assert found["same"] is False and {key: one["same"] for key, one in found["models"].items()} == {
        "a": True, "b": False,
    }  # fmt: skip
    assert found["only_in_one"] == {"c": f"only in {tmp_path / 'mixed.zip'}"}
    assert as_text(found)["b: decides_answers"] == ["the options of onnxruntime"]
    assert diff(tmp_path / "both", tmp_path / "both")["same"] is True
    with pytest.raises(InputError, match=r"no model in common: .*both has a, b, .*2 has sample"):
        diff(tmp_path / "both", SAMPLE)


def test_what_is_no_bundle_is_refused(copy, tmp_path):
    (tmp_path / "no.zip").write_text("no")
    damaged = copy()
    (damaged / ONNX).write_bytes(b"0" * 156)
    for bad, says in (
        (tmp_path / "nowhere", r"nowhere is not a bundle"),
        (tmp_path / "no.zip", r"no\.zip is not a bundle"),
        (damaged, r"is not as it was written \(sha256\)"),
    ):
        with pytest.raises(InputError, match=says):
            diff(SAMPLE, bad)
