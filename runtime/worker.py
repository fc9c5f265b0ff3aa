"""The process in which one contender lives: `python -m runtime.worker`, told what to do over its standard input.

It imports numpy, `runtime`, and what the contender itself needs: what is measured here is what a device runs.

    open   {"opener": "module:function", "arguments": {...}, "rename": {...}, "streaming": {...}}, arrays = the feeds to
           time with; imports, loads, makes the first call; answers with the milliseconds of each and the outputs
    run    arrays = feeds; answers with the outputs; of recordings, which lack the states, they are stacked along time
    states {"first": step, "every": n}, arrays = recordings; answers with what each state was before these steps
    block  {"seconds": s, "calls": n}: after 3 dropped calls, or the fewer that take 50 ms, at least n calls and s
           seconds; answers with the nanoseconds of each
    inside likewise, of the engine's own part of the call, copies left out; nothing where it has no such part
    streams    {"count": n, "seconds": s}: calls from n threads at once, each at least one, for so long;
           answers with the number of calls and the seconds until the last had ended
    schedule   arrays = {"at": seconds}; calls that are due so long after now, each begun as soon as the one before has
           ended; answers with the nanoseconds from when each was due to its answer
    use    answers with the threads, the memory now and the peak memory
    precision   answers with the number formats that truly run
    call   {"function": "module:function", "arguments": {...}}: for work that is better done apart; its JSON result

A failure is answered by {"error": kind, "message": text} and leaves the process alive.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from runtime import engines, wire
from runtime.engines import Session
from runtime.errors import EngineError, Error
from runtime.host import facts
from runtime.streaming import Streaming
from runtime.tensors import Array, Specs

DROPPED, WARM_S = 3, 0.05  # calls, or after so many seconds fewer: caches and pools are warm by then


def open_engine(engine: str, files: Mapping[str, str], specs: Mapping[str, Any], options: Mapping[str, Any]) -> Session:
    """An opener: an engine's files, as `runtime.engines` opens them."""
    paths = {role: Path(file) for role, file in files.items()}
    return engines.get(engine).open(paths, Specs.from_json(specs), facts(gpus=False), options)


def open_bundle(path: str, engine: str | None = None, threads: int | None = None) -> Any:
    """An opener: a bundle, as a device loads it."""
    from runtime.loading import load

    return load(path, engine, threads)


def compile_engine(engine: str, onnx: str, out: str, options: Mapping[str, Any]) -> dict[str, str]:
    """For `call`: compile an ONNX file into the folder `out`; role to path."""
    Path(out).mkdir(parents=True, exist_ok=True)
    return {role: str(path) for role, path in engines.get(engine).compile(Path(onnx), Path(out), options).items()}


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer messages until the input ends."""
    session: Any = None
    feeds: dict[str, Array] = {}
    rename: dict[str, str] = {}
    streaming: Streaming | None = None
    while True:
        try:
            message, arrays = wire.receive(source)
        except EOFError:
            return
        try:
            match message["do"]:
                case "open":
                    rename = message["rename"]
                    streaming = Streaming.from_json(message["streaming"]) if message["streaming"] else None
                    feeds = {rename.get(name, name): value for name, value in arrays.items()}
                    session, answer, outputs = _open(message, feeds, streaming)
                    wire.send(sink, answer, outputs)
                case "run":
                    arrays = {rename.get(name, name): value for name, value in arrays.items()}
                    wire.send(sink, {}, _run(session, arrays, streaming))
                case "states":
                    assert streaming is not None
                    wire.send(sink, {}, streaming.before(session.run, arrays, message["first"], message["every"]))
                case "block":
                    call: Callable[[], object] = partial(session.run, feeds)
                    wire.send(sink, {}, {"ns": _block(call, message["seconds"], message["calls"])})
                case "inside":
                    ns = np.empty(0, np.int64)
                    if hasattr(session, "inside"):
                        ns = _block(session.inside(feeds), message["seconds"], message["calls"])
                    wire.send(sink, {}, {"ns": ns})
                case "streams":
                    wire.send(sink, _streams(partial(session.run, feeds), message["count"], message["seconds"]))
                case "schedule":
                    wire.send(sink, {}, {"ns": _schedule(session, feeds, arrays["at"])})
                case "use":
                    memory = {"peak_memory_bytes": peak_memory(), "memory_bytes": _resident("VmRSS:")}
                    wire.send(sink, {"threads": session.threads, **memory})
                case "precision":
                    wire.send(sink, {"precision": dict(session.precision())})
                case "call":
                    wire.send(sink, {"result": _named(message["function"])(**message["arguments"])})
        except Error as error:
            wire.send(sink, {"error": type(error).__name__, "message": str(error)})
        except Exception as error:  # a vendor's or a user's code: the parent says it, the log has the trace
            import traceback

            traceback.print_exc()
            wire.send(sink, {"error": EngineError.__name__, "message": f"{type(error).__name__}: {error}"})


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes; 0 where the system does not say."""
    if found := _resident("VmHWM:"):
        return found
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident(what: str) -> int:
    """A line of Linux's status of this process, in bytes; 0 where there is none."""
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith(what):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _run(session: Any, feeds: dict[str, Array], streaming: Streaming | None) -> dict[str, Array]:
    """One call, or the calls of a recording."""
    found: dict[str, Array]
    if streaming is None or streaming.holds(feeds):
        found = session.run(feeds)
    else:
        found = streaming.unrolled(session.run, feeds)
    return found


def _open(
    message: Mapping[str, Any], feeds: dict[str, Array], streaming: Streaming | None
) -> tuple[Any, dict[str, Any], dict[str, Array]]:
    start = time.perf_counter()
    opener = _named(message["opener"])
    imported = time.perf_counter()
    session = opener(**message["arguments"])
    loaded = time.perf_counter()
    outputs = _run(session, feeds, streaming) if feeds else {}
    called = time.perf_counter()
    stages = {"import_ms": imported - start, "load_ms": loaded - imported, "first_call_ms": called - loaded}
    return session, {name: seconds * 1e3 for name, seconds in stages.items()}, outputs


def _block(call: Callable[[], object], seconds: float, calls: int) -> Array:
    now = time.perf_counter_ns
    end = now() + int(WARM_S * 1e9)
    for _ in range(DROPPED):
        call()
        if now() >= end:
            break
    taken: list[int] = []
    end = now() + int(seconds * 1e9)
    while len(taken) < calls or now() < end:
        start = now()
        call()
        taken.append(now() - start)
    return np.array(taken, np.int64)


def _streams(call: Callable[[], object], count: int, seconds: float) -> dict[str, float]:
    from concurrent.futures import ThreadPoolExecutor

    def caller() -> int:
        calls = 0
        while not calls or time.perf_counter() < end:
            call()
            calls += 1
        return calls

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: call(), range(count)))  # dropped: sessions make what each call at once needs
        begun = time.perf_counter()
        end = begun + seconds
        calls = sum(pool.map(lambda _: caller(), range(count)))
        return {"calls": calls, "seconds": time.perf_counter() - begun}


def _schedule(session: Any, feeds: dict[str, Array], at: Array) -> Array:
    """An open loop: a call that is late waits for nobody's permission, and its waiting counts."""
    run, now = session.run, time.perf_counter_ns
    for _ in range(DROPPED):
        run(feeds)
    taken = np.empty(len(at), np.int64)
    begun = now()
    for i, due in enumerate((begun + at * 1e9).astype(np.int64).tolist()):
        wait = due - now()
        if wait > 0:
            time.sleep(wait / 1e9)
        run(feeds)
        taken[i] = now() - due
    return taken


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def main(memory_bytes: int = 0) -> None:
    """Speak over the real standard output; whatever a vendor prints goes to standard error, which is the log."""
    if memory_bytes:
        import resource

        # data, not address space: libraries map far more than they use
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
