"""Latency, measured so that two numbers may be compared.

A *round* is a fresh process of each contender. Within it the contenders' blocks come in a random complete order and
then in its mirror image, twice (ABBAABBA for two), so that a drift of the machine falls on all alike. A block starts
only when the other processes' CPU time has stood still for 20 ms: a pool of threads that spins on after its last call
would otherwise slow whoever comes next. Its first calls are dropped. The rounds, not the calls, are what is counted:
processes differ more than calls do.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from runtime.contender import Contender, Worker, start_together
from runtime.errors import Error, InputError, WorkError
from runtime.intervals import Ratio, ratio
from runtime.tensors import Array

MIN_ROUNDS = 8
PRECISION = 0.02  # half-width of the ratio's interval at which to stop
BLOCK_S, BLOCK_CALLS = 0.05, 3  # of slow calls few: rounds are what is counted
MIRRORED = 2  # how often each has its two blocks in a round
INSIDE_S = 0.02  # a round, and one call at least, for the second column
STILL_S, STILL_SHARE, STILL_LIMIT_S = 0.02, 0.02, 2.0
PAUSE_S = 0.1  # where CPU times cannot be read

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Trace:
    """What was seen of one contender.

    Attributes:
        rounds: nanoseconds of each call, an array a round.
        inside: likewise of the engine's own part, without the copies around it; empty where there is no such part.
        cold_start_ms: process start, import, load and first call, a number a process that was started anew.
        peak_memory_bytes: largest resident memory of its process, over the rounds.
        threads: that truly ran.
    """

    rounds: tuple[Array, ...] = ()
    inside: tuple[Array, ...] = ()
    cold_start_ms: tuple[float, ...] = ()
    peak_memory_bytes: int = 0
    threads: int = 0

    @property
    def samples(self) -> Array:
        """All calls of all rounds, in nanoseconds."""
        return np.concatenate(self.rounds)

    @property
    def inside_ms(self) -> float | None:
        """The median of the engine's own part; None where there is none."""
        seen = [calls for calls in self.inside if len(calls)]
        return float(np.median(np.concatenate(seen))) / 1e6 if seen else None


@dataclass(frozen=True)
class Measurement:
    """One interleaved measurement.

    Attributes:
        base: the contender that the others are compared with.
        twin: the base once more, the A-against-A run; None where it was not asked for.
        traces: by name, of those that got through.
        failed: name to reason.
        stopped: why it ended: all intervals narrow enough, the budget used up, or the rounds asked for done.
        quiet: how the others' rest was seen: `CPU time` or `fixed pause`.
        restless: blocks that began although the others had not come to rest within two seconds.
    """

    base: str
    twin: str | None
    traces: Mapping[str, Trace]
    failed: Mapping[str, str]
    rounds: int
    stopped: Literal["precision", "budget", "rounds"]
    quiet: str
    restless: int

    def ratio(self, name: str, base: str | None = None) -> Ratio:
        """Time of `base` (the measurement's own by default) over time of `name`."""
        return ratio(self.traces[base or self.base].rounds, self.traces[name].rounds)

    @property
    def itself(self) -> Ratio | None:
        """The base against itself. None without a twin."""
        return self.ratio(self.twin) if self.twin is not None and self.twin in self.traces else None

    @property
    def floor(self) -> float | None:
        """The half-width of A against A: what this machine cannot tell apart. None without a twin."""
        return self.itself.half_width if self.itself else None

    @property
    def margin(self) -> float:
        """Within which a ratio is `no difference`: 2 %, or the floor where that is larger."""
        return max(0.02, self.floor or 0.0)


def measure(
    contenders: Sequence[Contender],
    feeds: Mapping[str, Array],
    *,
    budget_s: float = 20.0,
    rounds: int | None = None,
    brief: bool = False,
    twin: bool = True,
    seed: int = 0,
    log: Path | None = None,
    progress: Progress = lambda *_: None,
    start: Callable[[Contender, Mapping[str, Array], Path | None], Worker] = Worker.start,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Measurement:
    """Time contenders against the first of them, all in the same rounds.

    Args:
        contenders: the first is the base.
        feeds: the arrays of each call.
        budget_s: after which to stop, though never before 8 rounds.
        rounds: exactly so many instead.
        brief: a first look: the order is mirrored once a round, and the engine's own part timed in the first alone.
        twin: also run the base against itself.
        seed: of the orders.
        log: where the workers' chatter goes.
        progress: told (rounds done, rounds expected, what is being done).
        start: opens a contender; a test puts its own here.
        clock: in seconds.
        sleep: in seconds.

    Raises:
        WorkError: the base failed; of another contender that fails, `failed` has the reason.
    """
    base, random = contenders[0], np.random.default_rng(seed)
    again = replace(base, name=f"{base.name} again") if twin else None
    alive = {c.name: c for c in (*contenders, *([again] if again else []))}
    traces = {name: Trace() for name in alive}
    failed: dict[str, str] = {}
    quiet, restless, begun, done = "CPU time", 0, clock(), 0
    while True:
        expected = rounds or MIN_ROUNDS
        if rounds is None and done >= MIN_ROUNDS:  # the budget decides: extrapolate it from the rounds so far
            expected = max(done + 1, int(done * budget_s / max(clock() - begun, 1e-9)))
        progress(done, expected, f"round {done + 1}")
        order = [str(name) for name in random.permutation(list(alive))]
        # the first round's are started anew: their cold start is on the clock
        started = alive if done else {name: replace(one, modules=()) for name, one in alive.items()}
        mirrored, within = 1 if brief else MIRRORED, not (brief and done)
        found, errors, still = _round(started, order, mirrored, within, feeds, log, start, clock, sleep)
        for name, reason in errors.items():
            if alive.pop(name).name == base.name:
                raise WorkError(f"{base.name}, with which the others are compared, failed: {reason}")
            failed[name] = reason
        for name in alive:
            seen = replace(found[name], cold_start_ms=()) if done and alive[name].modules else found[name]
            traces[name] = _append(traces[name], seen)
        done, restless = done + 1, restless + still.count(False)
        quiet = "fixed pause" if None in still else quiet
        kept = {name: traces[name] for name in alive}
        so_far = Measurement(base.name, again.name if again else None, kept, failed, done, "rounds", quiet, restless)
        if rounds is not None:
            if done >= rounds:
                return so_far
        elif done >= MIN_ROUNDS:
            if all(so_far.ratio(name).half_width <= PRECISION for name in alive if name != base.name):
                return replace(so_far, stopped="precision")
            if clock() - begun >= budget_s:
                return replace(so_far, stopped="budget")


def _round(
    alive: Mapping[str, Contender],
    order: Sequence[str],
    mirrored: int,
    within: bool,
    feeds: Mapping[str, Array],
    log: Path | None,
    start: Callable[[Contender, Mapping[str, Array], Path | None], Worker],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[dict[str, Trace], dict[str, str], list[bool | None]]:
    """One round: what was seen, who failed and why, and whether the others were still before each block.

    The engine's own part is timed where `within`.
    """
    workers: dict[str, Worker] = {}
    blocks: dict[str, list[Array]] = {name: [] for name in order}
    found: dict[str, Trace] = {}
    failed: dict[str, str] = {}
    still: list[bool | None] = []
    try:
        forked = [alive[name] for name in order if alive[name].modules]  # whose cold start is on no clock
        for group in (forked, *([alive[name]] for name in order if not alive[name].modules)):
            wait_still(list(workers.values()), clock, sleep)
            started = start_together(group, feeds, log, start)
            workers |= {name: one for name, one in started.items() if not isinstance(one, Error)}
            for name, one in started.items():
                if isinstance(one, InputError):
                    raise one
                if isinstance(one, Error):
                    failed[name] = str(one)
        for name in (*order, *reversed(order)) * mirrored:
            if name in failed:
                continue
            still.append(wait_still([w for n, w in workers.items() if n != name and n not in failed], clock, sleep))
            try:
                blocks[name].append(workers[name].block(BLOCK_S, BLOCK_CALLS))
            except WorkError as error:
                failed[name] = str(error)
        gone: set[str] = set()
        for name, worker in workers.items():
            if name in failed:
                continue
            try:
                used = worker.use()  # before the engine's own part, which takes memory of its own
            except WorkError as error:
                failed[name] = str(error)
                continue
            inside = np.empty(0, np.int64)
            if within:
                wait_still([w for n, w in workers.items() if n != name and n not in {*failed, *gone}], clock, sleep)
                try:
                    inside = worker.inside(INSIDE_S, 1)
                except (WorkError, InputError):  # the latency has been measured, and is not lost with it
                    gone.add(name)  # its process may have ended, and has no processor time then
            calls, cold = np.concatenate(blocks[name]), worker.cold_start_ms
            found[name] = Trace((calls,), (inside,), (cold,), used["peak_memory_bytes"], used["threads"])
    finally:
        for worker in workers.values():
            worker.close()
    return found, failed, still


def wait_still(others: Sequence[Worker], clock: Callable[[], float], sleep: Callable[[float], None]) -> bool | None:
    """Wait until the others' CPU time stands still; False where it did not, None where it cannot be read."""
    end = clock() + STILL_LIMIT_S
    try:
        while others:
            before = sum(worker.cpu_seconds() for worker in others)
            sleep(STILL_S)
            if sum(worker.cpu_seconds() for worker in others) - before <= STILL_SHARE * STILL_S:
                return True
            if clock() >= end:
                return False
    except LookupError:
        sleep(PAUSE_S)
        return None
    return True


def _append(trace: Trace, new: Trace) -> Trace:
    return Trace(
        trace.rounds + new.rounds,
        trace.inside + new.inside,
        trace.cold_start_ms + new.cold_start_ms,
        max(trace.peak_memory_bytes, new.peak_memory_bytes),
        new.threads,
    )
