"""Goals that a run must find first: steps with `until`, their place in a recipe's plans and in a lock."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from optimize import plan, processes
from optimize.build import Builder
from optimize.deadline import Deadline
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.rounds import Search
from optimize.shortening import Shortening
from optimize.slimming import Slimming
from optimize.steps import Settings, name_of
from optimize.steps._until import Until
from optimize.subject import Subject
from runtime.errors import InputError, WorkError
from runtime.host import Host

SEARCHES: dict[str, type[Search]] = {"prune_channels": Slimming, "prune_blocks": Shortening}

Plans = tuple[tuple[Settings, ...], ...]
Found = dict[str, int] | list[str] | None  # widths, or names of blocks


def resolved(
    asked: Recipe, machine: Host, subject: Subject, builder: Builder, log: Path, progress: Progress, deadline: Deadline
) -> tuple[Subject, list[str]]:
    """The subject with plans whose goals are found, and what each round came to, in words.

    Raises:
        InputError: the target that `until` names cannot be measured here.
    """
    check(subject.plans)
    plans: list[tuple[Settings, ...]] = []
    notes: list[str] = []
    for steps in subject.plans:
        done = list(steps)
        for place, step in enumerate(steps):
            if not (isinstance(step, Until) and step.pending):
                continue
            candidates = plan.expand(asked, machine, [tuple(done)])
            plain = plan.role_of(candidates, step.sought()[1], "plain")
            if plain.why_not:
                raise InputError(f'until = "{step.until}" cannot be measured here: {plain.why_not}')
            own = [one for one in candidates if step in one.steps]
            if not own:  # [search] leaves none of them
                continue
            anew = any(one.anew for one in own)
            before, budget = tuple(done[:place]), asked.measure.budget
            search = SEARCHES[name_of(step)](
                step, before, plain, subject, builder, log, progress, deadline, budget, anew
            )
            try:
                with deadline.ending():
                    seen = search.found()
                    done[place] = _given(step, seen[step.finds])
                    notes += seen["notes"]
            except WorkError as error:  # its candidates fall out, the others are not lost with them
                notes.append(f'{name_of(step)} until "{step.until}": {error}')
            if done[place] is step:
                break
        plans.append(tuple(done))
    return replace(subject, plans=tuple(plans)), notes


def check(plans: Plans) -> None:
    """Raise InputError where a goal is to be found by several processes, which would slow each other."""
    for step in _until(plans):
        if step.pending and processes.count() > 1:
            raise InputError(
                f"{name_of(step)} with until measures, which several processes at once cannot: run the recipe by one "
                f"without training first, and give accelerate launch the {step.finds} that stand in its report's steps."
            )


def found(plans: Plans) -> list[Found]:
    """What each step with `until` came to, in order; None where nothing was found."""
    return [step.model_dump(mode="json")[step.finds] for step in _until(plans)]


def with_found(plans: Plans, known: Sequence[Found]) -> Plans:
    """The plans with this in the place of what is to be found, in order."""
    values = iter(known)
    return tuple(
        tuple(_given(step, next(values, None)) if isinstance(step, Until) and step.pending else step for step in steps)
        for steps in plans
    )


def _until(plans: Plans) -> Iterator[Until]:
    return (step for steps in plans for step in steps if isinstance(step, Until) and step.until)


def _given(step: Until, value: Found) -> Until:
    return type(step).model_validate({**step.model_dump(), step.finds: value})
