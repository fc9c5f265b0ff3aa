import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import contender, engines, errors, host, worker
from runtime.contender import Contender, Worker
from runtime.errors import EngineError, EngineMissing, Error, InputError, StepError
from runtime.worker import DROPPED

HELPER = '''
"""Openers, and functions to call, as a user's or a vendor's code may be."""

import os
import signal
import subprocess
import sys
import time

import numpy as np

from runtime import errors

crash = os.environ.get("HELPER_CRASH_ON_IMPORT")
if crash:
    os._exit(9)


class Double:
    threads = 2

    def __init__(self, on_run=None):
        self.on_run, self.count = on_run, 0

    def run(self, feeds):
        self.count += 1
        if self.on_run:
            self.on_run()
        return {name: value * 2 for name, value in feeds.items()}

    def precision(self):
        return {"f32": 3}


def double():
    return Double()


def leave(code):
    os._exit(code)


def kill(number):
    os.kill(os.getpid(), number)


def crash_on_run(number):
    return Double(lambda: kill(number))


def hang():
    time.sleep(1000)


def hang_on_run():
    return Double(hang)


def fail(kind, message):
    raise getattr(errors, kind)(message)


def fail_on_run(kind, message):
    return Double(lambda: fail(kind, message))


def fail_otherwise(message):
    raise KeyError(message)


class Chatty(Double):
    def run(self, feeds):
        print("printed by a vendor")
        sys.stdout.flush()
        os.write(1, b"written by a vendor in C\\n")
        subprocess.run([sys.executable, "-c", "print('printed by its child')"], check=True)
        return super().run(feeds)


def chatty():
    print("{}")
    return Chatty()


def odd_answer():
    class Odd(Double):
        def run(self, feeds):
            return {"x": np.array([object()])}
    return Odd()


def counting():
    class Counting(Double):
        def run(self, feeds):
            super().run(feeds)
            return {"count": np.array(self.count)}
    return Counting()


class Engine(Double):
    inner = 0

    def run(self, feeds):
        return {"inside": np.array(self.inner)}

    def inside(self, feeds):
        def once():
            self.inner += 1
        return once


def engine():
    return Engine()


class Sleepy(Double):
    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def run(self, feeds):
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        return {"most": np.array(self.most)}


def sleepy():
    return Sleepy()


def moody():
    class Moody(Double):
        def run(self, feeds):
            found = super().run(feeds)
            if self.count == 20:
                raise errors.EngineError("not any more")
            return found
    return Moody()


def add(a, b):
    return a + b


def peaks(size):
    from runtime.worker import peak_memory

    before = peak_memory()
    held = np.ones(size, np.uint8)
    during = peak_memory()
    del held
    return [before, during, peak_memory()]


def unserializable():
    return {1, 2}


def modules():
    return sorted({name.partition(".")[0] for name in sys.modules})


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()
'''

X = {"x": np.arange(3, dtype=np.float32)}


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """The name of a module that a worker can import, and this process cannot."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "helper_of_contenders.py").write_text(HELPER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return "helper_of_contenders"


def gone(worker: Worker) -> bool:
    """Whether its process has been ended, and collected."""
    return worker._process.returncode is not None


def test_what_a_contender_answers(helper):
    with Worker.start(Contender("double", f"{helper}:double"), X) as worker:
        np.testing.assert_array_equal(worker.outputs["x"], [0, 2, 4])
        assert worker.cold_start_ms > 0
        assert set(worker.stages) == {"import_ms", "load_ms", "first_call_ms"}
        assert sum(worker.stages.values()) <= worker.cold_start_ms
        np.testing.assert_array_equal(worker.run({"x": np.ones((2, 2), np.int8)})["x"], [[2, 2], [2, 2]])
        assert worker.precision() == {"f32": 3}
        used = worker.use()
        assert used["threads"] == 2
        assert used["peak_memory_bytes"] > 2**20
    assert gone(worker)


def test_what_has_no_part_of_its_own_has_no_time_for_it(helper):
    with Worker.start(Contender("double", f"{helper}:double"), X) as worker:
        assert worker.inside(0.0, 5).shape == (0,)
        assert worker.inside(0.0, 5).dtype == np.int64
    with Worker.start(Contender("engine", f"{helper}:engine"), X) as worker:
        before = int(worker.run(X)["inside"])
        times = worker.inside(0.0, 5)
        assert (len(times), times.dtype) == (5, np.int64)
        assert (times > 0).all()
        assert int(worker.run(X)["inside"]) == before + DROPPED + 5


@pytest.mark.parametrize("count", [1, 2, 4])
def test_calls_at_once_are_counted(helper, count):
    with Worker.start(Contender("sleepy", f"{helper}:sleepy"), X) as worker:
        rate = worker.streams(count, 0.3)
        assert 0.5 * count / 0.02 < rate <= count / 0.02  # each sleeps 20 ms, all at the same time
        assert int(worker.run(X)["most"]) == count


def test_a_failure_in_one_of_several_calls_is_said(helper):
    with Worker.start(Contender("moody", f"{helper}:moody"), X) as worker:
        with pytest.raises(EngineError, match="not any more"):
            worker.streams(2, 5.0)
        np.testing.assert_array_equal(worker.run(X)["x"], [0, 2, 4])  # it lives on


def test_a_block_makes_as_many_calls_as_asked_and_drops_the_first(helper):
    with Worker.start(Contender("counting", f"{helper}:counting"), X) as worker:
        before = int(worker.run(X)["count"])
        times = worker.block(0.0, 7)
        assert times.dtype == np.int64
        assert len(times) == 7
        assert (times >= 0).all()
        assert int(worker.run(X)["count"]) - before == 7 + DROPPED + 1
        assert len(worker.block(0.05, 1)) > 1  # it goes on until the time is over


def test_of_slow_calls_a_block_drops_fewer():
    calls = []
    times = worker._block(lambda: calls.append(time.sleep(0.06)), 0.0, 2)
    assert (len(times), len(calls)) == (2, 2 + 1)


def test_a_contender_may_name_its_inputs_otherwise(helper):
    with Worker.start(Contender("double", f"{helper}:double", rename={"x": "image"}), X) as worker:
        assert list(worker.outputs) == ["image"]
        assert list(worker.run(X)) == ["image"]


def test_a_cold_start_asks_for_no_gpus(monkeypatch):
    """The driver's tool takes longer than many an engine."""
    asked = []
    monkeypatch.setattr(host, "_gpus", lambda: asked.append(1) or ())
    given = []
    monkeypatch.setattr(engines, "get", lambda name: SimpleNamespace(open=lambda *args: given.append(args)))
    worker.open_engine("any", {"model": "m"}, {"inputs": [], "outputs": []}, {})
    assert given[0][2].cores and not asked


def test_a_contender_loads_nothing_of_optimize(helper):
    with Worker.start(Contender("double", f"{helper}:double"), X) as worker:
        loaded = set(worker.call(f"{helper}:modules"))
    # `multiprocessing.resource_tracker` and the like belong to Python itself
    assert not loaded & {"optimize", "targets", "torch", "onnx", "onnxruntime", "openvino", "pydantic", "scipy"}


@pytest.mark.parametrize("code", [0, 1, 77])
def test_a_process_that_ends_by_itself_gives_its_exit_code(helper, code):
    with pytest.raises(EngineError, match=rf"leaver ended with exit code {code}\b"):
        Worker.start(Contender("leaver", f"{helper}:leave", {"code": code}), X)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGILL"])
def test_a_process_that_crashes_gives_the_signals_name(helper, name):
    with pytest.raises(EngineError, match=rf"crasher ended by signal {name}"):
        Worker.start(Contender("crasher", f"{helper}:kill", {"number": getattr(signal, name)}), X)


def test_a_crash_in_a_later_call_is_told_and_the_worker_is_gone(helper):
    with Worker.start(Contender("later", f"{helper}:crash_on_run", {"number": signal.SIGSEGV}), {}) as worker:
        for _ in range(2):  # the second time there is no process to ask any more
            with pytest.raises(EngineError, match="SIGSEGV"):
                worker.run(X)
        assert gone(worker)
        with pytest.raises(EngineError):
            worker.use()


def test_large_arrays_sent_to_a_process_that_has_gone(helper):
    with Worker.start(Contender("double", f"{helper}:double"), {}) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL"):
            worker.run({"x": np.zeros(10**6)})


def test_a_crash_while_importing_is_told(helper, monkeypatch):
    monkeypatch.setenv("HELPER_CRASH_ON_IMPORT", "1")
    with pytest.raises(EngineError, match="exit code 9"):
        Worker.start(Contender("x", f"{helper}:double"), X)


@pytest.mark.parametrize("opener", ["hang", "hang_on_run"])
def test_one_that_hangs_is_ended(helper, opener):
    with pytest.raises(EngineError, match="hanger gave no answer within 1 s; its process was ended"):
        Worker.start(Contender("hanger", f"{helper}:{opener}"), X, limit_s=1.0)


def test_a_call_that_hangs_is_ended(helper):
    with Worker("waiter", limit_s=1.0) as worker:
        with pytest.raises(EngineError, match="waiter gave no answer within 1 s"):
            worker.call(f"{helper}:hang")
        assert gone(worker)
        with pytest.raises(EngineError):
            worker.call(f"{helper}:add", a=1, b=2)


def kinds(base: type[Error] = Error) -> list[type[Error]]:
    return [
        base,
        *(kind for child in base.__subclasses__() for kind in kinds(child) if kind.__module__ == errors.__name__),
    ]


def test_every_error_keeps_its_class_and_its_words(helper):
    found = kinds()
    assert {InputError, EngineMissing, StepError} <= set(found)
    with Worker("failer") as worker:
        for kind in found:
            with pytest.raises(Error) as caught:
                worker.call(f"{helper}:fail", kind=kind.__name__, message="in so many\nwords, größer")
            assert type(caught.value) is kind
            assert str(caught.value) == "in so many\nwords, größer"
        assert worker.call(f"{helper}:add", a=1, b=2) == 3  # an error leaves it alive


def test_an_error_when_opened_keeps_its_class(helper):
    for opener in ("fail", "fail_on_run"):
        with pytest.raises(EngineMissing, match="pip install"):
            Worker.start(Contender("x", f"{helper}:{opener}", {"kind": "EngineMissing", "message": "pip install"}), X)


def test_a_foreign_error_is_an_engine_error_and_its_trace_is_in_the_log(helper, tmp_path):
    log = tmp_path / "log.txt"
    with pytest.raises(EngineError, match="KeyError: 'of theirs'") as caught:
        contender.call(f"{helper}:fail_otherwise", log, message="of theirs")
    assert type(caught.value) is EngineError
    assert "Traceback" in log.read_text()
    assert "fail_otherwise" in log.read_text()


@pytest.mark.parametrize("place", ["no_such_module_here:f", "helper_of_contenders:no_such_function"])
def test_an_opener_that_is_not_there_is_told(helper, place):
    with pytest.raises(EngineError, match="no_such"):
        Worker.start(Contender("x", place), X)


def test_what_a_vendor_prints_goes_to_the_log_and_not_into_the_answers(helper, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("written before\n")
    with Worker.start(Contender("chatty", f"{helper}:chatty"), X, log) as worker:
        np.testing.assert_array_equal(worker.outputs["x"], [0, 2, 4])
        np.testing.assert_array_equal(worker.run(X)["x"], [0, 2, 4])
    text = log.read_text()
    assert text.startswith("written before\n")
    for line in ("printed by a vendor", "written by a vendor in C", "printed by its child"):
        assert text.count(line) == 2


def test_without_a_log_a_vendors_prints_go_nowhere(helper, capfd):
    with Worker.start(Contender("chatty", f"{helper}:chatty"), X):
        pass
    assert capfd.readouterr() == ("", "")


def test_an_answer_of_objects_is_an_error_and_does_not_hang(helper):
    """ONNX Runtime gives strings as an array of objects, which cannot be sent."""
    code = f"""
from runtime.contender import Contender, Worker
from runtime.errors import EngineError
try:
    Worker.start(Contender("odd", "{helper}:odd_answer"), {{"x": __import__("numpy").zeros(1)}})
except EngineError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10, check=False)
    assert done.stdout.startswith("refused: "), done.stderr


def test_a_function_in_a_process_of_its_own(helper):
    assert contender.call(f"{helper}:add", a=[1], b=["x"]) == [1, "x"]
    assert contender.call(f"{helper}:burn", seconds=0.0) != os.getpid()
    with pytest.raises(EngineError, match="set"):
        contender.call(f"{helper}:unserializable")
    with pytest.raises(EngineError, match="SIGSEGV"):
        contender.call(f"{helper}:kill", number=int(signal.SIGSEGV))


def test_a_users_files_do_not_shadow_ours(helper, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("runtime", "targets", "types", "json", "numpy"):
        (folder / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(folder)
    assert contender.call(f"{helper}:add", a=1, b=1) == 2


def test_processor_time_grows_with_work_alone(helper):
    with Worker("burner") as worker:
        worker.call(f"{helper}:burn", seconds=0.0)
        before = worker.cpu_seconds()
        worker.call(f"{helper}:burn", seconds=0.2)
        assert worker.cpu_seconds() - before >= 0.19
    assert contender.cpu_seconds(os.getpid()) > 0


def test_processor_time_of_a_process_that_is_gone_cannot_be_told():
    with Worker("short") as worker:
        worker.close()
        with pytest.raises(LookupError):
            worker.cpu_seconds()


def test_processor_time_where_the_kernel_keeps_no_schedstat(monkeypatch):
    """It may be built without; then the time must come from elsewhere, and not be nought."""
    pytest.importorskip("psutil", reason="pip install 'edge-optimize[optimize]'")

    def nowhere(*_):
        raise FileNotFoundError("schedstat")

    monkeypatch.setattr(contender, "open", nowhere, raising=False)
    assert contender.cpu_seconds(os.getpid()) > 0


def test_processor_time_without_proc(monkeypatch):
    def nowhere(*_):
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(contender.os, "scandir", nowhere)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(LookupError, match="psutil"):
        contender.cpu_seconds(os.getpid())
    monkeypatch.delitem(sys.modules, "psutil")
    pytest.importorskip("psutil", reason="pip install 'edge-optimize[optimize]'")
    assert contender.cpu_seconds(os.getpid()) > 0


def test_peak_memory_is_the_peak(helper):
    before, held, after = contender.call(f"{helper}:peaks", size=2**26)
    assert 0.9 * 2**26 < held - before < 2**27
    assert after > held - 2**22  # what was given back was held all the same


def test_a_worker_ends_with_its_parent(helper):
    """Its input ends, so it does, even where the parent is killed."""
    code = f"""
import os, sys
from runtime.contender import Worker
worker = Worker("orphan")
print(worker.call("{helper}:burn", seconds=0.0), flush=True)
os._exit(0)
"""
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    pid = int(parent.stdout)
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
            break
        subprocess.run(["sleep", "0.05"], check=True)
    else:
        pytest.fail("it lives on")
