"""What a run puts into its bundle: needs, golden answers, papers, and nothing that is only of the build host."""

import json

import numpy as np

import runtime
from optimize import pack
from runtime.bundle import sha256


def test_the_bundle_runs_here_and_answers_as_it_did(finished):
    _, bundle = finished
    manifest = json.loads((bundle / "manifest.json").read_text())
    for entry in manifest["engines"]:
        with runtime.load(bundle, entry["name"], check=True, rebuild=False) as model:
            assert model.engine == entry["name"]
        assert entry["golden"]["tolerance"] >= 1e-3
        # as its vendor ships it, ONNX Runtime runs the plain file, which any version reads
        assert ("version" in entry["needs"]) is (entry["engine"] == "openvino" or bool(entry["options"]))
    x = np.load(bundle / manifest["golden"]["image"])
    assert x.shape == (4, 3, 8, 8)


def test_what_limits_kernels_here_stays_here(finished):
    report, bundle = finished
    entries = {one["target"]: one for one in json.loads((bundle / "manifest.json").read_text())["engines"]}
    assert "isa" not in entries["openvino"]["options"]
    # on a newer processor it would compute in bf16 by itself, and answer otherwise than what was measured
    assert entries["openvino"]["options"]["precision"] == "f32"
    row = report.row(report.chosen["openvino"])
    assert row.options["isa"] == "AVX2"
    assert any(note.startswith("openvino: for avx2; figures are those of its kernels") for note in report.notes)


def test_the_papers_are_in_it_and_under_its_checksums(finished):
    _, bundle = finished
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    for name in ("USE.md", "sbom.json", "Dockerfile.openvino", "Dockerfile.onnxruntime"):
        assert files[name] == {"sha256": sha256(bundle / name), "bytes": (bundle / name).stat().st_size}
    names = [one["name"] for one in json.loads((bundle / "sbom.json").read_text())["components"]]
    assert sorted(names) == sorted(finished[0].chosen.values())


def test_samples_stay_at_home_where_that_is_asked_for(finished):
    assert pack._golden_feeds(None, None, 0) == {}
    assert pack._answers(None, {}, None) is None
