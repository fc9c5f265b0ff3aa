"""What the stages of a run do, on the rows of its candidates: make, judge, mend, time, choose."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from optimize import judge, mixing, select
from optimize.build import COLLAPSED_DB, Builder, Built, Lost
from optimize.deadline import Deadline
from optimize.evaluate import evaluate
from optimize.metrics import Rows as Statistics
from optimize.neighbours import Neighbours
from optimize.plan import Candidate, role_of
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.repair import in_turn, outrun, passed_over, repaired
from optimize.report import Headline, Row
from optimize.select import Choice
from optimize.steps import name_of
from optimize.subject import Subject
from optimize.tables import allowed_drop
from runtime.errors import Error, InputError
from runtime.measure import Measurement, measure

ORIGINAL = "original"
LOST = ("failed", "wrong", "dropped")
SEARCH = 0.6  # of a run's time: what comes after the search takes its share too
UNJUDGED = "not judged: it would not be chosen whatever its accuracy"
SCREENING_ROUNDS = 3
HOPELESS = 2.0  # times the limit, that a candidate loses for sure by a part of the samples

Rows = dict[str, Row]  # by name, the original's among them


@dataclass(frozen=True)
class Run:
    """What the stages share."""

    asked: Recipe
    subject: Subject
    candidates: Sequence[Candidate]
    built: Mapping[str, Built]
    log: Path
    progress: Progress
    deadline: Deadline = field(default_factory=Deadline)
    known: dict[str, Statistics] = field(default_factory=dict)  # what the original came to, split by split


def build(candidates: Sequence[Candidate], builder: Builder, deadline: Deadline) -> tuple[dict[str, Built], Rows]:
    """Files and engines of the candidates, those that are there for comparison first, those that train last.

    Raises:
        StepError: a step that only rewrites the model failed, and with it every candidate.
    """
    made: dict[str, Built | Lost] = {}
    for candidate in sorted(candidates, key=lambda one: (one.role == "steps", any(s.trains for s in one.steps))):
        if candidate.role != "steps":
            made[candidate.name] = builder.build(candidate)
            continue
        if not deadline.over(SEARCH):
            with deadline.ending():
                made[candidate.name] = builder.build(candidate)
        if candidate.name not in made:
            made[candidate.name] = Lost("dropped", f"it was not made: {deadline.why}")
    rows = {candidate.name: _row(candidate, made[candidate.name]) for candidate in candidates}
    return {name: one for name, one in made.items() if isinstance(one, Built)}, rows


def _row(candidate: Candidate, made: Built | Lost) -> Row:
    found: dict[str, Any]
    if isinstance(made, Lost):
        found = {"status": made.status, "reason": made.reason}
    else:
        found = {
            "status": "cannot build here" if candidate.why_not else "built, not measured",
            "reason": candidate.why_not or "",
            "size_bytes": made.size_bytes,
            "precision": made.precision,
            "made": list(made.made),
        }
    return Row(
        name=candidate.name,
        target=candidate.target.name,
        engine=candidate.target.engine,
        steps=[{"use": name_of(step), **step.model_dump(mode="json")} for step in candidate.steps],
        options=dict(candidate.options),
        **found,
    )


def sifted(run: Run, rows: Rows) -> Rows:
    """Without the candidates of a search in which hardly anything is left of the signal, on calibration data.

    Where every candidate of a target that rounds is such a one, they stay: the report shows what they come to.
    """
    left: dict[str, float] = {}
    for one in run.candidates:
        ratios = [made.signal_to_noise_db for made in rows[one.name].made if made.signal_to_noise_db is not None]
        if one.role == "steps" and ratios and rows[one.name].status not in LOST:
            left[one.name] = min(ratios)
    sound = {rows[name].target for name, db in left.items() if db >= COLLAPSED_DB}
    changed = dict(rows)
    for name, db in left.items():
        if db < COLLAPSED_DB and rows[name].target in sound:
            why = f"only {db:.1f} dB of its signal are above its noise, on calibration data"
            changed[name] = rows[name].model_copy(update={"status": "dropped", "reason": why})
    return changed


def accuracy(
    run: Run, rows: Rows, field: str, max_drop: float | None, among: Collection[str] | None = None
) -> tuple[Rows, float]:
    """Put the accuracy on one split into every row, or into those of some names alone.

    Without `max_drop` it follows from the original's value.
    """
    subject = run.subject
    split = subject.choice if field == "validate_" else subject.splits.test
    total = subject.choice_samples if field == "validate_" else subject.test_samples
    alive = [
        built.contender
        for name, built in run.built.items()
        if rows[name].status not in LOST and (among is None or name in among)
    ]
    early = run.asked.steps == "auto" and field == "validate_"
    known = (ORIGINAL, run.known[field]) if alive and field in run.known else None
    scores = evaluate(
        alive if known else [subject.contender, *alive], split, subject.metric, subject.evaluate_batch,
        fixed=subject.fixed, known=known, hopeless=partial(_hopeless, run) if early else None,
        log=run.log,
        progress=lambda done: run.progress.count(done, total, f"{len(alive) + (not known)} models"),
    )  # fmt: skip
    yardstick = scores.statistics[ORIGINAL]
    if scores.sound:
        run.known[field] = yardstick
    found = judge.accuracy(subject.metric, yardstick, None, 0.0)
    if max_drop is None:
        max_drop = allowed_drop(run.asked.constraints.max_drop, found.value)
    changed = {**rows, ORIGINAL: rows[ORIGINAL].model_copy(update={field: found})}
    for lost, status in ((scores.failed, "failed"), (scores.wrong, "wrong")):
        for name, reason in lost.items():
            changed[name] = rows[name].model_copy(update={"status": status, "reason": reason})
    if field == "accuracy":
        for name, detail in scores.details.items():
            changed[name] = changed[name].model_copy(update={"detail": detail})
    for name, statistics in scores.statistics.items():
        if name != ORIGINAL:
            # what was given up has answered the first samples only
            part = judge.accuracy(subject.metric, yardstick.head(len(statistics)), statistics, max_drop)
            changed[name] = changed[name].model_copy(update={field: part})
    for name, reason in scores.given_up.items():
        changed[name] = changed[name].model_copy(update={"status": "dropped", "reason": reason})
    return changed, max_drop


def accuracy_in_turn(run: Run, rows: Rows, margin: float) -> tuple[Rows, float]:
    """Put the accuracy on validate into the timed rows, of each target the best by the objective first.

    A target's others are left without where they would not be chosen whatever they came to. `margin` is that of the
    measurement.
    """
    max_drop: float | None = None
    while (more := _pending(run, rows, max_drop or 0.0, margin)) or max_drop is None:
        rows, max_drop = accuracy(run, rows, "validate_", max_drop, more)
    changed = dict(rows)
    for name, row in rows.items():
        if row.status == "measured" and row.validate_ is None:
            changed[name] = row.model_copy(update={"reason": UNJUDGED})
        elif row.status in ("failed", "wrong"):  # how fast is of no interest
            changed[name] = row.model_copy(update={"latency": None})
    return changed, max_drop


def _pending(run: Run, rows: Rows, max_drop: float, margin: float) -> list[str]:
    """Who is to be judged next, at most one a target."""
    asked, found = run.asked.constraints, list[str | None]()
    bounds = select.limits(asked, run.asked.device, run.subject.batch)
    for target in run.asked.targets:
        own = [rows[candidate.name] for candidate in run.candidates if candidate.target.name == target]
        if own[0].status == "cannot build here":  # its file is judged, and nothing of it timed
            found.append(own[0].name if own[0].validate_ is None else None)
        else:
            found.append(select.pending(own, asked.objective, max_drop, margin, bounds, asked.percentile))
    return [name for name in found if name]


def _hopeless(run: Run, original: Statistics, rows: Statistics) -> str:
    """Why a candidate that was asked a part of the samples need not be asked the others; empty where it must be."""
    metric = run.subject.metric
    try:
        before, after = metric.finish(original.values), metric.finish(rows.values)
        limit = HOPELESS * allowed_drop(run.asked.constraints.max_drop, before)
        if not (before - after if metric.higher_is_better else after - before) > limit:  # NaN: nobody knows
            return ""
        found = judge.accuracy(metric, original, rows, limit)
    except InputError:  # the metric has no value on so few
        return ""
    if found.low is None or found.low <= limit:
        return ""
    return f"it loses {found.low:.3g} at least ({metric.name}), by the first {len(rows)} samples"


def mended(run: Run, rows: Rows, builder: Builder, max_drop: float, seen: Measurement) -> tuple[Run, Rows, list[str]]:
    """With repaired candidates, not timed yet, beside those that lose too much; what was not repaired, and why.

    Of each target the one that loses least comes first, until one that is rounded holds the limit: a search of layers
    takes minutes, and of several ways to round a model one that needs none is the better. What was timed and not judged
    would not be chosen, and is left alone. `seen` is the first look.
    """
    notes: list[str] = []
    enough: dict[str, str] = {}
    searched: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in in_turn(run.candidates, rows, seen, max_drop):
        row = rows[candidate.name]
        if candidate.name not in run.built or row.reason == UNJUDGED:
            continue
        if select.lost(row) <= max_drop:
            enough.setdefault(candidate.target.name, candidate.name)
            continue
        before = searched[candidate.target.name]
        if run.deadline.over(SEARCH):
            notes.append(f"{candidate.name} was not repaired: {run.deadline.why}")
            continue
        if reason := passed_over(candidate, enough.get(candidate.target.name, ""), before):
            notes.append(f"{candidate.name} was not repaired: {reason}")
            continue
        if faster := outrun(seen, candidate.name, _rivals(run, rows, candidate, max_drop)):
            notes.append(f"{candidate.name} was not repaired: {faster}")
            continue
        judged, found = partial(_judged, run, rows[ORIGINAL], max_drop), None
        try:
            with run.deadline.ending():
                found = repaired(
                    run.subject, builder, candidate, run.built[candidate.name], judged, max_drop, run.log, run.progress,
                    mixing.most(run.asked), partial(run.deadline.over, SEARCH), run.asked.measure.seed,
                )  # fmt: skip
        except Error as error:  # the candidate as it is, and the others, are not lost with it
            notes.append(f"{candidate.name} was not repaired: {error}")
            continue
        if run.deadline.interrupted or (found is None and run.deadline.over(SEARCH)):
            notes.append(f"{candidate.name} was not repaired: {run.deadline.why}")
        elif found is None:
            notes.append(f"{candidate.name} was not repaired: no layer by itself regains anything in float")
        else:
            before.append(candidate)
            notes += [found.said] if found.said else []
            name = found.candidate.name
            beside = list(run.candidates)
            beside.insert(beside.index(candidate) + 1, found.candidate)
            run = replace(run, candidates=beside, built={**run.built, name: found.built})
            rows = {**rows, name: found.row}
            if select.lost(found.row) <= max_drop:
                enough[candidate.target.name] = name
    return run, rows, notes


def _rivals(run: Run, rows: Rows, candidate: Candidate, max_drop: float) -> list[str]:
    """The plain and the default engine of its target where they hold the limit, and nothing but time counts."""
    asked, device = run.asked.constraints, run.asked.device
    sizes = (asked.max_size_mib, asked.max_memory_mib, device.flash_mib, device.ram_mib)
    if asked.objective not in ("latency", "throughput") or any(sizes):
        return []
    names = dict.fromkeys(role_of(run.candidates, candidate.target.name, role).name for role in ("plain", "vendor"))
    return [one for one in names if one in run.built and select.lost(rows[one]) <= max_drop]


def _judged(run: Run, original: Row, max_drop: float, candidate: Candidate, made: Built) -> Row:
    """The row of a try of a repair, judged on validate."""
    alone = replace(run, candidates=[candidate], built={candidate.name: made})
    rows = {ORIGINAL: original, candidate.name: _row(candidate, made)}
    return accuracy(alone, rows, "validate_", max_drop)[0][candidate.name]


def first_look(run: Run, rows: Rows) -> tuple[Rows, Measurement, list[str]]:
    """A few rounds of those that were not timed yet, beside the original; and who else was busy meanwhile."""
    names = [name for name, row in rows.items() if row.status == "built, not measured"]
    found, busy = measured(run, names, SCREENING_ROUNDS)
    timed = judge.timed(rows, found, found.margin)
    # the original's figures are those of the look in which most are
    return timed if rows[ORIGINAL].latency is None else {**timed, ORIGINAL: rows[ORIGINAL]}, found, busy


def measured(run: Run, names: Sequence[str], rounds: int | None = None) -> tuple[Measurement, list[str]]:
    """Candidates beside the original: so many rounds, else until it is precise, with the original's twin.

    And who else was busy meanwhile.
    """
    asked, before = run.asked.measure, Neighbours.now()
    found = measure(
        [run.subject.contender, *(run.built[name].contender for name in names)], run.subject.feeds,
        budget_s=asked.budget * len(names), rounds=rounds, brief=rounds is not None, twin=rounds is None,
        log=run.log, seed=asked.seed, progress=run.progress.count,
    )  # fmt: skip
    return found, Neighbours.now().since(before)


def ended_early(run: Run, rows: Rows, notes: Sequence[str], seconds: float) -> str:
    """Why a search left candidates unmade or unrepaired, by their rows and notes; empty where it had its time."""
    if run.deadline.seconds is None:
        return ""
    untried = sum(row.status == "dropped" and run.deadline.why in row.reason for row in rows.values())
    if not untried and not any(run.deadline.why in note for note in notes):
        return ""
    return (
        f"{run.deadline.why}, {untried} of {len(run.candidates)} candidates were not made; the run took {seconds:.0f} "
        "s, since what is chosen is measured"
    )


def choose(run: Run, rows: Rows, max_drop: float, margin: float, among: Collection[str] = ()) -> dict[str, Choice]:
    """One candidate a target; `among` as `select.choose` has it."""
    choices = {}
    for target in run.asked.targets:
        own = [candidate for candidate in run.candidates if candidate.target.name == target]
        if own[0].why_not:
            choices[target] = select.unbuilt(rows[own[0].name], max_drop)
            continue
        plain = role_of(run.candidates, target, "plain")
        choices[target] = select.choose(
            [rows[candidate.name] for candidate in own], run.asked.constraints.objective, max_drop, plain.name,
            margin, run.subject.batch, select.limits(run.asked.constraints, run.asked.device, run.subject.batch),
            run.asked.constraints.percentile, among,
        )  # fmt: skip
    return choices


def shown(run: Run, rows: Rows, chosen: Mapping[str, str]) -> set[str] | None:
    """Of a search those that are judged on test: the chosen, what they stand beside, and what nothing beats; else all.

    Of twenty the others are told apart by validate, and answers of all of them would take the most of its time. Of a
    quick run these are the chosen alone.
    """
    if run.asked.looks_once():
        return set(chosen.values())
    if run.asked.steps != "auto":
        return None
    roles = {role_of(run.candidates, target, role).name for target in run.asked.targets for role in ("plain", "vendor")}
    return roles.union(chosen.values(), *fronts(run, rows).values())


def fronts(run: Run, rows: Rows) -> dict[str, list[str]]:
    """Of each target what no other beats or equals at once in time, drop and size."""
    return {
        target: select.front([row for row in rows.values() if row.target == target]) for target in run.asked.targets
    }


def finalists(run: Run, rows: Rows, chosen: Mapping[str, str]) -> list[str]:
    """The chosen ones that run here, each with its target's plain and default engine."""
    names: list[str] = []
    for target, name in chosen.items():
        names += [name, *(role_of(run.candidates, target, role).name for role in ("plain", "vendor"))]
    return [name for name in dict.fromkeys(names) if rows[name].status == "measured"]


def headline(
    run: Run, rows: Rows, last: Measurement, chosen: Mapping[str, str], others: Sequence[str]
) -> tuple[Headline, Rows]:
    """The last measurement's part of the report, and its ratios in the rows of the chosen."""
    targets, changed = {}, dict(rows)
    for target, name in chosen.items():
        if name in last.traces:
            plain, default = (role_of(run.candidates, target, role).name for role in ("plain", "vendor"))
            targets[target] = final = judge.final(last, name, plain, default)
            changed[name] = rows[name].model_copy(
                update={"ratio_to_plain": final.ratio_to_plain, "ratio_to_default": final.ratio_to_default}
            )
    headline = Headline(
        timing=judge.timing(last, others), original=judge.latency(last, ORIGINAL, last.margin), targets=targets
    )
    return headline, changed
