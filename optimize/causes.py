"""Why the chosen are (not) faster, and where accuracy went: what a run puts into its report beside the figures."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimize import noise, sensitivity
from optimize.build import Builder, Built
from optimize.explain import explained
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.report import Row
from optimize.subject import Subject
from runtime.errors import Error

SAMPLES = 64  # of calibrate, for the noise of each layer
EACH_S = 60.0  # of looking at layers alone, those that add most noise first: a network may have hundreds


def causes(
    subject: Subject, builder: Builder, candidates: Sequence[Candidate], built: Mapping[str, Built],
    rows: Mapping[str, Row], chosen: Mapping[str, str], progress: Progress,
) -> tuple[dict[str, Row], list[str]]:  # fmt: skip
    """Rows with `explained` (of the chosen), `noise` (of one rounded candidate a target) and `sensitivity`; untold.

    Where nothing rounded was chosen, the first that is rounded is looked at: it may be why. Each layer alone takes
    long, and what a model minds is much the same on every target: of one that is rounded for several it is told once.
    """
    found = dict(rows)
    notes: list[str] = []
    told_of: set[Path] = set()
    for target, own in _by_target(candidates, built).items():
        name = chosen.get(target)
        if name and built[name].files:
            progress.say(f"profile {name}")
            one = built[name]
            options = one.contender.arguments["options"]
            why = explained(rows[name].engine, one.files, options, one.contender.given(subject.feeds), one.model.path)
            found[name] = found[name].model_copy(update={"explained": why})
        own.sort(key=lambda candidate: candidate.name != name)
        try:
            looked = (_noise(subject, builder, one, built, told_of, progress, notes) for one in own)
            told = next(filter(None, looked), None)
        except Error as error:
            notes.append(f"{target}: where the accuracy went could not be told: {error}")
            continue
        if told:
            found[told[0]] = found[told[0]].model_copy(update=told[1])
    return found, notes


def _by_target(candidates: Sequence[Candidate], built: Mapping[str, Built]) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.name in built:
            found.setdefault(candidate.target.name, []).append(candidate)
    return found


def _noise(
    subject: Subject, builder: Builder, candidate: Candidate, built: Mapping[str, Built], told_of: set[Path],
    progress: Progress, notes: list[str],
) -> tuple[str, dict[str, Any]] | None:  # fmt: skip
    before = builder.unrounded(candidate)
    if before is None:
        return None
    progress.say(f"noise of the layers of {candidate.name}")
    with tempfile.TemporaryDirectory() as folder:
        splits, after, metric = subject.calls, built[candidate.name].body, None
        if subject.own_labels:  # which are compared with what is made of the raw outputs
            update, decoded = subject.metric.update, subject.contender.decoded
            metric = replace(subject.metric, update=lambda outputs, labels: update(decoded(dict(outputs)), labels))
        lost = noise.by_layer(before, after, splits.calibrate, SAMPLES, Path(folder))
        if before.path in told_of:
            return candidate.name, {"noise": lost}
        told = list[str]()
        minded = sensitivity.by_layer(
            before, after, splits.calibrate, splits.validate, metric, Path(folder), progress.count, lost, EACH_S, told
        )
        notes += [f"{candidate.name}: {note}" for note in told]
        told_of.add(before.path)
        return candidate.name, {"noise": lost, "sensitivity": minded}
