"""`optimize bench`: latency of models and bundles of any origin, interleaved, against the first of them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from optimize import judge
from optimize import scenarios as scenario
from optimize.data import resized
from optimize.energy import meters
from optimize.flags import random_feeds, shapes
from optimize.foreign import line, line_up
from optimize.neighbours import Neighbours
from optimize.progress import Progress
from optimize.report.words import quieter
from optimize.streams import unrolled
from optimize.subject import read_data
from runtime import host
from runtime.contender import Contender, Worker
from runtime.engines import onnx_files
from runtime.errors import InputError, WorkError
from runtime.measure import measure
from runtime.tensors import Array, TensorSpec

COVERED = "host to host: from the call with arrays to the answer in arrays, checks and copies included"


@dataclass(frozen=True)
class Scenarios:
    """What is wanted beyond the hot loop; each has a section of its own.

    Attributes:
        paced: calls a second, with sleep between.
        arrivals: random ones, at several loads.
        soak: seconds.
        energy: joules of a call, where a counter can be read.
        sweep: where throughput is wanted.
    """

    paced: float | None = None
    arrivals: bool = False
    soak: float | None = None
    energy: bool = False
    sweep: scenario.Sweep = field(default_factory=scenario.Sweep)


def bench_all(
    places: Sequence[str], data: str | None, weights: str | None, shape: Sequence[str], batch: int, budget: float,
    trust: bool, scenarios: Scenarios | None = None, states: Sequence[str] = (), fixed: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Latency of each, interleaved, and its ratio to the first; then each alone in what else is asked for.

    With `states` (INPUT=OUTPUT) a call is one step of the data's first recording; `fixed` is INPUT=NUMBER.

    Raises:
        InputError: something is not there, or the inputs cannot be told.
        WorkError: the first of them failed.
    """
    log = Path(tempfile.mkdtemp(prefix="optimize-")) / "log.txt"
    given = shapes(shape)
    contestants = line(places, given, weights, trust, states, fixed)
    streaming = contestants[0].contender.streaming
    inputs = next((one.inputs for one in contestants if one.inputs), given)
    progress = Progress(1)
    progress.stage("latency")
    if data:
        inputs, material = read_data(data, None, None, None, inputs, progress, contestants[0].pre, streaming=streaming)
        baked = inputs[0].shape[0]
        batch = baked if isinstance(baked, int) else batch
        split = material.splits.validate
        if streaming:
            split = unrolled(contestants[0].contender, split, log)
        feeds = resized(split.take(batch)[0], batch, split.axes)
    elif inputs:
        baked = inputs[0].shape[0] if inputs[0].shape else 1
        batch = baked if isinstance(baked, int) else batch
        feeds = random_feeds(inputs, batch)
    else:
        raise InputError("which inputs? Give --data, or --shape batch,3,32,32.")
    contenders = line_up(contestants, inputs)
    sizes = {one.name: _size(place) for one, place in zip(contenders, places, strict=True)}
    before = Neighbours.now()
    found = measure(contenders, feeds, budget_s=budget * max(1, len(contenders) - 1), log=log, progress=progress.count)
    others = Neighbours.now().since(before)
    alive = [contender for contender in contenders if contender.name not in found.failed]
    asked = scenarios or Scenarios()
    beyond = _beyond(alive, inputs, feeds, batch, asked, log, progress) if asked != Scenarios() else {}
    progress.close()
    rows: dict[str, Any] = {}
    for contender in contenders:
        if contender.name in found.failed:
            rows[contender.name] = {"status": "failed", "reason": found.failed[contender.name]}
            continue
        seen = judge.latency(found, contender.name, found.margin)
        trace = found.traces[contender.name]
        rows[contender.name] = {
            "p50_ms": seen.p50_ms, "engine_only_ms": seen.engine_only_ms,
            "p90_ms": seen.p90_ms, "p99_ms": seen.p99_ms, "ratio": seen.ratio,
            "low": seen.low, "high": seen.high, "verdict": seen.verdict or "the base", "threads": trace.threads,
            "cold_start_ms": float(np.median(trace.cold_start_ms)),
            "peak_memory_bytes": trace.peak_memory_bytes, "size_bytes": sizes.get(contender.name),
            "samples": seen.samples,
        }  # fmt: skip
    machine, itself = host.facts(), found.itself
    noisy = found.floor is not None and found.floor > 0.02
    return {
        "input": data or "random numbers, since no --data was given",
        "batch": batch,
        **({"call": f"one step, states: {', '.join(streaming.states)}"} if streaming else {}),
        "rounds": found.rounds,
        "stopped": {"precision": "every interval is within ±2 %", "budget": "the budget was used up"}.get(
            found.stopped
        ),
        "clock": COVERED,
        "base_against_itself": itself and {"ratio": itself.value, "low": itself.low, "high": itself.high},
        "noisy": quieter(others, machine.governor) if noisy else False,
        "machine": machine.to_json(),
        "models": rows,
        **beyond,
        "log": str(log),
    }


def _beyond(
    contenders: Sequence[Contender], inputs: Sequence[TensorSpec], feeds: Mapping[str, Array], batch: int,
    asked: Scenarios, log: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """A section for each scenario, with a row a contender, or a contender and load."""
    found: dict[str, Any] = {}
    read, why_not = meters() if asked.energy else ([], "")
    if why_not:
        found["energy"] = f"not measured: {why_not}"
    for contender in contenders:
        progress.say(f"{contender.name} alone")
        name = contender.name
        try:
            with Worker.start(contender, feeds, log) as worker:
                if asked.paced:
                    found.setdefault("paced", {})[name] = scenario.paced(worker, asked.paced)
                if asked.arrivals:
                    loads = scenario.arrivals(worker).items()
                    found.setdefault("arrivals", {}).update({f"{name}, {load}": row for load, row in loads})
                if read:
                    found.setdefault("energy", {})[name] = scenario.energy(worker, read, progress.count)
                if asked.soak:
                    found.setdefault("soak", {})[name] = scenario.soak(worker, asked.soak, progress.count)
        except WorkError as error:  # the measurement, and the others, are not lost with it
            found.setdefault("failed alone", {})[name] = {"reason": str(error)}
            continue
        if asked.sweep != scenario.Sweep():
            sweep = replace(asked.sweep, batches=asked.sweep.batches or (batch,))
            rows = scenario.throughput(contender, partial(_of_batch, inputs), sweep, log, progress.count)
            found.setdefault("throughput", []).extend(rows)
    return found


def _of_batch(inputs: Sequence[TensorSpec], batch: int) -> dict[str, Array]:
    fixed = inputs[0].shape[0] if inputs[0].shape else 1
    if isinstance(fixed, int) and fixed != batch:
        raise InputError(f"the model takes batches of {fixed} alone")
    return random_feeds(inputs, batch)


def _size(place: str) -> int | None:
    """Bytes on disk of a file with its external data, or of a bundle; None for what is code."""
    path = Path(place)
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return sum(part.stat().st_size for part in onnx_files(path).values()) if path.is_file() else None
