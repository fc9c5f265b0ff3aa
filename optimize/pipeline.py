"""The whole way: from a recipe to a bundle and a report."""

import contextlib
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from optimize import judge, lock, plan, processes, recipe, reproduce, select, thumbnails
from optimize.build import Builder, Built, Lost
from optimize.causes import causes
from optimize.collapse import diagnosed
from optimize.evaluate import evaluate
from optimize.flags import asked_for
from optimize.folder import LOG, chatter_to, claimed, fresh
from optimize.lock import Pinned
from optimize.models import measures
from optimize.neighbours import Neighbours
from optimize.pack import write_bundle
from optimize.plan import Candidate, role_of
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.repair import passed_over, repaired
from optimize.report import Headline, Made, Report, Row, html, json, markdown
from optimize.select import Choice
from optimize.steps import name_of
from optimize.subject import Subject, prepare
from runtime import host
from runtime.cache import Cache, default_folder
from runtime.errors import Error, InputError, WorkError
from runtime.measure import Measurement, measure

SCREENING_ROUNDS = 3
STAGES = 8
DISTRIBUTIONS = (
    "edge-optimize", "numpy", "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino", "nncf",
    "neural-compressor", "torchao", "scikit-learn", "scipy", "safetensors", "tensorrt", "executorch", "onnxruntime-gpu",
    "skl2onnx", "onnxmltools", "keras", "tensorflow", "tensorflow-cpu", "tf2onnx", "torch-pruning", "accelerate",
    "onnx-ir", "protobuf",
)  # fmt: skip

ORIGINAL = "original"
FAILED = "failed"

Rows = dict[str, Row]  # by name, the original's among them


@dataclass(frozen=True)
class _Run:
    """What the stages share."""

    asked: Recipe
    subject: Subject
    candidates: Sequence[Candidate]
    built: Mapping[str, Built]
    log: Path
    progress: Progress


def run(
    what: Recipe | str | Path | None = None,
    *,
    out: str | Path = "optimized",
    changes: Sequence[str] = (),
    locked: str | Path | None = None,
    strict: bool = False,
    silent: bool = False,
    **flags: Any,
) -> Report:
    """Do what a recipe says; write DIR/bundle, report.html, report.json, report.md, recipe.lock and log.txt.

    Args:
        what: a recipe, the path of one, or a model (`model.onnx`, `file.py:callable`) with what it needs in `flags`.
        out: the folder; what an earlier run left there is replaced when this one has its result.
        changes: KEY=VALUE in the recipe, as the command line's --set has them.
        locked: the recipe.lock of an earlier run to make anew; `what` only where its recipe lies elsewhere now.
        strict: a verdict `cannot tell` counts as a constraint that is not met.
        silent: no progress on standard error.
        flags: for a model: `data`, `targets`, `metric`, `better`, `weights`, `shape`, `max_drop`, `objective`, `trust`,
            as `flags.to_recipe` has them.

    Returns:
        The report; its `exit_code` is 0, or 1 where a constraint is not met.

    Raises:
        InputError: something given cannot be used; nothing was written.
        WorkError: the work failed; log.txt says more.
        SystemExit: in later processes of `accelerate launch`, whose share, the training, is done.
    """
    pinned = lock.opened(Path(locked), what, Path(out), {**flags, "set": changes}) if locked else None
    asked = pinned.asked if pinned else asked_for(what, changes, flags)
    if not processes.first():
        _help(asked, pinned)
    existed = Path(out).exists()
    with claimed(Path(out)) as folder:
        work, written = fresh(folder), True
        try:
            cache = lock.empty_cache(work / "cache") if pinned else contextlib.nullcontext()
            with cache, chatter_to(work / LOG) as screen, closing(Progress(STAGES, screen, silent)) as progress:
                return _whole_way(asked, pinned, folder, work, progress, strict)
        except InputError:
            written = False
            raise
        except OSError as error:
            raise WorkError(f"{error.strerror or error}: {error.filename or folder}") from error
        finally:
            if written and (work / LOG).exists():
                with contextlib.suppress(OSError):  # a full disk has been said already
                    shutil.copyfile(work / LOG, folder / LOG)
            shutil.rmtree(work, ignore_errors=True)
            if not written and not existed:
                shutil.rmtree(folder, ignore_errors=True)


def _whole_way(asked: Recipe, pinned: Pinned | None, out: Path, work: Path, progress: Progress, strict: bool) -> Report:
    begun, machine, log = time.monotonic(), host.facts(), work / LOG

    progress.stage("check the model and the data")
    subject = prepare(asked, progress, log)
    candidates = pinned.candidates(subject) if pinned else plan.expand(asked, machine, subject.plans)

    progress.stage("make the candidates")
    versions = host.versions(DISTRIBUTIONS)
    shutil.rmtree(out / FAILED, ignore_errors=True)
    threads = pinned.lock.threads if pinned else None
    builder = Builder(subject, Cache(default_folder()), versions, out / FAILED, log, progress, asked.limits, threads)
    builder.train(candidates)
    tried = {candidate.name: builder.build(candidate) for candidate in candidates}
    rows = {candidate.name: _row(candidate, tried[candidate.name]) for candidate in candidates}
    made = {name: one for name, one in tried.items() if isinstance(one, Built)}
    unlike, told = pinned.compared(made) if pinned else ([], [])
    run = _Run(asked, subject, candidates, made, log, progress)

    progress.stage("accuracy on validate")
    given = Made.model_validate({"use": "as given", **measures(subject.model, subject.axes)})
    rows[ORIGINAL] = Row(name=ORIGINAL, engine=asked.model_spec().source, status="measured", made=[given])
    rows, max_drop = _accuracy(run, rows, "validate_", None)
    ruined = diagnosed(subject, builder, run.candidates, run.built, rows, rows[ORIGINAL])
    run, rows, unmended = _repaired(run, rows, builder, max_drop)

    progress.stage("latency, a first look")
    timed = [run.built[name].contender for name, row in rows.items() if row.status == "built, not measured"]
    screening = measure(
        [subject.contender, *timed], subject.feeds, rounds=SCREENING_ROUNDS, twin=False, log=log,
        seed=asked.measure.seed, progress=progress.count,
    )  # fmt: skip
    rows = judge.timed(rows, screening, screening.margin)
    if not any(row.status == "measured" for name, row in rows.items() if name != ORIGINAL):
        reasons = "; ".join(f"{name}: {row.reason}" for name, row in rows.items() if name != ORIGINAL)
        raise WorkError(f"no candidate could be measured: {reasons}")
    choices = pinned.choices(rows, unlike) if pinned else _choose(run, rows, max_drop, screening.margin)
    chosen = {target: choice.name for target, choice in choices.items() if choice.name}

    progress.stage("accuracy on test")
    rows, _ = _accuracy(run, rows, "accuracy", max_drop)
    rows = rows if subject.states else thumbnails.in_rows(subject.splits.test, rows, chosen)

    progress.stage("latency of the chosen, once more")
    finalists = _finalists(run, rows, chosen)
    before = Neighbours.now()
    last = measure(
        [subject.contender, *(run.built[name].contender for name in finalists)], subject.feeds,
        budget_s=asked.measure.budget * len(finalists), log=log, seed=asked.measure.seed, progress=progress.count,
    )  # fmt: skip
    rows = judge.timed(rows, screening, last.margin)  # the machine's floor is known now: a first look claims no more
    headline, rows = _headline(run, rows, last, chosen, Neighbours.now().since(before))

    progress.stage("why it is (not) faster, and where the accuracy went")
    rows, untold = causes(subject, builder, run.candidates, run.built, rows, chosen, progress)

    for candidate in run.candidates:
        row = rows[candidate.name]
        if candidate.name in run.built and row.status in ("failed", "wrong"):
            reproduce.keep(out / FAILED, candidate, run.built[candidate.name].model, row.status, row.reason)

    progress.stage("write the bundle")
    picked = [rows[name] for name in chosen.values()]
    exceeds = any(row.accuracy and row.accuracy.verdict == "exceeds" for row in picked)
    unsure = any(row.validate_ and row.validate_.verdict == "cannot tell" for row in picked)
    unmet = any(choice.closest or not choice.name for choice in choices.values())
    report = Report(
        made_with=versions,
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine.to_json(),
        recipe=asked.plain(),
        data=subject.facts,
        inputs=[str(spec) for spec in subject.inputs],
        outputs=[str(spec) for spec in next(iter(run.built.values())).model.specs.outputs],
        batch=subject.batch,
        states=dict(subject.states),
        max_drop=max_drop,
        objective=asked.constraints.objective,
        original=rows.pop(ORIGINAL),
        candidates=list(rows.values()),
        screening=judge.timing(screening),
        headline=headline,
        chosen=chosen,
        why={target: choice.why for target, choice in choices.items()},
        closest={target: choice.closest for target, choice in choices.items() if choice.closest},
        notes=[*told, *ruined, *plan.remarks(asked, machine), *subject.notes, *unmended, *untold],
        seconds=time.monotonic() - begun,
        exit_code=1 if unmet or exceeds or unlike or (strict and unsure) else 0,
        bundle="bundle" if chosen else None,
        unlike=unlike,
    )
    held = lock.of(asked, out, subject, report, run.built, builder.threads)
    written = [*(form.write(report, work) for form in (html, json, markdown)), held.write(work)]
    if chosen:
        made_so = write_bundle(out / "bundle", report, run.candidates, run.built, subject, written, asked.bundle.golden)
        held.sealed(made_so).write(work)
    for file in written:
        shutil.move(file, out / file.name)
    return report


def _help(asked: Recipe, pinned: Pinned | None) -> NoReturn:
    """What a later process of `accelerate launch` does: its share of the training, and no more."""
    with tempfile.TemporaryDirectory() as folder, closing(Progress(STAGES, silent=True)) as silent:
        work = Path(folder)
        subject = prepare(asked, silent, work / LOG)
        threads = pinned.lock.threads if pinned else None
        builder = Builder(subject, Cache(work), {}, work, work / LOG, silent, asked.limits, threads)
        builder.train(pinned.candidates(subject) if pinned else plan.expand(asked, host.facts(), subject.plans))
    raise SystemExit(0)


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


def _accuracy(run: _Run, rows: Rows, field: str, max_drop: float | None) -> tuple[Rows, float]:
    """Put the accuracy on one split into every row; without `max_drop` it follows from the original's value."""
    subject = run.subject
    split = subject.choice if field == "validate_" else subject.splits.test
    total = subject.choice_samples if field == "validate_" else subject.facts.splits[split.name].samples
    alive = [built.contender for name, built in run.built.items() if rows[name].status not in ("failed", "wrong")]
    scores = evaluate(
        [subject.contender, *alive], split, subject.metric, subject.evaluate_batch,
        own_labels=subject.own_labels, fixed=subject.fixed, log=run.log,
        progress=lambda done: run.progress.count(done, total, f"{len(alive) + 1} models"),
    )  # fmt: skip
    yardstick = scores.statistics[ORIGINAL]
    found = judge.accuracy(subject.metric, yardstick, None, 0.0)
    if max_drop is None:
        max_drop = recipe.allowed_drop(run.asked.constraints.max_drop, found.value)
    changed = {**rows, ORIGINAL: rows[ORIGINAL].model_copy(update={field: found})}
    for lost, status in ((scores.failed, "failed"), (scores.wrong, "wrong")):
        for name, reason in lost.items():
            changed[name] = rows[name].model_copy(update={"status": status, "reason": reason})
    if field == "accuracy":
        for name, detail in scores.details.items():
            changed[name] = changed[name].model_copy(update={"detail": detail})
    for name, statistics in scores.statistics.items():
        if name != ORIGINAL:
            part = judge.accuracy(subject.metric, yardstick, statistics, max_drop)
            changed[name] = changed[name].model_copy(update={field: part})
    return changed, max_drop


def _repaired(run: _Run, rows: Rows, builder: Builder, max_drop: float) -> tuple[_Run, Rows, list[str]]:
    """With repaired candidates beside those that lose too much; what was not repaired, and why.

    Of each target the one that loses least comes first, until one that is rounded holds the limit: a search of layers
    takes minutes, and of several ways to round a model one that needs none is the better.
    """
    notes: list[str] = []
    enough: dict[str, str] = {}
    searched: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(run.candidates, key=lambda one: _drop(rows[one.name])):
        if candidate.repair is None or candidate.name not in run.built:
            continue
        if not _loses(rows[candidate.name], max_drop):
            enough.setdefault(candidate.target.name, candidate.name)
            continue
        before = searched[candidate.target.name]
        if reason := passed_over(candidate, enough.get(candidate.target.name, ""), before):
            notes.append(f"{candidate.name} was not repaired: {reason}")
            continue
        tried: Rows = {ORIGINAL: rows[ORIGINAL]}
        holds = partial(_holds, run, tried, max_drop)
        try:
            found = repaired(run.subject, builder, candidate, run.built[candidate.name], holds, run.log, run.progress)
        except Error as error:  # the candidate as it is, and the others, are not lost with it
            notes.append(f"{candidate.name} was not repaired: {error}")
            continue
        if found is None:
            notes.append(f"{candidate.name} was not repaired: no layer by itself regains anything in float")
        else:
            before.append(candidate)
            name = found.candidate.name
            beside = list(run.candidates)
            beside.insert(beside.index(candidate) + 1, found.candidate)
            run = replace(run, candidates=beside, built={**run.built, name: found.built})
            rows = {**rows, name: tried[name].model_copy(update={"repair": list(found.layers)})}
            if not _loses(rows[name], max_drop):
                enough[candidate.target.name] = name
    return run, rows, notes


def _holds(run: _Run, tried: Rows, max_drop: float, candidate: Candidate, made: Built) -> bool:
    """Whether a try of a repair loses no more than is allowed; its row is put beside the original's."""
    alone = replace(run, candidates=[candidate], built={candidate.name: made})
    rows = {ORIGINAL: tried[ORIGINAL], candidate.name: _row(candidate, made)}
    tried[candidate.name] = _accuracy(alone, rows, "validate_", max_drop)[0][candidate.name]
    return not _loses(tried[candidate.name], max_drop)


def _loses(row: Row, max_drop: float) -> bool:
    return _drop(row) > max_drop


def _drop(row: Row) -> float:
    """On validate; infinite where there is none."""
    return float("inf") if row.validate_ is None or row.validate_.drop is None else row.validate_.drop


def _choose(run: _Run, rows: Rows, max_drop: float, margin: float) -> dict[str, Choice]:
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
            run.asked.constraints.percentile,
        )  # fmt: skip
    return choices


def _finalists(run: _Run, rows: Rows, chosen: Mapping[str, str]) -> list[str]:
    """The chosen ones that run here, each with its target's plain and default engine."""
    names: list[str] = []
    for target, name in chosen.items():
        names += [name, *(role_of(run.candidates, target, role).name for role in ("plain", "vendor"))]
    return [name for name in dict.fromkeys(names) if rows[name].status == "measured"]


def _headline(
    run: _Run, rows: Rows, last: Measurement, chosen: Mapping[str, str], others: Sequence[str]
) -> tuple[Headline, Rows]:
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
