"""Find the widths at which a pruned model is just so much faster as it was asked to be, on a target's real engine.

A table of what each layer takes at several widths says which channels are dear. What the whole engine takes is measured
in each round, interleaved with the unpruned one, and sets the table's scale for the next. All that in float and before
any training: the steps that follow are done once, at the widths that were found.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, TypeAdapter

from optimize import latencies, origin, plan, processes
from optimize.build import Builder, Built
from optimize.deadline import Deadline
from optimize.latencies import Latency, widths
from optimize.models import OnnxModel, TorchModel
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.stages import SEARCH
from optimize.steps import Settings, gives, name_of
from optimize.steps.prune_channels import Step as PruneChannels
from optimize.steps.prune_channels import kept
from optimize.subject import Subject
from runtime import cache
from runtime.errors import InputError, WorkError
from runtime.host import Host
from runtime.intervals import Ratio
from runtime.measure import measure

if TYPE_CHECKING:
    from torch import Tensor, nn

ROUNDS = 5  # of pruning and measuring
AIM = 1.03  # times the factor, since what is measured scatters
BEYOND = 1.10  # times the factor, up to which it is just so far
CHANGE = 3.0  # times which a round may stretch the table's scale, or shrink it
OWN = "prune_channels "  # how the step's notes begin
LEAST = 1e-9  # a share that nothing reaches, so that all goes that may

Plans = tuple[tuple[Settings, ...], ...]
Layers = dict[str, Latency]


class Timed(PruneChannels):
    """Channels removed by the time that they take: a goal of the search, which no recipe has.

    Attributes:
        roots: the layers that may lose channels; none: they are told first.
        layers: what each layer takes; where there are none, channels are counted.
        keep: the share of all that, that is to stay.
    """

    closest: ClassVar[bool] = True
    roots: tuple[str, ...] = ()
    layers: Layers = Field(default_factory=dict)
    keep: float = LEAST

    def _only(self) -> tuple[str, ...] | None:
        return self.roots or None

    def _kept(self) -> float:
        return self.keep

    def _amount(self, module: "nn.Module", roots: list[str], arguments: "list[Tensor]") -> float:
        return total(self.layers, module) if self.layers else super()._amount(module, roots, arguments)


def total(layers: Mapping[str, Latency], module: "nn.Module") -> float:
    """Milliseconds of all layers at a module's widths, each by itself."""
    return sum(layer.at(*widths(module.get_submodule(name))) for name, layer in layers.items())


@dataclass(frozen=True)
class Try:
    """What a round came to.

    Attributes:
        widths: layer to the channels that it keeps.
        saved: milliseconds, by the table.
        predicted: times as fast as the plain engine, by the table and its scale.
        factor: the same, measured.
    """

    widths: dict[str, int]
    saved: float
    predicted: float
    factor: Ratio


@dataclass(frozen=True)
class Search:
    """One step `prune_channels` with `until`, and what it needs.

    Attributes:
        before: the steps that come before it, none of them to be found yet.
        plain: the target's engine with which a pruned one is compared.
        budget: seconds of each round's measurement.
        anew: nothing that was measured before is taken (`--redo` of a candidate that it is for).
    """

    step: PruneChannels
    before: tuple[Settings, ...]
    plain: Candidate
    subject: Subject
    builder: Builder
    log: Path
    progress: Progress
    deadline: Deadline
    budget: float
    anew: bool = False

    def found(self) -> dict[str, Any]:
        """`widths` and `notes`, of an earlier run where there was one that asked for the same.

        Raises:
            WorkError: nothing may be removed, or an engine fails.
        """
        place, known = self._address(self.step, "until"), True

        def make(folder: Path) -> Mapping[str, Any]:
            nonlocal known
            known = False
            folder.mkdir()
            return self._searched()

        facts = self._kept(place, f'widths until "{self.step.until}"', make)
        again = ["the widths were found by an earlier run"] if known else []
        return {**facts, "notes": [f'prune_channels until "{self.step.until}": {n}' for n in (*facts["notes"], *again)]}

    def _searched(self) -> dict[str, Any]:
        factor, _ = self.step.sought()
        (given, _), engine = self._pruned(), self._built("before channels go", *self.before)
        begun = self._factor(engine).value if given.history else 1.0
        if begun >= factor:
            return {"widths": {}, "notes": [f"{begun:.2f}x by what was removed before, so that no channel goes"]}
        least, left_alone = self._pruned(self._timed())
        whole, layers = self._table(engine, given, least)
        everything, fewest = total(layers, given.module), kept(least, given)
        tries, scale = list[Try](), 1.0
        while len(tries) < ROUNDS and not (tries and self.deadline.over(SEARCH)):
            self.progress.say(f"round {len(tries) + 1} of pruning until {self.step.until}")
            goal = whole * (1 - begun / (AIM * factor)) / scale
            goal = _between(goal, tries, factor, everything - total(layers, least.module))
            timed = self._timed(roots=tuple(fewest), layers=layers, keep=max(1 - goal / everything, LEAST))
            small, _ = self._pruned(timed)
            small = small if small.history != given.history or tries else least
            asked, saved = kept(small, given), everything - total(layers, small.module)
            if any(one.widths == asked for one in tries):
                break
            predicted = begun / max(1 - scale * saved / whole, LEAST)
            step = self.step.model_copy(update={"widths": asked})
            seen = self._factor(self._built(f"pruned, round {len(tries) + 1}", *self.before, step))
            tries.append(Try(asked, saved, predicted, seen))
            if factor <= seen.value <= BEYOND * factor or (asked == fewest and seen.value < factor):
                break
            scale = min(max(_scale(tries, begun, whole), scale / CHANGE), scale * CHANGE)
        taken = _taken(tries, factor, fewest, self.step.multiple)
        return {**taken, "notes": [*taken["notes"], *left_alone]}

    def _timed(self, **settings: Any) -> Timed:
        return Timed.model_validate({**self.step.model_dump(), **settings})

    def _pruned(self, *steps: Settings) -> tuple[TorchModel, list[str]]:
        """A model without an engine, and the layers that its last step left alone."""
        model, made = self.builder.model(replace(self.plain, steps=(*self.before, *steps)))
        assert isinstance(model, TorchModel)  # channels are pruned of no other
        notes = made[-1].notes if made else []
        return model, [note.removeprefix(OWN) for note in notes if note.startswith(f"{OWN}left ")]

    def _built(self, what: str, *torch_steps: Settings) -> Built:
        """The engine of what these steps make, in float."""
        after = tuple(step for step in self.plain.steps if gives(step) is OnnxModel)
        name = f"{self.plain.name} {what}"
        made = self.builder.build(replace(self.plain, name=name, role="steps", steps=(*torch_steps, *after)))
        if isinstance(made, Built):
            return made
        raise WorkError(f"{name}: {made.reason}")

    def _factor(self, built: Built) -> Ratio:
        """How many times faster than the plain engine it is."""
        unpruned = self._built("as it is").contender
        found = measure(
            [unpruned, built.contender], self.subject.feeds, budget_s=self.budget, twin=False, log=self.log,
            progress=self.progress.count,
        )  # fmt: skip
        if reason := found.failed.get(built.contender.name):
            raise WorkError(f"{built.contender.name}: {reason}")
        return found.ratio(built.contender.name)

    def _table(self, engine: Built, given: TorchModel, least: TorchModel) -> tuple[float, Layers]:
        """What the whole of the given model takes, and its layers, out of the cache where it was measured before."""

        def make(folder: Path) -> Mapping[str, Any]:
            folder.mkdir()
            whole, layers = latencies.measured(
                given, least.module, engine.contender, self.subject.feeds, self.step.multiple, self.log,
                self.progress.count,
            )  # fmt: skip
            return {"whole": whole, "layers": {name: asdict(one) for name, one in layers.items()}}

        self.progress.say(f"what the layers take on {self.plain.target.name}")
        place = self._address(self.step.model_copy(update={"until": None}), "latencies")
        facts = self._kept(place, f"latencies of layers on {self.plain.target.name}", make)
        return facts["whole"], TypeAdapter(Layers).validate_python(facts["layers"])

    def _kept(self, place: str, use: str, make: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What was found at an address of the cache, or is made and put there."""
        if self.anew:
            cache.Cache(cache.default_folder()).forget(place)
        return cache.made(place, use, make).facts

    def _address(self, step: Settings, what: str) -> str:
        steps = (*self.before, step)
        return self.builder.address(
            found=what, target=self.plain.target.name, options=dict(self.plain.options), time=self.deadline.seconds,
            steps=[[name_of(one), one.model_dump(mode="json")] for one in steps], code=list(map(origin.code, steps)),
        )  # fmt: skip


def resolved(
    asked: Recipe, machine: Host, subject: Subject, builder: Builder, log: Path, progress: Progress, deadline: Deadline
) -> tuple[Subject, list[str]]:
    """The subject with plans whose widths are found, and what each round came to, in words.

    Raises:
        InputError: the target that `until` names cannot be measured here.
    """
    check(subject.plans)
    plans: list[tuple[Settings, ...]] = []
    notes: list[str] = []
    for steps in subject.plans:
        done = list(steps)
        for place, step in enumerate(steps):
            if not _open(step):
                continue
            assert isinstance(step, PruneChannels)
            candidates = plan.expand(asked, machine, [tuple(done)])
            plain = plan.role_of(candidates, step.sought()[1], "plain")
            if plain.why_not:
                raise InputError(f'until = "{step.until}" cannot be measured here: {plain.why_not}')
            own = [one for one in candidates if step in one.steps]
            if not own:  # [search] leaves none of them
                continue
            anew = any(one.anew for one in own)
            before, budget = tuple(done[:place]), asked.measure.budget
            search = Search(step, before, plain, subject, builder, log, progress, deadline, budget, anew)
            try:
                with deadline.ending():
                    found = search.found()
                    done[place] = step.model_copy(update={"widths": found["widths"]})
                    notes += found["notes"]
            except WorkError as error:  # its candidates fall out, the others are not lost with them
                notes.append(f'prune_channels until "{step.until}": {error}')
            if _open(done[place]):
                break
        plans.append(tuple(done))
    return replace(subject, plans=tuple(plans)), notes


def check(plans: Plans) -> None:
    """Raise InputError where widths are to be found by several processes, which would slow each other."""
    if processes.count() > 1 and any(_open(step) for steps in plans for step in steps):
        raise InputError(
            "prune_channels with until measures, which several processes at once cannot: run the recipe by one without "
            "training first, and give the widths that it found, widths = {...} in its report, to accelerate launch."
        )


def found_widths(plans: Plans) -> list[dict[str, int] | None]:
    """Of each step with `until`, in order."""
    return [step.widths for steps in plans for step in steps if isinstance(step, PruneChannels) and step.until]


def with_widths(plans: Plans, found: Sequence[dict[str, int] | None]) -> Plans:
    """The plans with widths in the place of those that are to be found, in order."""
    given = iter(found)
    return tuple(
        tuple(step.model_copy(update={"widths": next(given, None)}) if _open(step) else step for step in steps)
        for steps in plans
    )


def _open(step: Settings) -> bool:
    """Its widths are still to be found."""
    return isinstance(step, PruneChannels) and step.until is not None and step.widths is None


def _between(goal: float, tries: Sequence[Try], factor: float, most: float) -> float:
    """Milliseconds to save: more than what was too little for sure, less than what was enough for sure."""
    low = max((one.saved for one in tries if one.factor.high < factor), default=0.0)
    high = min((one.saved for one in tries if one.factor.low >= factor), default=math.inf)
    return goal if low < goal < high else (low + min(high, most)) / 2


def _scale(tries: Sequence[Try], begun: float, whole: float) -> float:
    """Milliseconds that the engine saves for one of the table, by least squares over all rounds."""
    gained = sum(one.saved * whole * (1 - begun / one.factor.value) for one in tries)
    return gained / max(sum(one.saved**2 for one in tries), LEAST)


def _taken(tries: Sequence[Try], factor: float, fewest: Mapping[str, int], multiple: int) -> dict[str, Any]:
    """The least that is enough, else the most; and what was seen."""
    enough = [one for one in tries if one.factor.value >= factor]
    best = min(enough, key=lambda one: one.saved) if enough else max(tries, key=lambda one: one.factor.value)
    said = [
        f"round {i}: {one.predicted:.2f}x predicted, {one.factor.value:.2f}x measured "
        f"({one.factor.low:.2f} to {one.factor.high:.2f})"
        for i, one in enumerate(tries, 1)
    ]
    end = f"round {tries.index(best) + 1} is taken"
    if not enough:
        all_gone = best.widths == fewest
        end += ", the closest: " + ("all that may go is gone" if all_gone else f"none faster in {len(tries)} rounds")
    elif best.factor.value > BEYOND * factor:
        end += f", the closest: nothing nearer was found (each layer keeps a multiple of {multiple})"
    return {"widths": best.widths, "notes": [*said, end]}
