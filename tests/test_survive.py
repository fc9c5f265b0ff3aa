"""A full disk, an interrupt, a folder of somebody else's, and no word to anybody: `optimize` as a whole process."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""
WORDS = [
    "-m",
    "optimize",
    "run",
    "model.py:build",
    "--data",
    "data.npz",
    "--target",
    "onnxruntime",
    "--quick",
    "--out",
    "out",
]


@pytest.fixture
def place(tmp_path, tiny_data):
    pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")
    (tmp_path / "model.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", x=tiny_data[0], y=tiny_data[1])
    return tmp_path


def start(place, **settings):
    environment = {**os.environ, "OPTIMIZE_CACHE": str(place / "cache"), **settings.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, *settings.pop("words", WORDS)], cwd=place, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **settings,
    )  # fmt: skip


def until(process, words):
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it never said '{words}'")


def one_line(err):
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith(("error:", "interrupted"))]
    assert len(lines) == 1, err
    return lines[0]


def test_a_full_disk_is_said_and_nothing_half_written_is_left(place):
    """Files may not grow over 20 kB here: the first that does fails as on a full disk."""
    limit = 20_000
    process = start(place, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 3, err
    line = one_line(err)
    assert "File too large" in line or "could not" in line or "cannot" in line
    assert not (place / "out" / "bundle").exists() and not (place / "out" / "report.json").exists()
    assert not list((place / "out").glob(".work-*"))
    assert not [path for path in (place / "cache").glob("[!.]*") if not (path / "entry.json").exists()]


def test_an_interrupt_leaves_the_earlier_result_and_no_process(place):
    bundle = place / "out" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text("of an earlier run")
    process = start(place)
    until(process, "[3/6] latency")
    assert living(place)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same again" in one_line(err)
    assert (bundle / "manifest.json").read_text() == "of an earlier run"
    assert not list((place / "out").glob(".work-*")) and not (place / "out" / ".lock").exists()
    deadline = time.monotonic() + 10
    while (left := living(place)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def living(place):
    """The processes that were started with this place's cache: workers have it from their parent."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"OPTIMIZE_CACHE={place / 'cache'}".encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def test_two_runs_into_one_folder(place):
    first = start(place)
    until(first, "make the candidates")
    second = start(place)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2 and "another run is writing into out" in one_line(err)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = start(place)  # a killed run holds nothing
    until(third, "make the candidates")
    os.killpg(third.pid, signal.SIGKILL)
    third.communicate()


def test_a_search_that_is_killed_goes_on_where_it_was(place):
    """kill -9 of the program and all its processes, in the middle of each of three stages; then to the end."""
    words = [word for word in WORDS if word != "--quick"] + ["--set", "measure.budget=1"]
    for stage in ("quantize_torch for onnxruntime-int8-torch", "accuracy on validate", "a closer look"):
        process = start(place, words=words)
        until(process, stage)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (place / "out" / "report.json").exists()
    process = start(place, words=words)
    _, chatter = process.communicate(timeout=600)
    assert process.returncode == 0, chatter
    report = json.loads((place / "out" / "report.json").read_text())
    made = {one["name"]: one["made"] for one in report["candidates"] if one["made"]}
    assert len([name for name in made if "int8" in name]) >= 3
    again = [(name, one["use"]) for name, steps in made.items() for one in steps if not one["cached"]]
    assert again == []  # every step was found in the cache
    assert sorted(one.name for one in (place / "out").iterdir()) == sorted(
        ["bundle", "log.txt", "recipe.lock", "report.html", "report.json", "report.md"]
    )


JUMPS = """
import random
import time

now = time.time
time.time = lambda: now() + random.choice((-1e6, 0.0, 1e6))
"""


def test_a_clock_that_jumps_changes_no_figure(place):
    """By eleven days to and fro, in every process: what is measured is measured by clocks that only go on."""
    (place / "sitecustomize.py").write_text(JUMPS)
    seen = subprocess.run(
        [sys.executable, "-c", "import time; print(len({round(time.time(), -5) for _ in range(99)}))"],
        env={**os.environ, "PYTHONPATH": str(place)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(seen.stdout) > 1  # it does jump
    begun = time.monotonic()
    process = start(
        place, env={"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))}
    )
    _, chatter = process.communicate(timeout=600)
    assert process.returncode == 0, chatter
    report = json.loads((place / "out" / "report.json").read_text())
    assert 0 < report["seconds"] <= time.monotonic() - begun
    for row in [report["original"], *(one for one in report["candidates"] if one["latency"])]:
        assert 0 < row["latency"]["p50_ms"] < 1000 and 0 < row["cold_start_ms"] < 1000 * (time.monotonic() - begun)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user whom a folder refuses; CI is root")
def test_a_folder_of_somebody_elses(place):
    (place / "out").mkdir()
    for path in (place, *place.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    (place / "out").chmod(0o755)
    code = (
        "import os\nfrom pathlib import Path\n"
        "from optimize.folder import claimed\nfrom runtime.errors import InputError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    with claimed(Path('out')): pass\nexcept InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert "out cannot be written: Permission denied; choose another with --out" in done.stdout, done.stderr


TRAP = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static void tell(const char *what) {
    FILE *file = fopen(getenv("SOCKET_TRAP"), "a");
    if (file) { fprintf(file, "%s\n", what); fclose(file); }
}
static void said(const struct sockaddr *to) {
    if (to && (to->sa_family == AF_INET || to->sa_family == AF_INET6)) tell("connection");
}
/* without a network no name is found, and nothing connects */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    typedef int (*asker)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (node) tell(node);
    return ((asker)dlsym(RTLD_NEXT, "getaddrinfo"))(node, service, hints, found);
}
int connect(int fd, const struct sockaddr *to, socklen_t size) {
    said(to);
    return ((int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect"))(fd, to, size);
}
ssize_t sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *to, socklen_t size) {
    said(to);
    typedef ssize_t (*sender)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    return ((sender)dlsym(RTLD_NEXT, "sendto"))(fd, data, n, flags, to, size);
}
"""


RECIPE = """
[model]
entry = "model.py:build"

[model.inputs.image]
shape = ["batch", 3, 8, 8]

[data]
path = "data.npz"

[[steps]]
use = "prune_channels"
ratio = 0.5
multiple = 1

[[steps]]
use = "recover"
epochs = 1
batch = 16

[[steps]]
use = "quantize_static"

[targets.openvino]
[targets.onnxruntime]

[constraints]
max_drop = 1.0
"""


@pytest.fixture
def trap(tmp_path):
    """Environment in which every connection of any library, in C too, leaves a line in a file."""
    if not shutil.which("cc"):
        pytest.skip("apt-get install gcc")
    (tmp_path / "trap.c").write_text(TRAP)
    library = tmp_path / "trap.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "trap.c", "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SOCKET_TRAP": str(tmp_path / "connections")}, tmp_path / "connections"


@pytest.mark.parametrize(
    "place, told", [("127.0.0.1", "127.0.0.1\nconnection\n"), ("nowhere.invalid", "nowhere.invalid\n")]
)
def test_the_trap_catches(place, told, trap):
    environment, seen = trap
    code = f"import socket\ntry: socket.create_connection(('{place}', 9), 1)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)
    assert seen.read_text() == told


def test_no_connection_is_made(place, trap):
    """Outside pytest and CI, where some vendors are silent: the demo's steps, both engines, some timing."""
    environment, seen = trap
    home = place / "home"
    home.mkdir()
    told = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "GITHUB", "ORT_", "NNCF_"))}
    both = RECIPE.replace('use = "quantize_static"', 'use = "quantize_static"\nmethod = "auto"')  # NNCF reports too
    assert both != RECIPE
    (place / "recipe.toml").write_text(both)
    process = subprocess.Popen(
        [sys.executable, "-m", "optimize", "run", "recipe.toml"], cwd=place, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
        env={**told, **environment, "HOME": str(home), "OPTIMIZE_CACHE": str(place / "cache")}, start_new_session=True,
    )  # fmt: skip
    until(process, "accuracy on test")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not seen.exists(), seen.read_text()
    # what ONNX Runtime would send waits in a file at first, and OpenVINO has a number of the user's in one
    makers = ("microsoft", "intel", "telemetry")
    assert [str(path) for path in home.rglob("*") if any(maker in path.name.lower() for maker in makers)] == []


LIBRARIES = (
    "accelerate", "datasets", "executorch.exir", "keras", "lightgbm", "neural_compressor", "nncf", "onnxslim", "optuna",
    "sklearn", "skops.io", "torch_pruning", "torchao", "transformers", "xgboost",
)  # fmt: skip


def test_no_library_says_that_it_is_loaded(place, trap):
    """As `optimize` loads them: engines, then whatever else is there of what it calls."""
    environment, seen = trap
    home = place / "home"
    home.mkdir()
    told = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "GITHUB", "ORT_", "NNCF_"))}
    code = f"""
import contextlib, importlib, time
from runtime import engines
from runtime.errors import EngineMissing
for name in engines.names():
    with contextlib.suppress(EngineMissing):
        print(name, engines.get(name).facts())
for name in {LIBRARIES}:
    with contextlib.suppress(ImportError):
        print(name, importlib.import_module(name))
time.sleep(2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env={**told, **environment, "HOME": str(home)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert "openvino" in done.stdout and "nncf" in done.stdout, done.stdout + done.stderr
    assert not seen.exists(), seen.read_text()
    assert not (home / "intel").exists()
