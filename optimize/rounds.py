"""Rounds of pruning and measuring on a target's real engine: what searches for a latency have in common.

A table of what parts of the model take by themselves says which are dear. What the whole engine takes is measured in
each round, interleaved with the unpruned one, and sets the table's scale for the next. All that in float and before any
training: the steps that follow are done once, with what was found.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimize import origin
from optimize.build import Builder, Built
from optimize.deadline import Deadline
from optimize.models import OnnxModel, TorchModel
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.steps import Settings, gives, name_of
from optimize.steps._until import Until
from optimize.subject import Subject
from runtime import cache
from runtime.errors import WorkError
from runtime.intervals import Ratio
from runtime.measure import measure

ROUNDS = 5  # of pruning and measuring
AIM = 1.03  # times the factor, since what is measured scatters
BEYOND = 1.10  # times the factor, up to which it is just so far
CHANGE = 3.0  # times which a round may stretch the table's scale, or shrink it
LEAST = 1e-9  # a share that nothing reaches


@dataclass(frozen=True)
class Try:
    """What a round came to.

    Attributes:
        given: what the step was given.
        saved: milliseconds, by the table.
        predicted: times as fast as the plain engine, by the table and its scale.
        factor: the same, measured.
    """

    given: Any
    saved: float
    predicted: float
    factor: Ratio


@dataclass(frozen=True)
class Search(ABC):
    """One step with `until`, and what it needs.

    Attributes:
        before: the steps that come before it, none of them to be found yet.
        plain: the target's engine with which a pruned one is compared.
        budget: seconds of each round's measurement.
        anew: nothing that was measured before is taken (`--redo` of a candidate that it is for).
    """

    step: Until
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
        """What the step is to be given, by its setting's name, and `notes`; of an earlier run that asked for the same.

        Raises:
            WorkError: nothing may be removed, or an engine fails.
        """
        what, known = f'{name_of(self.step)} until "{self.step.until}"', True

        def make(folder: Path) -> Mapping[str, Any]:
            nonlocal known
            known = False
            folder.mkdir()
            return self._searched()

        facts = self._kept(self._address(self.step, "until"), f'{self.step.finds} until "{self.step.until}"', make)
        again = [f"the {self.step.finds} were found by an earlier run"] if known else []
        return {**facts, "notes": [f"{what}: {note}" for note in (*facts["notes"], *again)]}

    @abstractmethod
    def _searched(self) -> dict[str, Any]:
        """As `found`, with nothing known."""

    def _given(self) -> tuple[TorchModel, Built, float]:
        """The model before this step, its engine, and how many times as fast as the plain one that is."""
        (given, _), engine = self._pruned(), self._built("as it came", *self.before)
        return given, engine, self._factor(engine).value if given.history else 1.0

    def _pruned(self, *steps: Settings) -> tuple[TorchModel, list[str]]:
        """A model without an engine, and the notes of its last step."""
        model, made = self.builder.model(replace(self.plain, steps=(*self.before, *steps)))
        assert isinstance(model, TorchModel)  # nothing is pruned of another
        return model, made[-1].notes if made else []

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


def scaled(scale: float, tries: Sequence[Try], begun: float, whole: float) -> float:
    """Milliseconds that the engine saves for one of the table: by least squares over all rounds, not far from before.

    Args:
        scale: until now.
        tries: the rounds.
        begun: times as fast as the plain engine before this step.
        whole: milliseconds that the engine took then.
    """
    gained = sum(one.saved * whole * (1 - begun / one.factor.value) for one in tries)
    found = gained / max(sum(one.saved**2 for one in tries), LEAST)
    return min(max(found, scale / CHANGE), scale * CHANGE)


def taken(tries: Sequence[Try], factor: float, most: Any, steps: str) -> tuple[Any, list[str]]:
    """What is the least that is enough, else the most; and what was seen.

    Args:
        tries: the rounds.
        factor: that was asked for.
        most: what the step is given where all goes that may.
        steps: why there may be nothing nearer to the factor.
    """
    enough = [one for one in tries if one.factor.value >= factor]
    best = min(enough, key=lambda one: one.saved) if enough else max(tries, key=lambda one: one.factor.value)
    said = [
        f"round {i}: {one.predicted:.2f}x predicted, {one.factor.value:.2f}x measured "
        f"({one.factor.low:.2f} to {one.factor.high:.2f})"
        for i, one in enumerate(tries, 1)
    ]
    end = f"round {tries.index(best) + 1} is taken"
    if not enough:
        all_gone = best.given == most
        end += ", the closest: " + ("all that may go is gone" if all_gone else f"none faster in {len(tries)} rounds")
    elif best.factor.value > BEYOND * factor:
        end += f", the closest: nothing nearer was found ({steps})"
    return best.given, [*said, end]
