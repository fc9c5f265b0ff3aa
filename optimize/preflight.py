"""`optimize plan`: what a run would do, what of it cannot be and why, and how long it will take; it leaves nothing.

Whether a target takes a model is tried, not looked up: its plain fp32 engine is read and compiled in a process of its
own, with the recipe's limits, and answers once. A list of supported ops comes too late: OpenVINO's `read_model`
refuses what its `query_model` would be asked about.
"""

import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimize import automatic, plan, trials, tuning
from optimize.build import Builder, Built
from optimize.flags import asked_for
from optimize.folder import chatter_to
from optimize.pipeline import DISTRIBUTIONS
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.stages import SCREENING_ROUNDS
from optimize.steps import name_of
from optimize.subject import Subject, prepare
from runtime import host
from runtime.cache import Cache, default_folder
from runtime.contender import Worker
from runtime.errors import WorkError
from runtime.measure import BLOCK_CALLS, BLOCK_S

MIB = 2**20
START_S = 0.3  # of a process, forked from one that has the library in it, and its first calls
SETTINGS = 4  # that a target has about, its own among them


def preflight(what: str, changes: Sequence[str] = (), **flags: Any) -> dict[str, Any]:
    """What a run of this recipe, or of a model with its flags, would do here.

    Raises:
        InputError: something given cannot be used.
        WorkError: the model itself cannot be made: it does not export, or does not run on the data.
    """
    asked = asked_for(what, changes, flags)
    machine = host.facts()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with chatter_to(log) as screen, contextlib.closing(Progress(2, screen)) as progress:
            progress.stage("check the model and the data")
            subject = prepare(asked, progress, log, every_target=False)
            candidates = plan.expand(asked, machine, subject.plans)
            progress.stage("try each target")
            versions = host.versions(DISTRIBUTIONS)
            builder = Builder(subject, Cache(default_folder()), versions, Path(folder), log, progress, asked.limits)
            tried = {name: _tried(asked, name, candidates, builder, subject, log) for name in asked.targets}
    seconds = _seconds(asked, candidates, tried, subject)
    return {
        "targets": {name: {key: value for key, value in one.items() if key != "call_s"} for name, one in tried.items()},
        "candidates": {
            one.name: {
                "steps": ", ".join(name_of(step) for step in one.steps),
                "options": dict(one.options),
                "repaired": "where it loses too much" if one.repair else "",
                "remark": "travels as its source" if one.why_not else "",
            }
            for one in candidates
        },
        "notes": [*plan.remarks(asked, machine, subject.plans), *subject.notes] or "nothing to say",
        "expected": f"about {seconds / 60:.1f} min of compiling and measuring here{_training(asked, candidates)}; "
        "what steps calibrate, repair or prune until a latency comes on top, and is not known before it is done"
        + (f"; the search ends after {asked.search.time:g} s" if asked.search.time else ""),
    }


def _training(asked: Recipe, candidates: Sequence[Candidate]) -> str:
    """How long steps may train, each beginning that candidates share counted once; nothing where none does."""
    known: dict[str, float] = {}
    for one in candidates:
        for place, step in enumerate(one.steps):
            if minutes := getattr(step, "minutes", None):
                known[repr(one.steps[: place + 1])] = minutes
    more = max(0, trials.most(asked) - len(automatic.KEPT))
    total = sum(known.values()) + more * automatic.MINUTES
    return f", and {total:g} min of training at most" + (f" with {more} more trials" if more else "") if total else ""


def _tried(
    asked: Recipe, name: str, candidates: Sequence[Candidate], builder: Builder, subject: Subject, log: Path
) -> dict[str, Any]:
    """Whether a target takes the plain model here, and what it takes of the device."""
    candidate = plan.role_of(candidates, name, "plain")
    row: dict[str, Any] = {"compiles_here": "yes", "runs_here": "yes", "reason": "", "call_s": 0.0}
    if candidate.why_not:  # its file is made all the same, so that its size is known
        return row | {"compiles_here": "no", "runs_here": "no", "reason": candidate.why_not}
    begun = time.monotonic()
    made = builder.build(candidate)
    row["compile_s"] = round(time.monotonic() - begun, 1)
    if not isinstance(made, Built):
        return row | {"compiles_here": "no", "runs_here": "no", "reason": made.reason}
    try:
        with Worker.start(made.contender, subject.feeds, log) as worker:
            row["call_s"] = float(sorted(worker.block(BLOCK_S, BLOCK_CALLS))[BLOCK_CALLS // 2]) / 1e9
            memory = worker.use()["peak_memory_bytes"]
    except WorkError as error:
        return row | {"runs_here": "no", "reason": str(error)}
    row["plain_fp32_ms"] = row["call_s"] * 1e3
    for what, bytes_, limit in (
        ("flash", made.size_bytes, asked.device.flash_mib),
        ("ram", memory, asked.device.ram_mib),
    ):
        row[f"{what}_mib"] = float(f"{bytes_ / MIB:.3g}")
        if limit is not None and bytes_ > limit * MIB:
            over = f"plain fp32 takes {bytes_ / MIB:.1f} MiB of {what}, the device has {limit:g}"
            row["reason"] = f"{row['reason']}; {over}".removeprefix("; ")
    return row


def _seconds(
    asked: Recipe, candidates: Sequence[Candidate], tried: dict[str, dict[str, Any]], subject: Subject
) -> float:
    """Compiling, evaluating and timing what runs here, by what the plain models took."""
    alive = [(one, tried[one.target.name]) for one in candidates if tried[one.target.name]["runs_here"] == "yes"]
    judged = ("validate",) if asked.steps == "auto" else ("validate", "test")  # of a search few are judged on test
    samples = sum(facts.samples for name, facts in subject.facts.splits.items() if name in judged)
    blocks = 2 * sum(max(BLOCK_S, BLOCK_CALLS * row["call_s"]) for _, row in alive)
    return float(
        sum(row["compile_s"] + samples / subject.batch * row["call_s"] for _, row in alive)
        + SCREENING_ROUNDS * (blocks + START_S * len(alive))
        + (tuning.ROUNDS * (tuning.RIVALS + SETTINGS) * len(asked.targets) * START_S if asked.tunes() else 0.0)
        + asked.measure.budget * 3 * len(asked.targets)
    )
