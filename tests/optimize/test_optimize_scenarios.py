"""Throughput, energy, paced calls and arrivals: of real workers, and of counters in a folder like the kernel's."""

import itertools
import json
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from optimize import energy, scenarios
from optimize.energy import Meter, meters
from optimize.foreign import contestant, threaded
from optimize.report import plots
from optimize.scenarios import Sweep, throughput
from runtime.contender import Contender, Worker
from runtime.errors import InputError, WorkError


@pytest.fixture
def engine(tiny_onnx):
    return contestant(str(tiny_onnx), (), None, False, {}, {})[0]


def feeds(batch):
    if batch > 8:
        raise InputError(f"no batch of {batch}")
    return {"image": np.zeros((batch, 3, 8, 8), np.float32)}


def nothing(*_):
    pass


def test_throughput_at_every_combination(engine, monkeypatch):
    monkeypatch.setattr(scenarios, "WINDOW_S", 0.02)
    found = throughput(engine, feeds, Sweep((1, 4), (1, 2), (1, 2)), None, nothing)
    seen = [(row["threads"], row["batch"], row["streams"]) for row in found]
    assert seen == [(t, b, s) for t, b, s in itertools.product((1, 2), (1, 4), (1, 2))]
    assert all(0 < row["least"] <= row["samples_a_second"] <= row["most"] for row in found)
    assert {row["contender"] for row in found} == {engine.name}


def test_a_combination_that_does_not_run_is_said_and_the_others_go_on(engine, monkeypatch):
    monkeypatch.setattr(scenarios, "WINDOW_S", 0.02)
    found = throughput(engine, feeds, Sweep((16, 1)), None, nothing)
    assert found[0] == {"contender": engine.name, "batch": 16, "threads": None, "failed": "no batch of 16"}
    assert found[1]["batch"] == 1 and found[1]["samples_a_second"] > 0 and found[1]["threads"] >= 1


def test_threads_are_put_where_each_kind_of_contender_takes_them():
    of = {"open_engine": {"options": {"a": 1}}, "open_original": {"spec": {"b": 2}}, "open_bundle": {"path": "p"}}
    made = {name: threaded(Contender(name, f"m:{name}", arguments), 3).arguments for name, arguments in of.items()}
    assert made == {
        "open_engine": {"options": {"a": 1, "threads": 3}}, "open_original": {"spec": {"b": 2, "threads": 3}},
        "open_bundle": {"path": "p", "threads": 3},
    }  # fmt: skip


@pytest.fixture
def powercap(tmp_path):
    """A folder like /sys/class/powercap: two packages, and a part of the first."""

    def write(zone, name, joules):
        folder = tmp_path / zone
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
        (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")

    write("intel-rapl:0", "package-0", 10.0)
    write("intel-rapl:0:0", "core", 4.0)
    write("intel-rapl:1", "package-1", 990.0)
    write.folder = tmp_path
    return write


def test_packages_are_counted_their_parts_are_not(powercap):
    found, why_not = meters(powercap.folder)
    assert [meter.name for meter in found if meter.name.startswith("package")] == ["package-0", "package-1"]
    assert why_not == ""
    first = found[0]
    before = first.joules()
    powercap("intel-rapl:0", "package-0", 12.5)
    assert first.since(before) == pytest.approx(2.5)


def test_a_counter_that_began_again_is_no_energy_given_back(powercap):
    second = meters(powercap.folder)[0][1]
    powercap("intel-rapl:1", "package-1", 3.0)
    assert second.since(990.0) == pytest.approx(13.0)


def test_why_nothing_can_be_read_is_said(tmp_path, powercap, monkeypatch):
    monkeypatch.setattr(energy, "_nvml", list)
    assert "a virtual machine has none" in meters(tmp_path / "none")[1]
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        (powercap.folder / zone / "energy_uj").unlink()  # root reads whatever its mode is
    found, why_not = meters(powercap.folder)
    assert found == [] and "chmod" in why_not


def test_energy_of_a_call(engine, monkeypatch):
    monkeypatch.setattr(scenarios, "REST_S", 0.01)
    monkeypatch.setattr(scenarios, "SECONDS", 0.02)
    count = itertools.count()
    with Worker.start(engine, feeds(1)) as worker:
        found = scenarios.energy(worker, [Meter("package-0", lambda: float(next(count)))], nothing)
    assert found["calls"] > 100
    assert found["package-0 joules_a_call"] == pytest.approx(1 / found["calls"])
    assert found["package-0 watts"] > 0 < found["package-0 watts_at_rest"]


def test_the_command_says_each_in_a_section(tiny_onnx):
    done = subprocess.run(
        [sys.executable, "-m", "optimize", "bench", tiny_onnx, "--budget", "0.1", "--energy", "--paced", "500",
         "--arrivals", "--batches", "1", "--batches", "2", "--streams", "2", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["streams"] for row in found["throughput"]} == {2}
    assert isinstance(found["energy"], dict) or found["energy"].startswith("not measured: ")
    (paced,) = found["paced"].values()
    assert 0 < paced["p50_ms"] <= paced["p99_ms"]
    assert len(found["arrivals"]) == 4
    (row,) = found["models"].values()
    assert 0 < row["engine_only_ms"] < 10 * row["p50_ms"]


def test_a_picture_of_the_throughput(tmp_path):
    rows = [
        {"contender": f"<m{m}>", "threads": t, "batch": b, "streams": 1, "samples_a_second": 100.0 * b * m,
         "least": 90.0 * b * m, "most": 120.0 * b * m}
        for m in (1, 2) for t in (1, 2) for b in (1, 2, 4, 16)
    ]  # fmt: skip
    text = plots.throughput([*rows, {"contender": "x", "threads": None, "batch": 32, "failed": "no memory"}])
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "samples a call" in words and "16" in words
    assert {f"<m{m}>, 1 streams, {t} threads" for m in (1, 2) for t in (1, 2)} <= set(words)
    with pytest.raises(WorkError, match="no memory"):
        plots.throughput([{"contender": "x", "threads": None, "batch": 32, "failed": "no memory"}])


def test_a_picture_of_nothing_is_refused_before_anything_is_timed(tiny_onnx, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "optimize", "bench", tiny_onnx, "--plot", tmp_path / "p.svg"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "give --batches" in done.stderr and not (tmp_path / "p.svg").exists()
