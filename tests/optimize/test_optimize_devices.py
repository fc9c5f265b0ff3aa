"""Measurements from elsewhere: the file a device writes, the report it goes into, and the way there by a real sshd."""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optimize import devices, remote
from optimize.report import json as as_json
from runtime import engines, writer
from runtime.bundle import EngineEntry, Fallback
from runtime.errors import InputError, WorkError
from runtime.tensors import Specs, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_onnx):
    """A folder as `optimize run` leaves it: a bundle and a report."""
    import awkward_report

    folder = tmp_path_factory.mktemp("run")
    (folder / "engine").mkdir()
    files = engines.get("onnxruntime").compile(tiny_onnx, folder / "engine", {"threads": 1})
    entry = EngineEntry(
        "quick", "onnxruntime", "onnxruntime", {role: str(file) for role, file in files.items()}, str(tiny_onnx),
        {"threads": 1},
    )  # fmt: skip
    writer.write(
        folder / "bundle", name="tiny", specs=SPECS, engines=[entry], axes={"batch": {"min": 1, "best": 1, "max": 4}},
        fallback=Fallback({"model": str(tiny_onnx)}, {"onnxruntime": {"threads": 1}}), made_with={},
    )  # fmt: skip
    shutil.rmtree(folder / "engine")
    as_json.write(awkward_report.make(devices=[]), folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def result(made, tmp_path_factory):
    """What the device's own command writes."""
    file = tmp_path_factory.mktemp("device") / "device.json"
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "bench", made / "bundle", "--budget", "0.1", "--out", file],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "quick:" in done.stdout
    return file


def changed(result, out, **changes):
    out.write_text(json.dumps({**json.loads(result.read_text()), **changes}))
    return out


def test_a_report_has_a_column_for_each_device(folder, result, tmp_path):
    other = changed(result, tmp_path / "b.json", device="board <b>", engines={}, failed={"quick": "no <i>memory</i>"})
    report = devices.add(folder, [result, other])
    assert [one.device for one in report.devices][1] == "board <b>"
    read = as_json.read(folder)
    assert read == report
    assert set(read.devices[0].engines) == {"fallback on onnxruntime", "quick"}
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "On devices" in page and "board &lt;b&gt;: p50 ms" in page and "<b>: p50" not in page
    assert "no &lt;i&gt;memory&lt;/i&gt;" in page
    assert "## On board <b>" in text and "| quick | " in text
    assert not list(folder.glob(".work-*"))


def test_a_device_that_is_measured_again_is_replaced(folder, result, tmp_path):
    devices.add(folder, [result])
    again = changed(result, tmp_path / "again.json", rounds=99)
    assert [one.rounds for one in devices.add(folder, [again]).devices] == [99]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bundle": "0" * 64}, "another bundle"),
        ({"schema": 2}, "pip install -U edge-optimize"),
        ({"engines": {"quick": {}}}, "not what `python -m runtime bench"),
        ({"rounds": "many"}, "not what `python -m runtime bench"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(folder, result, tmp_path, changes, words):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=words):
        devices.add(folder, [result, changed(result, tmp_path / "bad.json", **changes)])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"null"])
def test_what_is_no_result_is_refused(folder, tmp_path, content):
    (tmp_path / "device.json").write_bytes(content)
    with pytest.raises(InputError, match="not what"):
        devices.add(folder, [tmp_path / "device.json"])
    with pytest.raises(InputError, match="cannot be read"):
        devices.add(folder, [tmp_path / "nowhere.json"])


def test_a_run_without_a_bundle_is_said(folder, result):
    shutil.rmtree(folder / "bundle")
    with pytest.raises(InputError, match="no bundle"):
        devices.add(folder, [result])


# --- over ssh


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A sshd of our own, and a folder with an `ssh` that knows the way to it as `board`."""
    daemon = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not daemon:
        pytest.skip("apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
    )
    (folder / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/user\n"
        f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking accept-new\n"
        f"Host closed\n HostName 127.0.0.1\n Port 1\n"
    )
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself in
    process = subprocess.Popen([daemon, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield folder / "bin"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def ssh(server, monkeypatch):
    monkeypatch.setenv("PATH", f"{server}:{os.environ['PATH']}")


def left(before):
    """New folders of `mktemp -d`."""
    return {path for path in Path("/tmp").glob("tmp.*") if path not in before}


def test_a_bundle_is_timed_there_and_nothing_is_left(ssh, made, folder, tmp_path):
    before = set(Path("/tmp").glob("tmp.*"))
    out = tmp_path / "device.json"
    done = subprocess.run(
        [sys.executable, "-m", "optimize", "bench", folder / "bundle", "--ssh", "board", "--python", sys.executable,
         "--budget", "0.1", "--out", out, "--json"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(out.read_text())
    assert found["engines"]["quick"]["p50_ms"] > 0
    assert "rounds" in done.stderr  # its progress came over
    assert not left(before)
    assert devices.add(folder, [out]).devices[0].engines["quick"].threads == 1


@pytest.mark.parametrize(
    ("host", "python", "words"),
    [
        ("closed", "python3", "does not get there"),
        ("board", "no-such-python", "not found"),
        ("board", "/bin/false", "exit code 1"),
    ],
)
def test_what_fails_on_the_way_is_said_and_nothing_is_left(ssh, made, host, python, words):
    before = set(Path("/tmp").glob("tmp.*"))
    with pytest.raises(WorkError, match=words):
        remote.bench([str(made / "bundle")], host, python, 0.1, None)
    assert not left(before)


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/owned", ""])
def test_a_host_that_would_be_an_option_is_refused(made, host):
    with pytest.raises(InputError, match="takes a host"):
        remote.bench([str(made / "bundle")], host, "python3", 0.1, None)


def test_one_bundle_is_taken(made):
    with pytest.raises(InputError, match="one bundle; got 2"):
        remote.bench([str(made / "bundle")] * 2, "board", "python3", 0.1, None)
