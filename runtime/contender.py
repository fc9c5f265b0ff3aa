"""Contenders: what is to be measured or judged, and the worker process in which each lives."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from runtime import errors, forkserver, wire
from runtime.decoding import Decoding
from runtime.errors import EngineError
from runtime.host import cores
from runtime.streaming import Streaming
from runtime.tensors import Array, TensorSpec

LIMIT_S = 300.0  # for one answer; what takes longer hangs


@dataclass(frozen=True)
class Contender:
    """A thing with `run(feeds)`, told by how it is opened.

    Attributes:
        name: unique among those it is compared with.
        opener: `module:function`, imported in the worker.
        arguments: its keyword arguments, JSON values.
        rename: its own name for an input, where that is not the one that it is fed by.
        takes: its inputs, where it takes pictures of which the others get what was made.
        decoding: what becomes of its raw outputs, outside the time that is measured, so that they can be compared.
        streaming: its states, in its own names; a recording, whose feeds lack them, it then runs step by step.
        modules: what it imports, where its process may be forked from one that has; else that is started anew.
    """

    name: str
    opener: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    takes: tuple[TensorSpec, ...] = ()
    decoding: Decoding | None = None
    streaming: Streaming | None = None
    modules: tuple[str, ...] = ()

    def given(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Its own form of what all are given."""
        own = {spec.name: spec for spec in self.takes}
        return {name: own[name].given(value) if name in own else value for name, value in feeds.items()}

    def decoded(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Its outputs in the form in which all are compared."""
        return self.decoding.apply(outputs) if self.decoding else outputs


class Worker:
    """One process with one contender in it.

    Every method raises the error that happened inside, or EngineError where the process died or hung; it is then
    gone and cannot be used again. An answer may take `limit_s` seconds, and the process `memory_bytes` of memory (0: no
    limit).

    Attributes:
        outputs: of the first call, where the worker was started with a contender.
        cold_start_ms: from before the process started to after that call.
        stages: `import_ms`, `load_ms`, `first_call_ms` of it.
    """

    outputs: Mapping[str, Array] = MappingProxyType({})
    cold_start_ms: float = 0.0
    stages: Mapping[str, float] = MappingProxyType({})

    def __init__(
        self,
        name: str = "worker",
        log: Path | None = None,
        limit_s: float = LIMIT_S,
        memory_bytes: int = 0,
        modules: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self._contender: Contender | None = None
        self._limit_s = limit_s
        self._process = _process(log or Path(os.devnull), limit_s, memory_bytes, modules)

    @classmethod
    def start(
        cls,
        contender: Contender,
        feeds: Mapping[str, Array],
        log: Path | None = None,
        limit_s: float = LIMIT_S,
        memory_bytes: int = 0,
    ) -> "Worker":
        """Start a process, load the contender and make the first call, all on the clock."""
        started = time.perf_counter()
        worker = cls(contender.name, log, limit_s, memory_bytes, contender.modules)
        try:
            worker.open(contender, feeds)
        except BaseException:
            worker.close()
            raise
        worker.cold_start_ms = (time.perf_counter() - started) * 1e3
        return worker

    def open(self, contender: Contender, feeds: Mapping[str, Array]) -> None:
        """Load a contender, in the place of what was loaded before, and make its first call."""
        self._contender = contender
        self.stages, outputs = self.ask(
            {
                "do": "open",
                "opener": contender.opener,
                "arguments": dict(contender.arguments),
                "rename": dict(contender.rename),
                "streaming": contender.streaming and contender.streaming.to_json(),
            },
            contender.given(feeds),
        )
        self.outputs = contender.decoded(outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One call, not timed."""
        if self._contender is None:
            return self.ask({"do": "run"}, feeds)[1]
        return self._contender.decoded(self.ask({"do": "run"}, self._contender.given(feeds))[1])

    def states(self, recordings: Mapping[str, Array], first: int, every: int) -> dict[str, Array]:
        """What each state was before the steps `first`, `first + every`, ...: by input, (steps, its own shape)."""
        return self.ask({"do": "states", "first": first, "every": every}, recordings)[1]

    def block(self, seconds: float, calls: int) -> Array:
        """Nanoseconds of each call of one timed block (int64)."""
        return self.ask({"do": "block", "seconds": seconds, "calls": calls})[1]["ns"]

    def inside(self, seconds: float, calls: int) -> Array:
        """As `block`, of the engine's own part alone; empty where the contender has no such part."""
        return self.ask({"do": "inside", "seconds": seconds, "calls": calls})[1]["ns"]

    def streams(self, count: int, seconds: float) -> float:
        """Calls a second that are answered when `count` threads call at once."""
        answer = self.ask({"do": "streams", "count": count, "seconds": seconds})[0]
        return float(answer["calls"] / answer["seconds"])

    def schedule(self, at: Array) -> Array:
        """Nanoseconds (int64) from when each call was due, `at` seconds (float64) after the first, to its answer."""
        return self.ask({"do": "schedule"}, {"at": at})[1]["ns"]

    def use(self) -> dict[str, int]:
        """`threads`, `memory_bytes` now and `peak_memory_bytes` so far."""
        return self.ask({"do": "use"})[0]

    def precision(self) -> dict[str, int]:
        """The number formats that truly run, with the number of ops; may take memory and time of its own."""
        return dict(self.ask({"do": "precision"})[0]["precision"])

    def call(self, function: str, **arguments: Any) -> Any:
        """A function's JSON result, computed in the process."""
        return self.ask({"do": "call", "function": function, "arguments": arguments})[0]["result"]

    def cpu_seconds(self) -> float:
        """The processor time that its threads have used so far."""
        return cpu_seconds(self._process.pid)

    def ask(
        self, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Send a message, wait for its answer."""
        assert self._process.stdin and self._process.stdout
        try:
            wire.send(self._process.stdin, message, arrays)
            if not select.select([self._process.stdout], [], [], self._limit_s)[0]:
                self.close()
                raise EngineError(f"{self.name} gave no answer within {self._limit_s:.0f} s; its process was ended.")
            answer, outputs = wire.receive(self._process.stdout)
        except (EOFError, OSError, ValueError) as error:
            code = self._end()
            raise EngineError(f"the process of {self.name} ended {_how(code)}.") from error
        if "error" in answer:
            kind = getattr(errors, answer["error"], EngineError)
            raise kind(answer["message"])
        return answer, outputs

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._end()

    def _end(self) -> int:
        try:
            code = self._process.wait(5)  # it has said its last word; one that lives on is ended
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                try:
                    stream.close()
                except OSError:  # what was still to be sent has nowhere to go
                    continue
        return code

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_together(
    contenders: Iterable[Contender],
    feeds: Mapping[str, Array],
    log: Path | None,
    start: Callable[[Contender, Mapping[str, Array], Path | None], Worker],
) -> dict[str, Worker | errors.Error]:
    """Each contender's worker, or why it did not start, by name; as many at once as there are cores."""

    def one(contender: Contender) -> Worker | errors.Error:
        try:
            return start(contender, feeds, log)
        except (errors.WorkError, errors.InputError) as error:
            return error

    with ThreadPoolExecutor(cores()) as pool:
        starting = {contender.name: pool.submit(one, contender) for contender in contenders}
        try:
            return {name: future.result() for name, future in starting.items()}
        except BaseException:  # Ctrl-C; no process is left behind
            pool.shutdown(cancel_futures=True)
            for future in starting.values():
                found = None if future.cancelled() or future.exception() else future.result()
                if found is not None and not isinstance(found, errors.Error):
                    found.close()
            raise


def call(
    function: str,
    log: Path | None = None,
    limit_s: float = 3600.0,
    memory_bytes: int = 0,
    modules: tuple[str, ...] = (),
    **arguments: Any,
) -> Any:
    """Run a function of JSON values in a process of its own, so that a vendor's crash ends that process only."""
    with Worker(function, log, limit_s, memory_bytes, modules) as worker:
        return worker.call(function, **arguments)


def cpu_seconds(pid: int) -> float:
    """The processor time of a process's threads: from /proc in nanoseconds, elsewhere from psutil.

    Raises:
        LookupError: neither is there, nor the process.
    """
    total, found = 0, False
    try:
        for task in os.scandir(f"/proc/{pid}/task"):
            try:
                with Path(task.path, "schedstat").open("rb") as stream:
                    total += int(stream.read().split()[0])
                found = True
            except OSError:  # a thread that has just ended
                continue
        if found:
            return total / 1e9
        with Path(f"/proc/{pid}/stat").open("rb") as stream:  # a kernel that keeps no schedstat
            user, system = stream.read().rpartition(b")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        pass
    try:
        import psutil
    except ImportError:
        raise LookupError("no /proc here, and psutil is not installed") from None
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error as error:
        raise LookupError(f"no process {pid}") from error
    return float(times.user + times.system)


def _process(
    log: Path, limit_s: float, memory_bytes: int, modules: tuple[str, ...]
) -> "subprocess.Popen[bytes] | forkserver.Forked":
    """A process that serves: forked from one that has the modules, or started anew."""
    # -P: no folder of the user's before ours on sys.path, so that no `types.py` of theirs is ours
    command = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
    with log.open("ab") as chatter:
        with contextlib.suppress(OSError):  # it has ended: so may what is started anew, which then says so itself
            if server := forkserver.get(modules, command, env, log):
                return server.fork(chatter, memory_bytes, limit_s)
        return subprocess.Popen(
            [*command, "runtime.worker", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=chatter,
            env=env,
            start_new_session=True,  # Ctrl-C reaches the parent, which ends the worker in its own order
        )


def _import_path() -> list[str]:
    """Where the parent finds `runtime`, and what else it can import."""
    here = str(Path(__file__).resolve().parent.parent)
    return [here, *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    import signal

    names = {s.value: s.name for s in signal.Signals}
    return f"by signal {names.get(-code, -code)}"
