"""The measurement, on workers and a clock that are made up: no test here waits, none asserts a real duration."""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest

from runtime.contender import Contender
from runtime.errors import EngineError, InputError, WorkError
from runtime.intervals import ratio
from runtime.measure import BLOCK_CALLS, BLOCK_S, MIN_ROUNDS, PAUSE_S, PRECISION, STILL_LIMIT_S, STILL_S, measure

ROUNDING = 1e-9


@dataclass
class World:
    """A clock, and processes that take the time they are told to.

    Attributes:
        times: nanoseconds of a call by name; a function of the round (from 0) where they differ.
        spin_s: for how long a process keeps a core busy after each answer.
        faults: name -> (method, round from 0, error).
        events: (what, name) in order.
    """

    times: dict = field(default_factory=dict)
    spin_s: dict = field(default_factory=dict)
    faults: dict = field(default_factory=dict)
    blind: bool = False
    block_s: float = 0.1
    now: float = 1000.0
    events: list = field(default_factory=list)
    opened: dict = field(default_factory=lambda: defaultdict(int))
    alive: dict = field(default_factory=dict)
    unrest: list = field(default_factory=list)
    slept: list = field(default_factory=list)
    modules: list = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    def start(self, contender, feeds, log):
        self.events.append(("start", contender.name))
        self.modules.append(contender.modules)
        number = self.opened[contender.name]
        self.opened[contender.name] += 1
        self.fail(contender.name, "start", number)
        worker = FakeWorker(self, contender.name, number)
        assert contender.name not in self.alive
        self.alive[contender.name] = worker
        return worker

    def fail(self, name: str, method: str, number: int) -> None:
        wanted = self.faults.get(name)
        if wanted and wanted[:2] == (method, number):
            raise wanted[2]

    def measure(self, names, modules=(), **settings):
        contenders = [Contender(name, "no:thing", modules=modules) for name in names]
        return measure(
            contenders, {}, **{"start": self.start, "clock": self.clock, "sleep": self.sleep, "twin": False, **settings}
        )

    def rounds(self) -> list[list[str]]:
        """The names of each round's blocks, in order."""
        found: list[list[str]] = []
        for (what, name), before in zip(self.events, [("", ""), *self.events], strict=False):
            if what == "start" and before[0] != "start":
                found.append([])
            if what == "block":
                found[-1].append(name)
        return found


class FakeWorker:
    cold_start_ms = 12.0
    gone = False

    def __init__(self, world: World, name: str, number: int) -> None:
        self.world, self.name, self.number = world, name, number
        self.bursts = [(world.now, world.now + world.spin_s.get(name, 0.0))]

    def cpu_until(self, moment: float) -> float:
        return sum(min(end, moment) - begin for begin, end in self.bursts if begin < moment)

    def cpu_seconds(self) -> float:
        assert not self.gone, "asked of a process that has ended"
        if self.world.blind:
            raise LookupError("not here")
        return self.cpu_until(self.world.now)

    def block(self, seconds: float, calls: int):
        world = self.world
        assert (seconds, calls) == (BLOCK_S, BLOCK_CALLS)
        busy = [
            other.name
            for other in world.alive.values()
            if other is not self
            and other.cpu_until(world.now) - other.cpu_until(world.now - STILL_S) > 0.02 * STILL_S + ROUNDING
        ]
        world.unrest.append(busy)
        world.events.append(("block", self.name))
        world.fail(self.name, "block", self.number)
        begin, world.now = world.now, world.now + world.block_s
        self.bursts[-1] = (self.bursts[-1][0], min(self.bursts[-1][1], begin))
        self.bursts.append((begin, world.now + world.spin_s.get(self.name, 0.0)))
        time = world.times.get(self.name, 1000)
        return np.full(calls, time(self.number) if callable(time) else time, np.int64)

    def inside(self, seconds: float, calls: int):
        self.gone = True
        self.world.fail(self.name, "inside", self.number)
        self.gone = False
        return np.full(calls if self.name in self.world.times else 0, 700, np.int64)

    def use(self):
        self.world.fail(self.name, "use", self.number)
        return {"threads": 2, "peak_memory_bytes": 100 + self.number}

    def close(self):
        self.world.events.append(("close", self.name))
        self.world.alive.pop(self.name, None)


def noisy(seed: int, size: float):
    """Times that differ from round to round by `size`."""
    values = np.random.default_rng(seed).normal(0, size, 1000)
    return lambda number: int(1e6 * np.exp(values[number]))


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
def test_each_round_is_a_complete_order_and_its_mirror_image_twice(names):
    world = World()
    world.measure(list(names), rounds=30)
    rounds = world.rounds()
    assert len(rounds) == 30
    for blocks in rounds:
        first, second = blocks[: len(names)], blocks[len(names) :]
        assert sorted(first) == sorted(names)
        assert second == [*first[::-1], *first, *first[::-1]]
    orders = {tuple(blocks[: len(names)]) for blocks in rounds}
    assert len(orders) == 1 if names == "a" else len(orders) > 1


def test_two_are_in_the_order_abba_or_baab_about_as_often():
    world = World()
    world.measure(["a", "b"], rounds=100)
    found = ["".join(blocks) for blocks in world.rounds()]
    assert set(found) == {"abbaabba", "baabbaab"}
    assert 30 <= found.count("abbaabba") <= 70


def test_the_seed_decides_the_orders():
    found = []
    for seed in (0, 0, 1):
        world = World()
        world.measure("abc", rounds=20, seed=seed)
        found.append(world.rounds())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_round_is_a_fresh_process_of_each():
    world = World()
    world.measure("abc", rounds=5)
    assert dict(world.opened) == {"a": 5, "b": 5, "c": 5}
    assert not world.alive
    for _, events in itertools.groupby(world.events, key=lambda event: event[0] == "close"):
        assert len(list(events)) in (3, 15)  # three starts and twelve blocks, then all three are closed


@pytest.mark.parametrize("spin_s", [0.005, 0.05, 0.5, 1.9])
@pytest.mark.parametrize("spinner", ["a", "b", "a again"])
def test_no_block_begins_before_the_others_have_come_to_rest(spin_s, spinner):
    world = World(spin_s={spinner: spin_s})
    found = world.measure("ab", rounds=10, twin=True)
    assert world.unrest == [[]] * 120
    assert (found.restless, found.quiet) == (0, "CPU time")


def test_many_spinners_are_all_waited_for():
    world = World(spin_s={"a": 0.3, "b": 0.7, "c": 1.1})
    world.measure("abc", rounds=10)
    assert world.unrest == [[]] * 120


def test_one_that_never_rests_is_not_waited_for_without_end():
    world = World(spin_s={"b": 1e9})
    found = world.measure("abc", rounds=8)
    assert found.restless == 8 * 8  # the blocks of a and of c; b's own spinning is no reason to wait for b
    assert [busy for busy in world.unrest if busy] == [["b"]] * 64
    assert found.quiet == "CPU time"
    waited = world.now - 1000.0 - 8 * 12 * world.block_s
    assert waited <= 8 * 15 * (STILL_LIMIT_S + 2 * STILL_S)
    assert waited >= 8 * 8 * STILL_LIMIT_S


def test_where_cpu_times_cannot_be_read_a_pause_stands_between():
    world = World(blind=True)
    found = world.measure("ab", rounds=8)
    assert (found.quiet, found.restless) == ("fixed pause", 0)
    assert world.slept.count(PAUSE_S) >= 8 * 8


@pytest.mark.parametrize("budget_s", [0.0, 0.5, 1e6])
def test_eight_rounds_are_the_least(budget_s):
    world = World(times={"b": 500})  # not a bit of noise
    found = world.measure("ab", budget_s=budget_s)
    assert found.rounds == MIN_ROUNDS == 8
    assert found.stopped == "precision"
    noise = World(times={"b": noisy(0, 0.5)})
    found = noise.measure("ab", budget_s=0.0)
    assert (found.rounds, found.stopped) == (8, "budget")


def half_widths(world: World, base: str, name: str, n: int) -> float:
    times = [[np.full(2, world.times[which](i)) for i in range(n)] for which in (base, name)]
    return ratio(*times).half_width


@pytest.mark.parametrize("seed", range(5))
def test_it_stops_as_soon_as_every_interval_is_narrow(seed):
    world = World(times={"a": noisy(seed, 0.06), "b": noisy(seed + 10, 0.06), "c": noisy(seed + 20, 0.001)})
    found = world.measure("abc", budget_s=1e9)
    assert found.stopped == "precision"
    n = found.rounds
    assert n > MIN_ROUNDS
    widths = [[half_widths(world, "a", name, rounds) for name in "bc"] for rounds in range(MIN_ROUNDS, n + 1)]
    assert max(widths[-1]) <= PRECISION
    assert all(max(both) > PRECISION for both in widths[:-1])


def test_it_stops_when_the_budget_is_used_up():
    world = World(times={"b": noisy(0, 1.0)}, block_s=1.0)
    begun: list[float] = []
    found = world.measure("ab", budget_s=120.0, progress=lambda *_: begun.append(world.now - 1000.0))
    assert found.stopped == "budget"
    assert found.rounds > MIN_ROUNDS
    assert len(begun) == found.rounds
    assert begun[-1] < 120.0 <= world.now - 1000.0


@pytest.mark.parametrize("rounds", [1, 2, 7, 8, 23])
def test_exactly_so_many_rounds_as_asked(rounds):
    world = World(times={"b": noisy(1, 0.5)})
    found = world.measure("ab", rounds=rounds, budget_s=0.0)
    assert (found.rounds, found.stopped) == (rounds, "rounds")
    assert {name: len(trace.rounds) for name, trace in found.traces.items()} == {"a": rounds, "b": rounds}


def test_one_round_has_a_margin_too():
    found = World().measure("ab", rounds=1, twin=True)
    assert found.margin >= 0.02
    assert found.floor is not None


def test_what_was_seen_is_kept():
    world = World(times={"a": 3000, "b": lambda number: 1000 + number})
    found = world.measure("ab", rounds=9)
    trace = found.traces["b"]
    assert [set(calls.tolist()) for calls in trace.rounds] == [{1000 + i} for i in range(9)]
    assert [len(calls) for calls in trace.rounds] == [4 * BLOCK_CALLS] * 9  # all blocks of a round
    assert len(trace.samples) == 9 * 4 * BLOCK_CALLS
    assert (trace.cold_start_ms, trace.peak_memory_bytes, trace.threads) == ((12.0,) * 9, 108, 2)
    assert (found.base, found.twin, found.failed) == ("a", None, {})
    assert found.ratio("b").value == pytest.approx(3.0, rel=0.01)
    assert found.ratio("a", "b").value == pytest.approx(1 / 3, rel=0.01)


def test_a_cold_start_is_that_of_a_process_started_anew():
    world = World()
    contenders = [Contender("a", "no:thing", modules=("library",)), Contender("b", "no:thing")]
    found = measure(contenders, {}, rounds=3, twin=False, start=world.start, clock=world.clock, sleep=world.sleep)
    assert world.modules[:2] == [(), ()]
    assert sorted(world.modules[2:]) == [(), (), ("library",), ("library",)]
    assert [found.traces[name].cold_start_ms for name in "ab"] == [(12.0,), (12.0,) * 3]


def test_the_base_runs_against_itself():
    world = World(times={"a": noisy(0, 0.1), "a again": noisy(1, 0.1)})
    found = world.measure("ab", rounds=10, twin=True)
    assert found.twin == "a again"
    assert set(found.traces) == {"a", "b", "a again"}
    assert {len(trace.rounds) for trace in found.traces.values()} == {10}
    assert found.floor == pytest.approx(half_widths(world, "a", "a again", 10))
    assert found.margin == found.floor > 0.02


def test_the_margin_is_two_percent_where_the_machine_is_quiet():
    found = World().measure("ab", twin=True)
    assert found.floor == pytest.approx(0)
    assert found.margin == 0.02


def test_without_a_twin_there_is_no_floor():
    found = World().measure("ab")
    assert (found.twin, found.floor, found.margin) == (None, None, 0.02)
    assert set(found.traces) == {"a", "b"}


def test_the_base_alone_can_be_measured():
    found = World().measure("a")
    assert (found.rounds, found.stopped, set(found.traces)) == (8, "precision", {"a"})


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("method", ["start", "block", "use"])
@pytest.mark.parametrize("name", ["b", "a again"])
def test_one_that_fails_is_dropped_and_the_others_go_on(name, method, number):
    world = World(faults={name: (method, number, EngineError("it crashed"))})
    found = world.measure("abc", rounds=10, twin=True)
    assert found.failed == {name: "it crashed"}
    others = {"a", "b", "c", "a again"} - {name}
    assert {key: len(trace.rounds) for key, trace in found.traces.items()} == dict.fromkeys(others, 10)
    assert found.rounds == 10
    assert world.opened[name] == number + 1  # it is not tried again
    assert not world.alive
    assert (found.floor is None) == (name == "a again")


def test_all_but_the_base_may_fail():
    error = EngineError("no")
    world = World(faults={"b": ("start", 0, error), "c": ("block", 1, error)})
    found = world.measure("abc")
    assert (set(found.traces), set(found.failed)) == ({"a"}, {"b", "c"})


@pytest.mark.parametrize("method", ["start", "block", "use"])
@pytest.mark.parametrize("number", [0, 5])
def test_a_base_that_fails_is_the_end(method, number):
    world = World(faults={"a": (method, number, EngineError("it crashed"))})
    with pytest.raises(WorkError, match=r"a, with which the others are compared, failed: it crashed"):
        world.measure("ab", rounds=10, twin=True)
    assert not world.alive


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no such axis")])
@pytest.mark.parametrize("method", ["start", "block"])
def test_no_process_is_left_when_it_is_interrupted(method, error):
    world = World(faults={"b": (method, 2, error)})
    with pytest.raises(type(error)):
        world.measure("abc", rounds=10)
    assert not world.alive


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no such axis")])
def test_no_process_is_left_of_those_that_start_together(error):
    world = World(faults={"b": ("start", 1, error)})
    with pytest.raises(type(error)):
        world.measure("abc", modules=("library",), rounds=10)
    assert not world.alive


def test_of_those_that_start_together_the_others_go_on_without_one_that_does_not():
    world = World(faults={"b": ("start", 1, EngineError("gone"))})
    found = world.measure("abc", modules=("library",), rounds=3)
    assert found.failed == {"b": "gone"}
    assert len(found.traces["c"].rounds) == 3
    assert not world.alive


def test_progress_is_told():
    told: list[tuple[int, int, str]] = []
    world = World(times={"b": noisy(0, 1.0)}, block_s=1.0)
    found = world.measure("ab", budget_s=100.0, progress=lambda *args: told.append(args))
    assert [done for done, _, _ in told] == list(range(found.rounds))
    assert all(expected > done for done, expected, _ in told)
    assert told[0][1] == MIN_ROUNDS
    assert abs(told[MIN_ROUNDS][1] - found.rounds) <= 2  # what is expected comes true
    world = World()
    told.clear()
    world.measure("ab", rounds=3, progress=lambda *args: told.append(args))
    assert [(done, expected) for done, expected, _ in told] == [(0, 3), (1, 3), (2, 3)]


def test_a_failure_of_the_second_column_loses_nothing_else():
    world = World(times={"a": 1000, "b": 500}, faults={"b": ("inside", 1, EngineError("its process ended"))})
    found = world.measure("abc", rounds=3)
    assert found.failed == {}
    assert [len(calls) > 0 for calls in found.traces["b"].inside] == [True, False, True]
    assert found.traces["b"].inside_ms == 0.0007
    assert found.ratio("b").value == pytest.approx(2.0)


@pytest.mark.parametrize(("brief", "mirrored", "within"), [(True, 1, [True, False, False]), (False, 2, [True] * 3)])
def test_a_first_look_is_brief(brief, mirrored, within):
    world = World(times={"a": 1000, "b": 500})
    found = world.measure("ab", rounds=3, brief=brief)
    for trace in found.traces.values():
        assert [len(calls) for calls in trace.rounds] == [2 * mirrored * BLOCK_CALLS] * 3
        assert [len(calls) > 0 for calls in trace.inside] == within
    blocks = [name for what, name in world.events if what == "block"]
    assert blocks[:4] == [*blocks[:2], *reversed(blocks[:2])]
