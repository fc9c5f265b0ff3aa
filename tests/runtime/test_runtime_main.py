"""The command of a device, `python -m runtime`, as it is called there: in a process of its own."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runtime import bundle as bundles
from runtime import engines, load, writer
from runtime.__main__ import main
from runtime.bundle import EngineEntry, Fallback
from runtime.tensors import Specs, TensorSpec

SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
AXES = {"batch": {"min": 1, "best": 2, "max": 4}}


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_onnx):
    """A bundle of ONNX Runtime's engine, one that could not be built, and the plain model."""
    pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
    folder = tmp_path_factory.mktemp("main")
    files = engines.get("onnxruntime").compile(tiny_onnx, folder, {"threads": 1})
    fields = {"source": str(tiny_onnx), "options": {"threads": 1}}
    writer.write(
        folder / "bundle",
        name="tiny",
        specs=SPECS,
        engines=(
            EngineEntry("quick", "onnxruntime", "onnxruntime", {r: str(f) for r, f in files.items()}, **fields),
            EngineEntry("elsewhere", "tensorrt", "tensorrt", {}, **fields),
        ),
        fallback=Fallback({"model": str(tiny_onnx)}, {"onnxruntime": {"threads": 1}}),
        axes=AXES,
        made_with={},
    )
    return folder / "bundle"


@pytest.fixture
def bundle(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


@pytest.fixture
def arrays(tmp_path, tiny_data) -> Path:
    np.savez(tmp_path / "arrays.npz", image=tiny_data[0][:2])
    return tmp_path / "arrays.npz"


def runtime(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "runtime", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, cwd=cwd, check=False,
    )  # fmt: skip


def refused(capsys, code: int, *arguments) -> str:
    """The one line that a refusal prints."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_run_writes_the_outputs(bundle, arrays, tmp_path):
    done = runtime("run", bundle, "--input", arrays, "--output", "answers.npz", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["engine"] == "quick"
    assert said["outputs"] == {"output": "float32[2, 5]"}
    assert said["written to"] == "answers.npz"
    with load(bundle) as model, np.load(arrays) as given, np.load(tmp_path / "answers.npz") as answers:
        assert answers.files == ["output"]
        np.testing.assert_array_equal(answers["output"], model(given["image"]))


def test_run_in_words_and_on_a_named_engine(bundle, arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(bundle), "--input", str(arrays), "--engine", "fallback on onnxruntime"]) == 0
    assert "engine: fallback on onnxruntime" in capsys.readouterr().out
    assert (tmp_path / "outputs.npz").exists()


def test_the_place_that_is_named_is_the_place_written_to(bundle, arrays, tmp_path, capsys):
    for name in ("out.npz", "no_suffix", "other.bin"):
        assert main(["run", str(bundle), "--input", str(arrays), "--output", str(tmp_path / name), "--json"]) == 0
        assert Path(json.loads(capsys.readouterr().out)["written to"]).is_file()


def test_check_says_what_runs_here(bundle, tmp_path):
    done = runtime("check", bundle, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "as they were written" in said["files"]
    found = said["engines"]
    assert {name: row["runs_here"] for name, row in found.items()} == {
        "quick": True, "elsewhere": False, "fallback on onnxruntime": True,
    }  # fmt: skip
    assert found["quick"]["why"] == "as it was built"
    assert found["quick"]["found"]["version"]
    assert "tensorrt" in found["elsewhere"]["why"].lower()
    assert "runs_here: True" in runtime("check", bundle, cwd=tmp_path).stdout


def test_bench_times_what_runs_here(bundle, arrays, tmp_path):
    done = runtime("bench", bundle, "--input", arrays, "--budget", "0.1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["input"] == str(arrays)
    assert said["rounds"] == 8
    assert said["machine"]["cores"] >= 1
    base, quick = said["engines"]["fallback on onnxruntime"], said["engines"]["quick"]
    assert base["verdict"] == "the base"
    assert quick["verdict"] in ("faster", "slower", "no difference", "cannot tell")
    assert base["ratio"] == [1.0, 1.0, 1.0]
    value, low, high = quick["ratio"]
    assert 0 < low <= value <= high
    assert quick["p50_ms"] > 0
    assert quick["p50_interval_ms"][0] <= quick["p50_ms"] <= quick["p50_interval_ms"][1]
    assert quick["threads"] == 1
    assert 0 < quick["engine_only_ms"] < 2 * quick["p50_ms"]
    assert quick["cold_start_ms"] > 0
    assert quick["peak_memory_bytes"] > 2**20
    assert set(said["engines"]) == {"fallback on onnxruntime", "quick"} and said["failed"] == {}
    assert said["bundle"] == bundles.sha256(bundle / bundles.MANIFEST)
    assert "7 of about 8 rounds" in done.stderr


def test_bench_makes_its_own_input_of_the_best_size(bundle, monkeypatch, capsys):
    seen = {}

    def stop(contenders, feeds, **settings):
        seen.update(feeds)
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.__main__.measure", stop)
    assert main(["bench", str(bundle)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert (seen["image"].shape, seen["image"].dtype) == ((2, 3, 8, 8), np.float32)
    assert seen["image"].std() > 0.1


def test_a_damaged_bundle(bundle, arrays, tmp_path, capsys):
    file = bundle / "quick" / "source.onnx"
    file = file if file.exists() else next(bundle.rglob("*.onnx"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    for arguments in (["check", bundle], ["run", bundle, "--input", arrays], ["bench", bundle]):
        assert "sha256" in refused(capsys, 3, *arguments)
    done = runtime("check", bundle, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_what_is_no_bundle(tmp_path, arrays, capsys):
    for arguments in (["check", tmp_path / "nowhere"], ["run", arrays, "--input", arrays], ["bench", tmp_path]):
        assert "is not a bundle" in refused(capsys, 3, *arguments)


def test_no_engine_that_runs(bundle, capsys):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["engines"] = manifest["engines"][1:]
    manifest["fallback"]["engines"] = {"no_such_library": {}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert "no engine runs here" in refused(capsys, 3, "check", bundle)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"x": np.zeros((1, 3, 8, 8), np.float32)}, "this model takes image"),
        ({"image": np.zeros((1, 3, 8, 8))}, "float64"),
        ({"image": np.zeros((1, 3, 8), np.float32)}, "image: float32[batch, 3, 8, 8]"),
        ({"image": np.zeros((0, 3, 8, 8), np.float32)}, "empty"),
    ],
)
def test_arrays_that_do_not_fit(bundle, tmp_path, capsys, made, message):
    np.savez(tmp_path / "wrong.npz", **made)
    for command in ("run", "bench"):
        assert message in refused(capsys, 2, command, bundle, "--input", tmp_path / "wrong.npz")


def archive(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def single(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


WHOLE = archive(image=np.zeros((2, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no arrays at all",
        b"PK\3\4",
        WHOLE[: len(WHOLE) // 2],
        WHOLE.replace(b"NUMPY", b"NUMPS"),
        WHOLE.replace(b"\0" * 100, b"\0" * 99 + b"\1", 1),
        single(np.zeros((2, 3, 8, 8), np.float32)),
        single(np.zeros((2, 3, 8, 8), np.float32))[:100],
        archive(image=np.array([{}], object)),
    ],
    ids=["missing", "empty", "text", "beginning", "half", "no array inside", "bit", "npy", "half npy", "objects"],
)
def test_arrays_that_cannot_be_read(bundle, tmp_path, capsys, content):
    path = tmp_path / "wrong.npz"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(capsys, 2, "run", bundle, "--input", path)


def test_a_folder_for_arrays(bundle, tmp_path, capsys):
    assert str(tmp_path) in refused(capsys, 2, "run", bundle, "--input", tmp_path)


def test_bad_input_in_a_process_of_its_own(bundle, tmp_path):
    done = runtime("run", bundle, "--input", "nowhere.npz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere.npz cannot be read")
    assert done.stderr.count("\n") == 1


def test_an_engine_that_is_not_in_the_bundle(bundle, arrays, capsys):
    assert "did you mean 'quick'" in refused(capsys, 2, "run", bundle, "--input", arrays, "--engine", "quik")


def test_a_place_for_the_outputs_that_is_not_there(bundle, arrays, tmp_path, capsys):
    out = tmp_path / "no such folder" / "out.npz"
    assert str(out) in refused(capsys, 2, "run", bundle, "--input", arrays, "--output", out)


def test_outputs_may_have_any_name(tmp_path, capsys):
    """`file` is an argument of numpy's savez, and a name that an ONNX output may have."""
    onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
    pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
    names = ("file", "allow_pickle", "a/b:0")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], [name]) for name in names], "g",
        [helper.make_tensor_value_info("x", kind, [2])], [helper.make_tensor_value_info(n, kind, [2]) for n in names],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, tmp_path / "model.onnx")
    writer.write(
        tmp_path / "bundle", name="names", engines=(), axes={}, made_with={},
        specs=Specs((TensorSpec("x", "float32", (2,)),), tuple(TensorSpec(name, "float32", (2,)) for name in names)),
        fallback=Fallback({"model": str(tmp_path / "model.onnx")}, {"onnxruntime": {}}),
    )  # fmt: skip
    np.savez(tmp_path / "x.npz", x=np.array([-1, 1], np.float32))
    out = tmp_path / "out.npz"
    assert main(["run", str(tmp_path / "bundle"), "--input", str(tmp_path / "x.npz"), "--output", str(out)]) == 0
    with np.load(out) as found:
        assert set(found.files) == set(names)
        for name in names:
            np.testing.assert_array_equal(found[name], [0, 1])


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "bundle"], ["bench", "b", "--budget", "long"]])
def test_bad_use(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m runtime" in capsys.readouterr().err


def test_a_bug_report_has_what_is_needed_and_no_weights(bundle, tmp_path):
    (tmp_path / "app.log").write_text("x" * 2**21 + "the last words")
    done = runtime("report-bug", bundle, "--out", "bug.zip", "--log", "app.log", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["files.json", "host.json", "log.txt", "manifest.json", "tried.json", "versions.json"]
    assert json.loads(done.stdout)["files"] == names
    with zipfile.ZipFile(tmp_path / "bug.zip") as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    assert sorted(found) == names
    assert found["log.txt"].endswith("the last words") and len(found["log.txt"]) == 2**20
    assert found["manifest.json"] == (bundle / "manifest.json").read_text()
    assert json.loads(found["tried.json"])["engines"]["quick"]["runs_here"] is True
    assert json.loads(found["versions.json"])["onnxruntime"]["version"]
    weights = next(bundle.rglob("*.onnx")).read_bytes()
    assert all(weights[100:200] not in text.encode() for text in found.values())


def test_a_bug_report_of_a_damaged_bundle_says_what_is_wrong(bundle, tmp_path, capsys):
    (bundle / "manifest.json").write_text("{")
    assert main(["report-bug", str(bundle), "--out", str(tmp_path / "bug.zip"), "--json"]) == 0
    with zipfile.ZipFile(tmp_path / "bug.zip") as archive:
        assert "is damaged" in json.loads(archive.read("tried.json"))["error"]
    capsys.readouterr()
    assert "cannot be written" in refused(capsys, 2, "report-bug", bundle, "--out", tmp_path / "no" / "bug.zip")
    assert "cannot be read" in refused(capsys, 2, "report-bug", bundle, "--log", tmp_path / "no.log")


def test_one_of_several_models_is_named(bundle, arrays, tmp_path, capsys):
    writer.join(tmp_path / "both", {"a": bundle, "b": bundle})
    assert "several models" in refused(capsys, 2, "check", tmp_path / "both")
    assert main(["check", str(tmp_path / "both"), "--model", "b"]) == 0
