"""Beyond a hot loop: paced calls, random arrivals, a soak, batches. Each contender alone, one after the other.

What is printed here are a contender's own figures; it is `optimize bench` that compares, in interleaved rounds.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimize.energy import Meter
from optimize.foreign import threaded
from runtime.contender import Contender, Worker
from runtime.errors import InputError, WorkError
from runtime.tensors import Array
from runtime.worker import DROPPED, WARM_S

LOADS = (0.2, 0.5, 0.8, 0.95)  # of what a contender can serve
SECONDS = 5.0
CALLS = 100  # at least, of paced calls and of arrivals
BLOCK_S = 1.0
REST_S = 2.0
WINDOWS, WINDOW_S = 5, 0.4  # of throughput
MIB = 2**20


@dataclass(frozen=True)
class Sweep:
    """Where throughput is wanted: at every combination of these.

    Attributes:
        batches: samples a call.
        threads: that work on one call.
        streams: calls at once.
    """

    batches: Sequence[int] = ()
    threads: Sequence[int] = ()
    streams: Sequence[int] = ()


def paced(worker: Worker, rate: float) -> dict[str, Any]:
    """Calls at even distances, `rate` a second, with sleep between: a camera's. Hot loops flatter, caches cool down."""
    at = np.arange(max(CALLS, int(rate * SECONDS))) / rate
    return {"calls_a_second": rate, **_percentiles(worker.schedule(at))}


def arrivals(worker: Worker, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Calls at random times (Poisson), at shares of what can be served: from arrival to answer, waiting included."""
    service = float(np.median(worker.block(BLOCK_S, CALLS))) / 1e9
    random = np.random.default_rng(seed)
    found = {}
    for load in LOADS:
        count = max(CALLS, int(SECONDS * load / service))
        at = np.cumsum(random.exponential(service / load, count))
        seen = _percentiles(worker.schedule(at))
        found[f"{load:.0%} of capacity"] = {"calls_a_second": load / service, **seen}
    return found


def soak(worker: Worker, seconds: float, progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    """A hot loop for long: does it get slower (heat), does memory grow (a leak)?

    The slope of the memory is a least-squares line over the second half, when what is allocated once has been.
    """
    medians: list[float] = []
    memory: list[int] = []
    blocks = max(4, round(seconds / BLOCK_S))
    for number in range(blocks):
        progress(number, blocks, "soak")
        medians.append(float(np.median(worker.block(BLOCK_S, 1))) / 1e6)
        memory.append(worker.use()["memory_bytes"])
    half, tenth = blocks // 2, max(1, blocks // 10)
    seen = all(memory)  # 0 where the system does not say
    slope = float(np.polyfit(np.arange(blocks - half) * BLOCK_S, np.array(memory[half:]) / MIB, 1)[0])
    first, last = float(np.median(medians[:tenth])), float(np.median(medians[-tenth:]))
    return {
        "seconds": blocks * BLOCK_S, "p50_ms_first": first, "p50_ms_last": last, "slower_by": last / first - 1,
        "memory_mib": memory[-1] / MIB if seen else None, "memory_mib_a_minute": slope * 60 if seen else None,
    }  # fmt: skip


def throughput(
    contender: Contender, feeds: Callable[[int], Mapping[str, Array]], sweep: Sweep, log: Path | None,
    progress: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Samples a second over batch, threads of a call, and calls at once; what does not run is said.

    A figure is the median of several windows, with the least and the most that were seen.
    """
    found: list[dict[str, Any]] = []
    places = list(itertools.product(sweep.threads or (None,), sweep.batches))
    for number, (threads, batch) in enumerate(places):
        progress(number, len(places), "throughput")
        one = threaded(contender, threads) if threads else contender
        row: dict[str, Any] = {"contender": contender.name, "batch": batch, "threads": threads}
        try:
            with Worker.start(one, feeds(batch), log) as worker:
                row["threads"] = worker.use()["threads"]
                for streams in sweep.streams or (1,):
                    seen = sorted(batch * worker.streams(streams, WINDOW_S) for _ in range(WINDOWS))
                    low, middle, high = seen[0], seen[len(seen) // 2], seen[-1]
                    found.append({**row, "streams": streams, "samples_a_second": middle, "least": low, "most": high})
        except (WorkError, InputError) as error:
            found.append({**row, "failed": str(error)})
    return found


def energy(worker: Worker, read: Sequence[Meter], progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    """Joules of a call in a hot loop, by counter, and the power before it, when nothing of ours ran."""
    progress(0, 2, "energy at rest")
    found: dict[str, Any] = {}
    at_rest = {meter.name: meter.joules() for meter in read}
    begun = time.monotonic()
    time.sleep(REST_S)
    for meter in read:
        found[f"{meter.name} watts_at_rest"] = meter.since(at_rest[meter.name]) / (time.monotonic() - begun)
    progress(1, 2, "energy")
    before = {meter.name: meter.joules() for meter in read}
    begun = time.monotonic()
    ns = worker.block(SECONDS, CALLS)
    calls = len(ns) + min(DROPPED, math.ceil(WARM_S * 1e9 / ns.mean()))  # as many as `block` drops
    for meter in read:
        used = meter.since(before[meter.name])
        found[f"{meter.name} watts"] = used / (time.monotonic() - begun)
        found[f"{meter.name} joules_a_call"] = used / calls
    return {**found, "calls": calls}


def _percentiles(ns: Array) -> dict[str, Any]:
    p50, p90, p99 = (float(v) / 1e6 for v in np.quantile(ns, (0.5, 0.9, 0.99)))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "calls": len(ns)}
