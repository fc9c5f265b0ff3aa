"""The whole way: from a recipe to a bundle and a report."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

import targets
from optimize import judge, lock, plan, processes, stages, thumbnails, trials, tuning, until
from optimize.build import Builder
from optimize.causes import causes
from optimize.collapse import diagnosed
from optimize.deadline import Deadline
from optimize.flags import asked_for
from optimize.folder import LOG, chatter_to, claimed, fresh
from optimize.lock import Pinned
from optimize.models import measures
from optimize.pack import write_bundle
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.report import Made, Report, Row, html, json, markdown
from optimize.stages import ORIGINAL
from optimize.subject import prepare
from runtime import host
from runtime.cache import Cache, default_folder
from runtime.errors import InputError, WorkError

STAGES = 8  # two fewer of a quick run, one more where pruning is searched, and two where settings are tried
QUICK = "a quick run: why it is (not) faster, and where the accuracy went, was not looked at"
DISTRIBUTIONS = (
    "edge-optimize", "numpy", "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino", "nncf",
    "neural-compressor", "torchao", "scikit-learn", "scipy", "safetensors", "tensorrt", "executorch", "onnxruntime-gpu",
    "skl2onnx", "onnxmltools", "keras", "tensorflow", "tensorflow-cpu", "tf2onnx", "torch-pruning", "accelerate",
    "onnx-ir", "protobuf",
)  # fmt: skip

FAILED = "failed"


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
    existed, count = Path(out).exists(), STAGES - 2 * asked.looks_once()
    count += 0 if pinned else 2 * asked.tunes() + bool(trials.most(asked))
    with claimed(Path(out)) as folder:
        work, written = fresh(folder), True
        try:
            cache = lock.empty_cache(work / "cache") if pinned else contextlib.nullcontext()
            with cache, chatter_to(work / LOG) as screen, closing(Progress(count, screen, silent)) as progress:
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
    deadline = Deadline(None if pinned else asked.search.time)
    if reasons := _none_runs(asked):
        raise InputError(
            f"nothing could be measured here: {reasons}. Name a target beside that runs here, the others' files travel "
            "in the bundle all the same: --target onnxruntime."
        )

    progress.stage("check the model and the data")
    subject = prepare(asked, progress, log)
    subject = replace(subject, plans=pinned.plans(subject)) if pinned else subject
    candidates = pinned.candidates(subject) if pinned else plan.expand(asked, machine, subject.plans)

    progress.stage("make the candidates")
    versions = host.versions(DISTRIBUTIONS)
    shutil.rmtree(out / FAILED, ignore_errors=True)
    threads = pinned.lock.threads if pinned else None
    builder = Builder(subject, Cache(default_folder()), versions, out / FAILED, log, progress, asked.limits, threads)
    sought: list[str] = []
    if not pinned:
        subject, sought = until.resolved(asked, machine, subject, builder, log, progress, deadline)
        candidates = plan.expand(asked, machine, subject.plans)
    if processes.count() > 1:
        builder.train(candidates)
    made, rows = stages.build(candidates, builder, deadline)
    unlike, told = pinned.compared(made) if pinned else ([], [])
    run = stages.Run(asked, subject, candidates, made, log, progress, deadline)
    if asked.steps == "auto":
        rows = stages.sifted(run, rows)

    given = Made.model_validate({"use": "as given", **measures(subject.model, subject.axes)})
    rows[ORIGINAL] = Row(name=ORIGINAL, engine=asked.model_spec().source, status="measured", made=[given])
    # those that are slower than one that holds the limit need not be judged, nor repaired
    timed_first = asked.looks_once() and not pinned
    if not timed_first:
        progress.stage("accuracy on validate")
        rows, max_drop = stages.accuracy(run, rows, "validate_", None)
        ruined = diagnosed(subject, builder, run.candidates, run.built, rows, rows[ORIGINAL])

    progress.stage("latency" if asked.looks_once() else "latency, a first look")
    rows, screening, busy = stages.first_look(run, rows)
    if not any(row.status == "measured" for name, row in rows.items() if name != ORIGINAL):
        reasons = "; ".join(f"{name}: {row.reason}" for name, row in rows.items() if name != ORIGINAL)
        raise WorkError(f"no candidate could be measured: {reasons}")
    if timed_first:
        progress.stage("accuracy on validate")
        rows, max_drop = stages.accuracy_in_turn(run, rows, screening.margin)
        ruined = diagnosed(subject, builder, run.candidates, run.built, rows, rows[ORIGINAL])
    run, rows, unmended = stages.mended(run, rows, builder, max_drop, screening)
    if any(row.status == "built, not measured" for row in rows.values()):
        rows = stages.first_look(run, rows)[0]
    pruned: list[str] = []
    if trials.most(asked) and not pinned:
        progress.stage("how much to prune")
        run, rows, pruned = trials.searched(run, rows, builder, max_drop)
    choices = pinned.choices(rows, unlike) if pinned else stages.choose(run, rows, max_drop, screening.margin)
    chosen = {target: choice.name for target, choice in choices.items() if choice.name}

    settings: list[str] = []
    if asked.tunes() and not pinned:
        # of two looks each has a machine of its own speed: only what was seen in one is compared
        progress.stage("a closer look at the best")
        closer: list[str] = []
        if not deadline.over():
            with deadline.ending():
                rows, closer = tuning.looked_closer(run, rows, chosen, max_drop)
            choices = stages.choose(run, rows, max_drop, screening.margin, closer)
            chosen = {target: choice.name for target, choice in choices.items() if choice.name}
        progress.stage("settings to run the best with")
        if not deadline.over():
            with deadline.ending():
                run, rows, kept, settings = tuning.tried(run, rows, builder, chosen, max_drop)
                settled = {rows[name].target for name in kept}
                closer = [*kept, *(name for name in closer if rows[name].target not in settled)]
            choices = stages.choose(run, rows, max_drop, screening.margin, closer)
            chosen = {target: choice.name for target, choice in choices.items() if choice.name}

    progress.stage("accuracy on test")
    rows, _ = stages.accuracy(run, rows, "accuracy", max_drop, stages.shown(run, rows, chosen))
    rows = rows if subject.states else thumbnails.in_rows(subject.splits.test, rows, chosen)

    last = screening
    if not asked.looks_once():
        progress.stage("latency of the chosen, once more")
        last, busy = stages.measured(run, stages.finalists(run, rows, chosen))
    rows = judge.with_margin(rows, last.margin)  # the machine's floor is known now: earlier looks claim no more
    headline, rows = stages.headline(run, rows, last, chosen, busy)

    untold = [QUICK]
    if not asked.looks_once():
        progress.stage("why it is (not) faster, and where the accuracy went")
        rows, untold = causes(subject, builder, run.candidates, run.built, rows, chosen, progress)

    for candidate in run.candidates:
        row = rows[candidate.name]
        if candidate.name in run.built and row.status in ("failed", "wrong"):
            builder.keep(candidate, run.built[candidate.name].model, row.status, row.reason)

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
        candidates=[rows[one.name] for one in run.candidates],
        screening=judge.timing(screening),
        headline=headline,
        chosen=chosen,
        why={target: choice.why for target, choice in choices.items()},
        closest={target: choice.closest for target, choice in choices.items() if choice.closest},
        notes=[
            *told,
            *ruined,
            *plan.remarks(asked, machine, subject.plans),
            *subject.notes,
            *sought,
            *unmended,
            *pruned,
            *settings,
            *untold,
        ],
        seconds=time.monotonic() - begun,
        exit_code=1 if unmet or exceeds or unlike or (strict and unsure) else 0,
        bundle="bundle" if chosen else None,
        unlike=unlike,
        pareto=stages.fronts(run, rows),
        early=stages.ended_early(run, rows, unmended, time.monotonic() - begun),
    )
    held = lock.of(asked, out, subject, report, run.built, builder.threads)
    written = [*(form.write(report, work) for form in (html, json, markdown)), held.write(work)]
    if chosen:
        made_so = write_bundle(out / "bundle", report, run.candidates, run.built, subject, written, asked.bundle.golden)
        held.sealed(made_so).write(work)
    for file in written:
        shutil.move(file, out / file.name)
    return report


def _none_runs(asked: Recipe) -> str:
    """Why no target can be built here; empty where one can."""
    reasons = {name: targets.get(name).why_not() for name in asked.targets}
    return "" if None in reasons.values() else "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _help(asked: Recipe, pinned: Pinned | None) -> NoReturn:
    """What a later process of `accelerate launch` does: its share of the training, and no more."""
    with tempfile.TemporaryDirectory() as folder, closing(Progress(STAGES, silent=True)) as silent:
        work = Path(folder)
        subject = prepare(asked, silent, work / LOG)
        if pinned:
            subject = replace(subject, plans=pinned.plans(subject))
        else:
            until.check(subject.plans)
        threads = pinned.lock.threads if pinned else None
        builder = Builder(subject, Cache(work), {}, work, work / LOG, silent, asked.limits, threads)
        builder.train(pinned.candidates(subject) if pinned else plan.expand(asked, host.facts(), subject.plans))
    raise SystemExit(0)
