import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime import contender, forkserver
from runtime.contender import Contender, Worker
from runtime.errors import EngineError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")

# what a server imports, and what its processes open
LIBRARY = """
import os

if os.environ.get("CRASH_ON_IMPORT"):
    os._exit(9)
importer = os.getpid()
"""
OPENER = """
import os
import signal
import sys

import numpy as np


class Facts:
    threads = 1

    def run(self, feeds):
        import library_of_forks as library

        return {
            "importer": np.array(library.importer), "pid": np.array(os.getpid()), "group": np.array(os.getsid(0)),
            "random": np.random.random(4), "seen": np.array(os.environ.get("SEEN", "")),
            "folder": np.array(os.getcwd()),
        }


def facts():
    return Facts()


def leave(code):
    os._exit(code)


def stop(code):
    sys.exit(code)


def kill(number):
    os.kill(os.getpid(), number)


def grow(size):
    return len(np.ones(size, np.uint8))
"""
MODULES = ("library_of_forks",)


@pytest.fixture
def facts(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "library_of_forks.py").write_text(LIBRARY)
    (tmp_path / "modules" / "opener_of_forks.py").write_text(OPENER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    yield Contender("facts", "opener_of_forks:facts", modules=MODULES)
    forkserver._servers.pop(MODULES, None)


def seen(contender: Contender) -> dict[str, np.ndarray]:
    with Worker.start(contender, {"x": np.zeros(1)}) as worker:
        return dict(worker.outputs)


def server() -> forkserver.ForkServer:
    return forkserver._servers[MODULES]


def wait_for(what, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_its_libraries_are_imported_once_and_each_process_is_another(facts):
    one, other = seen(facts), seen(facts)
    assert one["importer"] == other["importer"] != os.getpid()
    assert len({int(value) for found in (one, other) for value in (found["pid"], found["importer"])}) == 3
    assert one["group"] == one["pid"]  # Ctrl-C in the terminal does not reach it
    assert not np.array_equal(one["random"], other["random"])
    anew = seen(replace(facts, modules=()))
    assert anew["importer"] == anew["pid"]


def test_it_has_the_environment_and_the_folder_of_when_it_is_asked_for(facts, tmp_path, monkeypatch):
    first = seen(facts)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "torch sets it itself")
    assert seen(facts)["importer"] == first["importer"]
    monkeypatch.setenv("SEEN", "now")
    with Worker.start(facts, {"x": np.zeros(1)}) as worker:
        assert worker.outputs["seen"] == "now"
        assert worker.outputs["importer"] != first["importer"]
        monkeypatch.chdir(tmp_path)
        assert seen(facts)["folder"] == str(tmp_path)
        worker.run({"x": np.zeros(1)})  # one of a server that is not asked any more lives on
    assert worker._process.returncode == -signal.SIGKILL


def test_how_a_process_ended_is_told(facts):
    for opener, arguments, message in (
        ("leave", {"code": 77}, "with exit code 77"),
        ("stop", {"code": 3}, "with exit code 1"),
        ("kill", {"number": int(signal.SIGSEGV)}, "by signal SIGSEGV"),
    ):
        with pytest.raises(EngineError, match=f"facts ended {message}"):
            seen(replace(facts, opener=f"opener_of_forks:{opener}", arguments=arguments))
    assert not server().gone


def test_a_library_that_crashes_is_told_as_by_a_process_started_anew(facts, monkeypatch):
    monkeypatch.setenv("CRASH_ON_IMPORT", "1")
    with pytest.raises(EngineError, match="exit code 9"):
        seen(facts)
    assert server().gone


def test_a_library_that_is_not_there_is_told_by_who_needs_it(facts, tmp_path):
    (tmp_path / "modules" / "library_of_forks.py").unlink()
    with pytest.raises(EngineError, match="No module named 'library_of_forks'"):
        seen(facts)


def test_a_server_that_was_killed_is_done_without(facts):
    with Worker.start(facts, {"x": np.zeros(1)}) as worker:
        os.kill(int(worker.outputs["importer"]), signal.SIGKILL)
        again = seen(facts)
        assert again["importer"] == again["pid"]
        assert worker.run({"x": np.zeros(1)})["pid"] == worker.outputs["pid"]
    assert wait_for(lambda: ended(int(worker.outputs["pid"])))


def test_whatever_breaks_off_a_question_leaves_no_answer_for_the_next(facts, monkeypatch):
    with Worker.start(facts, {"x": np.zeros(1)}) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(forkserver, "_ANSWER", None)  # asked for when the question is on its way
            with pytest.raises(AttributeError):
                seen(facts)
        again = seen(facts)
        assert again["importer"] == again["pid"]
        assert worker.run({"x": np.zeros(1)})["pid"] == worker.outputs["pid"]


def test_many_at_once(facts):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: seen(facts), range(24)))
    assert len({int(one["pid"]) for one in found}) == 24
    assert len({int(one["importer"]) for one in found}) == 1


def test_memory_is_limited_there_too(facts):
    limit = {"memory_bytes": 2**30, "modules": MODULES}
    assert contender.call("opener_of_forks:grow", size=2**20, **limit) == 2**20
    with pytest.raises(EngineError, match="Unable to allocate"):
        contender.call("opener_of_forks:grow", size=2**31, **limit)


@pytest.mark.parametrize("killed", [True, False])
def test_nothing_is_left_of_a_program_that_ends(facts, killed):
    code = f"""
import os, signal
import numpy as np
from runtime.contender import Contender, Worker
worker = Worker.start(Contender("facts", "opener_of_forks:facts", modules={MODULES!r}), {{"x": np.zeros(1)}})
print(worker.outputs["pid"], worker.outputs["importer"], flush=True)
if {killed}:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL if killed else 0, "")
    for pid in map(int, done.stdout.split()):
        assert wait_for(lambda pid=pid: ended(pid))
