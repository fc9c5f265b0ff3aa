"""What stands between `tensorrt.py` and NVIDIA's library: finding it, its log, its progress."""

import functools
import logging
import re
import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from types import ModuleType
from typing import Any

from runtime.engines import library
from runtime.errors import EngineMissing

log = logging.getLogger(__name__)

SAY_EVERY = 5.0  # seconds between two words on a build's progress


def find() -> ModuleType:
    """TensorRT's Python module; TensorRT for RTX's, which has the same API, where only that one is installed.

    Raises:
        EngineMissing: neither loads; the message is TensorRT's.
    """
    try:
        return library("tensorrt", "tensorrt")
    except EngineMissing:
        try:
            return library("tensorrt_rtx", "tensorrt")
        except EngineMissing:
            pass
        raise


@functools.cache
def logger(trt: ModuleType) -> Any:
    """The one logger of this process: TensorRT ignores every one after the first.

    Its `errors` holds the last error messages, oldest first; whoever begins a piece of work clears it.
    """
    errors: deque[str] = deque(maxlen=20)

    def collect(self: Any, severity: Any, msg: str) -> None:
        if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
            errors.append(msg)
            log.info("%s", msg)  # an error is raised by whoever asked for the work, with the first of these
        elif severity == trt.ILogger.WARNING:
            log.warning("%s", msg)
        else:
            log.debug("%s", msg)

    # by `type`, since the base is of whichever TensorRT was imported: no type checker could follow a class statement
    return type("Collector", (trt.ILogger,), {"log": collect, "errors": errors})()


def reason(collected: Any) -> str:
    """The first error in a logger's messages that is about the work itself, in one line."""
    # without a driver each real error is followed by one of CUDA's, which would hide it
    telling = [message for message in collected.errors if "catchCudaError" not in message]
    return one_line((telling or list(collected.errors) or ["no reason given"])[0])


def one_line(message: str) -> str:
    """A message of TensorRT's, or of its parser, without the source places of its own code."""
    lines = [line.strip() for line in message.splitlines() if "catchCudaError" not in line]
    text = " ".join(line for line in lines if line)
    # `IBuilder::...: Error Code 4: API Usage Error (what is wrong In validate at /_src/...)`
    inner = re.search(r"Error Code \d+: [^(]*\((.*)", text)
    return (inner[1] if inner else text).partition(" In ")[0].strip()[:400] or "no reason given"


class Progress:
    """The share of a build that is done and the seconds left, from nested phases with their steps.

    The weight of a step is not known beforehand, so the time left is a guess: time so far, at the same pace.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._begun = self._said = clock()
        self._lock = Lock()  # TensorRT reports from several threads
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within `parent` or on its own."""
        with self._lock:
            self._phases[name] = parent, max(steps, 1), 0

    def step(self, name: str, index: int) -> None:
        """The step `index` of a phase, counted from 0, is done."""
        with self._lock:
            parent, steps, done = self._phases.get(name, (None, 1, 0))
            self._phases[name] = parent, steps, max(done, index + 1)
            now = self._clock()
            share = self._share = max(self._share, self._seen())
            if now - self._said < SAY_EVERY or not 0 < share < 1:
                return
            self._said = now
        left = (now - self._begun) * (1 - share) / share
        self._say(f"TensorRT builds: {share:.0%}, {name}, about {left:.0f} s left")

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(name, None)

    def _seen(self) -> float:
        """Between 0 and 1. It can fall: one step may have several phases in it, one after the other."""
        roots = [name for name, (parent, _, _) in self._phases.items() if parent not in self._phases]
        return max((self._within(name) for name in roots), default=0.0)

    def _within(self, name: str) -> float:
        _, steps, done = self._phases[name]
        inner = [self._within(child) for child, (parent, _, _) in self._phases.items() if parent == name]
        return min(1.0, (done + max(inner, default=0.0)) / steps)


def stopwatch(trt: ModuleType) -> Any:
    """A profiler for an execution context; its `ms` has the sum of each layer's milliseconds, in the order they ran."""
    spent: dict[str, float] = {}

    def report_layer_time(self: Any, layer_name: str, ms: float) -> None:
        spent[layer_name] = spent.get(layer_name, 0.0) + ms

    return type("Stopwatch", (trt.IProfiler,), {"report_layer_time": report_layer_time, "ms": spent})()


def monitor(trt: ModuleType, progress: Progress) -> Any:
    """A progress monitor for a builder's settings; it must live as long as the build."""

    def phase_start(self: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        progress.start(phase_name, parent_phase, num_steps)

    def step_complete(self: Any, phase_name: str, step: int) -> bool:
        progress.step(phase_name, step)
        return True  # False would end the build

    def phase_finish(self: Any, phase_name: str) -> None:
        progress.finish(phase_name)

    told = {"phase_start": phase_start, "step_complete": step_complete, "phase_finish": phase_finish}
    return type("Monitor", (trt.IProgressMonitor,), told)()
