"""How much to prune: Optuna asks for trials, the share of multiplications that is kept and what channels go first.

A trial takes minutes of training, so there are few. That is why a Gaussian process asks: of the objective, relative to
the plain engine, and for each target of the drop, as a constraint. The shares that a run without a search tries come
first. What is asked next follows from what was asked alone, measured times among it: steps of 5 % in the share make the
same asks likely when a run that was killed goes on, and what its trials had made lies in the cache.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from statistics import geometric_mean, median

from optimize import automatic, judge, plan, processes, select, sources, stages
from optimize.asking import Space, Tried, asks
from optimize.automatic import KEPT
from optimize.build import Builder, Built
from optimize.models import TorchModel
from optimize.plan import Candidate, role_of
from optimize.recipe import Recipe
from optimize.repair import REPAIRED
from optimize.report import Row
from optimize.stages import SEARCH, Rows, Run
from optimize.steps.prune_channels import Step as PruneChannels
from runtime import host
from runtime.engines import library
from runtime.host import Host
from runtime.measure import measure

IMPORTANCE = ("magnitude", "taylor")
LEAST, MOST, STEP = 20, 90, 5  # percent of the multiplications
UNASKED = 20  # trials at most, where the recipe gives a time and no number
SAME = 3  # asks in a row for what was tried already, after which there is nothing more to ask for
ROUNDS = 3  # of the measurement of a trial
WORST = 100.0  # times the limit, beyond which a drop is as good as any
SMALLEST = 1e-6  # limit of a drop, of which shares are taken


@dataclass(frozen=True)
class Trial:
    """What can be asked for.

    Attributes:
        kept: percent of the multiplications.
        importance: of channels, as `prune_channels` has it.
    """

    kept: int
    importance: str = IMPORTANCE[0]


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        cost: of the objective, as a share of the plain engine's; None where that was not measured.
        excess: target to how far the drop is above the limit, as a share of it; 0 or less holds it.
    """

    cost: float | None
    excess: Mapping[str, float]


def most(asked: Recipe) -> int:
    """How many trials a recipe allows; 0 where it asks for no more than the shares that are always tried.

    Raises:
        EngineMissing: it allows more, and Optuna is not installed.
    """
    search = asked.search
    number = (UNASKED if search.time else 0) if search.trials is None else search.trials
    possible = asked.steps == "auto" and not search.quick and sources.gives(asked.model_spec().source) is TorchModel
    if not possible or number <= len(KEPT):
        return 0
    library("optuna", "optimize")  # told before the work, not after it
    return number


def candidates(asked: Recipe, machine: Host, trial: Trial) -> list[Candidate]:
    """What a trial makes, target by target; nothing where patterns in [search] leave it out."""
    label = f"pruned{trial.kept}"
    title = label if trial.importance == IMPORTANCE[0] else f"{label}-{trial.importance}"
    steps = automatic.pruned(asked, trial.kept / 100, trial.importance)
    found = [
        replace(one, name=one.name.replace(label, title), repair=None)
        for one in plan.expanded(asked, machine, steps, full=True)
        if one.role == "steps" and _trial(one)
    ]
    return plan.wanted(asked, found)


def study(
    first: Sequence[Trial], number: int, seed: int, tried: Callable[[Trial], Outcome | None]
) -> dict[Trial, Outcome]:
    """Ask for trials until there are so many, or nothing new is asked for.

    Args:
        first: what is asked for before the rest.
        number: of trials.
        seed: of what is asked.
        tried: makes and judges one, against the same targets as all others; None ends the study.
    """
    found: dict[Trial, Outcome] = {}
    while len(found) < number:
        unasked = (one for one in chain(first, islice(_asked(found, seed), SAME)) if one not in found)
        trial = next(unasked, None)
        outcome = tried(trial) if trial else None
        if trial is None or outcome is None:
            break
        found[trial] = outcome
    return found


def _asked(found: Mapping[Trial, Outcome], seed: int) -> Iterator[Trial]:
    """The trials that follow from what others came to, the best first."""
    space: Space = {"kept": range(LEAST, MOST + STEP, STEP), "importance": IMPORTANCE}
    tried = [
        # by their order of magnitude: what is far above the limit would flatten all that lies around it
        Tried(
            asdict(trial), _expected(trial, found) if one.cost is None else one.cost,
            {name: math.copysign(math.log1p(min(abs(value), WORST)), value) for name, value in one.excess.items()},
        )
        for trial, one in found.items()
    ]  # fmt: skip
    return (Trial(**one) for one in asks(space, tried, seed))


def _expected(trial: Trial, found: Mapping[Trial, Outcome]) -> float:
    """A cost in proportion to the multiplications, as of those that were measured."""
    return trial.kept * median([one.cost / other.kept for other, one in found.items() if one.cost] or [1 / 100])


def searched(run: Run, rows: Rows, builder: Builder, max_drop: float) -> tuple[Run, Rows, list[str]]:
    """With the candidates of a study's trials, judged on validate and timed; what came of it, in words.

    Args:
        run: with the candidates of the first trials.
        rows: after the first look.
        builder: makes the others.
        max_drop: in the metric's unit.

    Raises:
        WorkError: the original failed.
    """
    pruned = [(trial, one) for one in run.candidates if (trial := _trial(one))]
    if not pruned or processes.count() > 1:
        why = "several processes train only what is known before" if pruned else "no candidate is pruned"
        return run, rows, [f"how much to prune was not searched: {why}"]
    number, order = most(run.asked), list(run.asked.targets)
    targets = list(dict.fromkeys(one.target.name for _, one in pruned))

    def outcome(own: Sequence[Candidate], seen: Rows) -> Outcome:
        """By rows, the plain engines' among them."""
        excess, costs = dict.fromkeys(targets, math.inf), []
        for target in targets:
            of_target = [seen[one.name] for one in own if one.target.name == target]
            plain = seen[role_of(run.candidates, target, "plain").name]
            ranked = [(_excess(row, max_drop), _cost(run.asked, row, plain)) for row in of_target]
            if ranked:
                excess[target], cost = min(ranked, key=lambda one: (max(one[0], 0.0), one[1]))
                costs += [cost] if math.isfinite(cost) else []
        return Outcome(geometric_mean(costs) if costs else None, excess)

    def tried(trial: Trial) -> Outcome | None:
        nonlocal run, rows
        if known := [one for other, one in pruned if other == trial]:
            return outcome(known, rows)
        if run.deadline.over(SEARCH):
            return None
        more = candidates(run.asked, host.facts(), trial)
        run.progress.say(f"{trial.kept} % of the multiplications, by {trial.importance}")
        with run.deadline.ending():
            built, made = _made(run, rows, builder, max_drop, more)
            if not run.deadline.interrupted:
                beside = sorted([*run.candidates, *more], key=lambda one: order.index(one.target.name))
                run = replace(run, candidates=beside, built={**run.built, **built})
                rows = {**rows, **{one.name: made[one.name] for one in more}}
                return outcome(more, made)
        return None

    found = study(list(dict.fromkeys(trial for trial, _ in pruned)), number, run.asked.measure.seed, tried)
    return run, rows, [_in_words(found, run, number)]


def _made(
    run: Run, rows: Rows, builder: Builder, max_drop: float, more: Sequence[Candidate]
) -> tuple[dict[str, Built], Rows]:
    """Candidates built, judged on validate and timed beside the plain engines; the rows with what both came to now."""
    built, made = stages.build(more, builder, run.deadline)
    plains = dict.fromkeys(role_of(run.candidates, one.target.name, "plain").name for one in more)
    made = {**rows, **made}
    if built:
        made, _ = stages.accuracy(replace(run, candidates=more, built=built), made, "validate_", max_drop)
    alive = [built[one.name].contender for one in more if made[one.name].status == "built, not measured"]
    if alive:
        beside = [run.built[name].contender for name in plains if made[name].status == "measured"]
        found = measure(
            [run.subject.contender, *beside, *alive], run.subject.feeds, rounds=ROUNDS, twin=False, log=run.log,
            seed=run.asked.measure.seed, progress=run.progress.count,
        )  # fmt: skip
        made = judge.timed(made, found, found.margin)
    return built, made


def _trial(candidate: Candidate) -> Trial | None:
    """Which trial a candidate is part of; none where it is not pruned, or was repaired."""
    for step in candidate.steps:
        if isinstance(step, PruneChannels) and step.macs and not candidate.name.endswith(REPAIRED):
            return Trial(round(100 * step.macs), step.importance)
    return None


def _excess(row: Row, max_drop: float) -> float:
    """How far the drop is above the limit, as a share of it; infinite where there is none."""
    drop = math.inf if row.status in ("failed", "wrong") else select.lost(row)
    return (drop - max_drop) / max(max_drop, SMALLEST)


def _cost(asked: Recipe, row: Row, plain: Row) -> float:
    """Of the objective, as a share of the plain engine's; infinite where one of them was not measured."""
    if row.latency is None or plain.latency is None:
        return math.inf
    own, other = (select.cost(one, asked.constraints.objective, asked.constraints.percentile) for one in (row, plain))
    return own / other


def _in_words(found: Mapping[Trial, Outcome], run: Run, number: int) -> str:
    held = {trial: one.cost for trial, one in found.items() if one.cost and max(one.excess.values()) <= 0}
    best = min(held, key=lambda trial: held[trial], default=None)
    said = "none holds the limit on every target"
    if best:
        said = f"the best that holds the limit on every target keeps {best.kept} % of the multiplications"
    ended = f"; {run.deadline.why}" if len(found) < number and run.deadline.over(SEARCH) else ""
    return f"{len(found)} trials of how much to prune: {said}{ended}"
