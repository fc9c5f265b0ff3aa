"""Beyond a hot loop: paced calls, random arrivals, a soak, batches. Each contender alone, one after the other.

What is printed here are a contender's own figures; it is `optimize bench` that compares, in interleaved rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.contender import Contender, Worker
from runtime.errors import InputError, WorkError
from runtime.tensors import Array

LOADS = (0.2, 0.5, 0.8, 0.95)  # of what a contender can serve
SECONDS = 5.0
CALLS = 100  # at least, of paced calls and of arrivals
BLOCK_S = 1.0
MIB = 2**20


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
    contender: Contender, feeds: Callable[[int], Mapping[str, Array]], batches: Sequence[int], log: Path | None
) -> dict[str, dict[str, Any]]:
    """Samples a second over the batch; a batch that does not run is said."""
    found: dict[str, dict[str, Any]] = {}
    for batch in batches:
        try:
            with Worker.start(contender, feeds(batch), log) as worker:
                p50 = float(np.median(worker.block(BLOCK_S, 5))) / 1e6
        except (WorkError, InputError) as error:
            found[f"batch {batch}"] = {"failed": str(error)}
            continue
        found[f"batch {batch}"] = {"p50_ms": p50, "samples_a_second": batch / p50 * 1e3}
    return found


def _percentiles(ns: Array) -> dict[str, Any]:
    p50, p90, p99 = (float(v) / 1e6 for v in np.quantile(ns, (0.5, 0.9, 0.99)))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "calls": len(ns)}
