"""`optimize compare OLD NEW`: two reports, target by target, with intervals; the gate for CI."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimize import metrics
from optimize.gate import Change, Condition, Outcome, parse
from optimize.metrics import Rows
from optimize.report import Accuracy, Latency, Report, json
from optimize.statistics import paired_drop, unpaired_drop
from runtime.errors import InputError
from runtime.intervals import unpaired

MACHINE = ("system", "architecture", "cpu", "cores", "gpus")  # what must be alike for times to be compared


@dataclass(frozen=True)
class Line:
    """One figure of one target.

    Attributes:
        change: None where it cannot be told from these reports, which `note` says.
        unlike: they must not be compared: another machine, batch or metric.
    """

    target: str
    figure: str
    old: float | None
    new: float | None
    change: Change | None
    note: str = ""
    unlike: bool = False


@dataclass(frozen=True)
class Result:
    """One condition on one target."""

    line: Line
    condition: Condition
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    """What two reports say of each other."""

    lines: tuple[Line, ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...]

    def failed(self, strict: bool) -> bool:
        """Whether the gate is shut."""
        return any(one.outcome == "failed" or (strict and one.outcome == "cannot tell") for one in self.results)


def compare(old: Path, new: Path, conditions: list[str]) -> Comparison:
    """Compare two folders of `optimize run`, or their report.json.

    Raises:
        InputError: a report cannot be read, the two have no target in common, or a condition asks for what they cannot
            tell: times of unlike machines or batches, accuracies by different metrics.
    """
    parsed = [parse(text) for text in conditions]
    before, after = json.read(old), json.read(new)
    shared = [target for target in before.chosen if target in after.chosen]
    if not shared:
        raise InputError(
            f"no target in common: {old} has {', '.join(before.chosen) or 'none'}, {new} has "
            f"{', '.join(after.chosen) or 'none'}."
        )
    notes = [f"{target}: only in {old if target in before.chosen else new}"
             for target in {**before.chosen, **after.chosen} if target not in shared]  # fmt: skip
    unlike = _unlike(before, after)
    if unlike:
        notes.insert(0, f"{unlike}; times stand side by side and are not compared")
    lines = [line for target in shared for line in _lines(before, after, target, unlike)]
    results = []
    for condition in parsed:
        for line in (one for one in lines if one.figure == condition.figure):
            if line.unlike:
                raise InputError(f"--fail-if '{condition.text}' on {line.target}: {line.note}.")
            # an engine that was not built in one of the runs, say: that is not known to be worse
            results.append(Result(line, condition, condition.judge(line.change) if line.change else "cannot tell"))
    if any(line.figure == "latency" and line.change for line in lines):
        notes.append(
            "the two were timed at different times, and what the machine did between is in no interval; "
            "`optimize bench OLD/bundle NEW/bundle` times them in the same rounds"
        )
    return Comparison(tuple(lines), tuple(results), tuple(notes))


def _unlike(old: Report, new: Report) -> str:
    """Why times cannot be compared; empty where they can."""
    for what in MACHINE:
        if old.machine.get(what) != new.machine.get(what):
            return f"unlike machines ({what}: {old.machine.get(what)} and {new.machine.get(what)})"
    return f"unlike batches ({old.batch} and {new.batch})" if old.batch != new.batch else ""


def _lines(old: Report, new: Report, target: str, unlike: str) -> list[Line]:
    rows = old.row(old.chosen[target]), new.row(new.chosen[target])
    times = _timed(old, target), _timed(new, target)
    found = [_latency(target, *times, unlike), _accuracy(target, old, new, rows[0].accuracy, rows[1].accuracy)]
    for figure, field in (("size", "size_bytes"), ("memory", "peak_memory_bytes"), ("cold_start", "cold_start_ms")):
        values = [getattr(row, field) for row in rows]
        change, note = None, "not in both reports"
        if None not in values and values[0]:
            share = values[1] / values[0] - 1
            change, note = Change(share, share, share), "" if figure == "size" else "a single figure, without interval"
            if unlike and figure != "size":
                change, note = None, unlike
        found.append(Line(target, figure, values[0], values[1], change, note, bool(unlike) and figure != "size"))
    return found


def _timed(report: Report, target: str) -> Latency | None:
    final = report.headline.targets.get(target) if report.headline else None
    return final.latency if final else report.row(report.chosen[target]).latency


def _latency(target: str, old: Latency | None, new: Latency | None, unlike: str) -> Line:
    values = (old.p50_ms if old else None, new.p50_ms if new else None)
    if old is None or new is None:
        return Line(target, "latency", *values, None, "not timed in both reports")
    if unlike:
        return Line(target, "latency", *values, None, unlike, True)
    found = unpaired([np.array(calls) for calls in new.raw], [np.array(calls) for calls in old.raw])
    if found.rounds < 2:
        return Line(target, "latency", *values, None, "fewer than two rounds of samples")
    return Line(target, "latency", *values, Change(found.value - 1, found.low - 1, found.high - 1))


def _accuracy(target: str, old: Report, new: Report, was: Accuracy | None, now: Accuracy | None) -> Line:
    values = (was.value if was else None, now.value if now else None)
    if was is None or now is None:
        return Line(target, "accuracy", *values, None, "not judged on test in both reports")
    if was.metric != now.metric:
        return Line(target, "accuracy", *values, None, f"unlike metrics ({was.metric} and {now.metric})", True)
    if not was.each or not now.each:
        return Line(target, "accuracy", *values, None, "a report has no figures of single samples (over the limit)")
    if ":" in was.metric:
        return Line(target, "accuracy", *values, None, "the metric is the user's own: use optimize eval")
    metric = metrics.get(was.metric)
    rows = [_rows(part.each) for part in (was, now)]
    same = old.data.splits["test"].sha256 == new.data.splits["test"].sha256 and len(rows[0]) == len(rows[1])
    # as if higher were better, a drop is old minus new whatever the metric; the change is new minus old
    drop = (paired_drop if same else unpaired_drop)(rows[0], rows[1], metric.finish, True, drawn=metric.drawn)
    note = "paired, on the same samples" if same else "on different samples, unpaired"
    return Line(target, "accuracy", *values, Change(-drop.value, -drop.high, -drop.low), note)


def _rows(each: list[list[list[float]]]) -> Rows:
    counts = np.array([len(own) for own in each])
    return Rows(np.array([row for own in each for row in own], np.float64), counts)


def as_json(found: Comparison, strict: bool) -> dict[str, Any]:
    """For `--json` and the terminal."""
    changes: dict[str, Any] = {}
    for line in found.lines:
        part: dict[str, Any] = {"old": line.old, "new": line.new}
        if line.change:
            part |= {"change": line.change.value, "low": line.change.low, "high": line.change.high}
        changes[f"{line.target} {line.figure}"] = {**part, "note": line.note}
    gate = {f"{one.line.target}: {one.condition.text}": {"outcome": one.outcome} for one in found.results}
    return {
        "changes": changes,
        "gate": gate or "no --fail-if was given",
        "failed": found.failed(strict),
        "notes": list(found.notes),
    }
