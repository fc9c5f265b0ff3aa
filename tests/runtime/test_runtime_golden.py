"""Golden answers, needs beside what is found, and engines compiled anew: what `load` decides, and why."""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime import EngineError, NoEngineError, engines, fitness, golden, host, load, loading, rebuild
from runtime import bundle as bundles
from runtime.bundle import EngineEntry
from runtime.cache import Cache
from runtime.errors import BundleError
from runtime.fitness import misfit, oldest

pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
FOLDER = Path(__file__).parent / "bundles" / "2"
ENTRY = EngineEntry("e", "openvino", "openvino", {"model": "m"}, "s")
X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "bundle"))


def change(bundle: Path, edit) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    edit(data)
    (bundle / "manifest.json").write_text(json.dumps(data))


def put(bundle: Path, name: str, content: bytes) -> None:
    """Other bytes for a file, with their own checksum: a bundle that was made so."""
    (bundle / name).write_bytes(content)
    stored = {"sha256": bundles.sha256(bundle / name), "bytes": len(content)}
    change(bundle, lambda data: data["files"].update({name: stored}))


def answers(bundle: Path, value) -> None:
    np.save(bundle / "answer.npy", value)
    content = (bundle / "answer.npy").read_bytes()
    (bundle / "answer.npy").unlink()
    put(bundle, bundles.read(bundle).engines[0].golden.outputs["y"], content)


def test_an_engine_that_answers_as_it_did_is_taken(bundle):
    with load(bundle, check=True) as model:
        assert model.engine == "onnxruntime-fp32"
        found = loading.open_entry(model.bundle, model.bundle.engines[0], host.facts(), loading.Wishes(check=True))
        assert found.off == 0
        found.session.close()


def test_an_engine_that_answers_otherwise_is_refused_and_the_difference_is_said(bundle):
    right = np.load(bundle / bundles.read(bundle).engines[0].golden.outputs["y"])
    answers(bundle, right * np.float32(1.01))
    load(bundle).close()  # without check it is not known
    with pytest.raises(NoEngineError, match=r"output 'y' differs by 0\.0099 \(relative\), allowed are 0\.001"):
        load(bundle, "onnxruntime-fp32", check=True)
    change(bundle, lambda data: data["fallback"].update(golden=None))  # it shares the file; nothing to compare with
    with pytest.warns(RuntimeWarning, match="answers otherwise"), load(bundle, check=True) as model:
        assert model.engine == "fallback on onnxruntime"
    answers(bundle, right * np.float32(1.0005))
    load(bundle, "onnxruntime-fp32", check=True).close()


@pytest.mark.parametrize("value", [np.full((3, 2), np.nan, np.float32), np.zeros((2, 2), np.float32)])
def test_nan_and_another_shape_are_no_answer(bundle, value):
    answers(bundle, value)
    with pytest.raises(NoEngineError, match="differs by NaN, infinity or another shape"):
        load(bundle, "onnxruntime-fp32", check=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,), }",
        b"PK\3\4",
    ],
)
def test_golden_files_that_are_none_are_refused(bundle, content):
    put(bundle, bundles.read(bundle).golden["x"], content)
    with pytest.raises(BundleError, match="golden arrays cannot be read"):
        load(bundle, check=True)


def test_a_golden_array_of_objects_is_never_unpickled(bundle, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    np.save(tmp_path / "x.npy", np.array([Runs()], dtype=object), allow_pickle=True)
    put(bundle, bundles.read(bundle).golden["x"], (tmp_path / "x.npy").read_bytes())
    with pytest.raises(BundleError, match="golden arrays cannot be read"):
        load(bundle, check=True)
    assert not (tmp_path / "it ran").exists()


def test_answers_that_the_model_does_not_give_are_refused(bundle):
    def edit(data):
        outputs = data["engines"][0]["golden"]["outputs"]
        outputs["z"] = outputs["y"]

    change(bundle, edit)
    with pytest.raises(BundleError, match="golden answers for 'z'"):
        load(bundle, check=True)


def test_the_tolerance_is_what_was_measured_with_room():
    assert golden.tolerance(0.0) == golden.LEAST
    assert golden.tolerance(0.1) == pytest.approx(0.3)
    assert golden.tolerance(5.0) < 1


def test_warm_up_takes_the_golden_inputs(bundle, monkeypatch):
    seen = []
    real = engines.get("onnxruntime").OnnxRuntimeSession.run
    monkeypatch.setattr(
        engines.get("onnxruntime").OnnxRuntimeSession, "run", lambda *a: (seen.append(a[1]["x"].shape), real(*a))[1]
    )
    load(bundle, warm_up=2).close()
    change(bundle, lambda data: data.update(golden={}))
    load(bundle, warm_up=1).close()
    assert seen == [(3, 3), (3, 3), (1, 3)]


HOST = replace(host.facts(), instruction_sets=("avx2",))


@pytest.mark.parametrize(
    ("needs", "found", "said"),
    [
        ({}, {}, None),
        ({"instruction_sets_any": ["avx2", "asimd"]}, {}, None),
        ({"instruction_sets_any": ["avx512_vnni"]}, {}, "it needs one of avx512_vnni, and this processor has none"),
        ({"version": {"from": "2026.4"}}, {"version": "2026.4.1-22982-abc"}, None),
        ({"version": {"from": "2026.4"}}, {"version": "2027.0"}, None),
        ({"version": {"from": "2026.4"}}, {"version": "2026.10"}, None),
        ({"version": {"from": "2026.4"}}, {"version": "2025.2.0"}, "openvino 2026.4 or newer, here is"),
        ({"version": {"is": "11.4.0"}}, {"version": "11.4.1"}, "openvino 11.4.0, here is 11.4.1"),
        ({"compute_capability": {"is": "8.7"}}, {"compute_capability": "8.7"}, None),
        ({"compute_capability": {"is": "8.7"}}, {"compute_capability": "9.0"}, "openvino 8.7, here is 9.0"),
        ({"compute_capability": {"is": "8.7"}}, {}, "compute capability of openvino 8.7, here is none"),
        ({"compute_capability": {"from": "8.0"}}, {"compute_capability": "9.0"}, None),
    ],
)  # fmt: skip
def test_what_it_needs_beside_what_is_here(needs, found, said):
    lack = misfit(replace(ENTRY, needs=needs), HOST, found)
    assert (lack is None) if said is None else (said in lack.reason)
    assert lack is None or lack.curable is ("instruction_sets_any" not in needs)


def test_without_files_it_can_only_be_compiled_here():
    assert misfit(replace(ENTRY, files={}), HOST, {}).curable
    no_vnni = replace(ENTRY, files={}, needs={"instruction_sets_any": ["avx512_vnni"]})
    assert not misfit(no_vnni, HOST, {}).curable  # its numbers would saturate all the same


def test_the_oldest_version_of_a_kind():
    assert (oldest("2026.4.1-22982"), oldest("1.32.0"), oldest("11"), oldest("")) == ("2026.4", "1.32", "11", "")


@pytest.mark.parametrize("name", engines.names())
def test_every_engine_says_what_it_is_and_what_its_files_need(name):
    engine = engines.get(name)
    try:
        found = engine.facts()
    except EngineError as error:
        pytest.skip(str(error))
    assert set(found) <= set(fitness.FACTS) and found["version"]
    for options in ({}, dict.fromkeys(("version_compatible", "hardware_compatible"), True)):
        needs = engine.needs(options)
        assert misfit(replace(ENTRY, needs=needs), HOST, found) is None
        json.dumps(needs)


def older(bundle: Path) -> None:
    """As if it had been built for a newer library than is here."""
    change(bundle, lambda data: data["engines"][0]["needs"].update(version={"from": "99.1"}))


def test_an_older_engine_library_has_it_compiled_anew_in_the_open(bundle, cache, caplog):
    older(bundle)
    with load(bundle) as model, load(FOLDER) as plain:
        assert model.engine == "onnxruntime-fp32"
        assert model.decisions[-1].reason.startswith(
            "compiled anew here: it needs version of onnxruntime 99.1 or newer"
        )
        np.testing.assert_allclose(model(X), plain(X))
    assert "compiled anew here, from its source" in caplog.text
    entries = [entry for entry in cache.iterdir() if entry.is_dir()]
    assert len(entries) == 1
    caplog.clear()
    load(bundle).close()
    assert "compiled anew" not in caplog.text  # it was there
    assert [entry for entry in cache.iterdir() if entry.is_dir()] == entries


def test_another_machine_has_it_compiled_once_more(bundle, cache, monkeypatch):
    older(bundle)
    load(bundle).close()
    other = replace(host.facts(), cpu="another")
    monkeypatch.setattr(loading, "facts", lambda **_: other)
    load(bundle).close()
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 2


def test_without_rebuild_the_next_one_is_taken(bundle, cache):
    older(bundle)
    with pytest.warns(RuntimeWarning, match=r"99\.1 or newer"), load(bundle, rebuild=False) as model:
        assert model.engine == "fallback on onnxruntime"
        assert [decision.taken for decision in model.decisions] == [False, True]
    assert not cache.exists()


def test_no_vnni_is_not_mended_by_compiling(bundle, cache, monkeypatch):
    change(bundle, lambda data: data["engines"][0]["needs"].update(instruction_sets_any=["avx512_vnni"]))
    monkeypatch.setattr(loading, "facts", lambda **_: HOST)
    with pytest.warns(RuntimeWarning, match="this processor has none"), load(bundle) as model:
        assert model.engine == "fallback on onnxruntime"
    assert not cache.exists()


def test_an_engine_file_that_is_not_taken_is_compiled_anew(bundle):
    put(bundle, bundles.read(bundle).engines[0].files["model"], b"no model of this version")
    with load(bundle) as model:
        assert "compiled anew here: ONNX Runtime cannot load" in model.decisions[-1].reason


def test_what_was_compiled_anew_is_checked(bundle):
    older(bundle)
    answers(bundle, np.zeros((3, 2), np.float32))
    with pytest.raises(NoEngineError, match="answers otherwise"):
        load(bundle, "onnxruntime-fp32")


def test_a_compiler_that_refuses_says_why_and_leaves_nothing(bundle, cache):
    older(bundle)
    put(bundle, bundles.read(bundle).engines[0].source, b"no onnx")
    with pytest.raises(NoEngineError, match="compiling it anew here failed: ONNX Runtime cannot load"):
        load(bundle, "onnxruntime-fp32")
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_where_the_cache_is_full_it_is_compiled_for_this_process(bundle, cache, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    older(bundle)
    monkeypatch.setattr(Cache, "put", full)
    with load(bundle) as model:
        assert model.engine == "onnxruntime-fp32"
        assert model(X).shape == (1, 2)
    assert "No space left on device), so it is made for this process only" in caplog.text


def test_a_long_work_says_that_it_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(rebuild, "TELL_S", 0.01)
    caplog.set_level(logging.INFO)
    with rebuild._told("a long work"):
        while "so far: a long work" not in caplog.text:
            pass
    assert "s: a long work" in caplog.text.splitlines()[-1]


LOADER = """
import sys
from runtime import load
with load(sys.argv[1]) as model:
    print(model.decisions[-1].reason)
"""


def test_two_processes_that_want_the_same_make_it_once(bundle, cache):
    older(bundle)
    command = [sys.executable, "-c", LOADER, str(bundle)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all(out.startswith("compiled anew here") for out, _ in said)
    assert sum("compiled anew here, from its source" in err for _, err in said) == 1
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1


def test_a_bundle_names_no_file_to_write_to_and_no_processor(bundle, monkeypatch):
    """By an option of the build host's own, TensorRT's timing cache say, a hostile bundle would write anywhere."""
    seen = []

    def compiled(entry, *_):
        seen.append(dict(entry.options))
        raise EngineError("not here")

    monkeypatch.setattr(engines.get("onnxruntime"), "LOCAL", frozenset({"threads"}))
    monkeypatch.setattr(rebuild, "_compiled", compiled)
    older(bundle)
    with pytest.warns(RuntimeWarning, match="not here"):
        load(bundle).close()
    assert seen == [{"spinning": True}]
    assert {"timing_cache"} == engines.get("tensorrt").LOCAL and {"isa"} == engines.get("openvino").LOCAL
