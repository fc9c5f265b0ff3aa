"""A closer look at the best: the candidates that come near, and the settings that the best ones could be run with.

Threads, and sizes known beforehand, change the time that an engine takes and not what it computes, so they are tried
last, on the best candidate of each target alone. All are measured together, with the original, in more rounds than the
first look had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optimize import judge, select, stages
from optimize.build import Builder, Built
from optimize.plan import Candidate
from optimize.report import Row
from optimize.stages import ORIGINAL, Rows, Run
from runtime import host
from runtime.intervals import Ratio
from runtime.measure import Measurement, measure

ROUNDS = 5
NEAR = 1.15  # times what the best takes, of those that may yet be better
RIVALS = 2  # beside the best, of each target
WORTH = 1.02  # times as fast, from which on other settings are worth being told apart


@dataclass(frozen=True)
class Variant:
    """A candidate with other settings.

    Attributes:
        base: the name of that whose settings they are in the place of.
    """

    base: str
    candidate: Candidate
    built: Built


def looked_closer(
    run: Run, rows: Rows, builder: Builder, chosen: Mapping[str, str], max_drop: float
) -> tuple[Run, Rows, list[str]]:
    """The rows of the best as measured now, and beside them, as candidates, those with settings that made them faster.

    Args:
        run: with the candidates.
        rows: after the first look.
        builder: opens the variants.
        chosen: target to name, by the first look.
        max_drop: in the metric's unit.

    Returns:
        The run and its rows, and what came of each setting, in words.

    Raises:
        WorkError: the original failed.
    """
    best = [one for one in run.candidates if chosen.get(one.target.name) == one.name and rows[one.name].latency]
    rivals = [name for one in best for name in _rivals(rows, one, max_drop)]
    variants = [variant for one in best for variant in _variants(run, builder, one)]
    timed = [*(one.name for one in best), *rivals]
    if len(timed) + len(variants) == len(best):
        return run, rows, []
    contenders = [*(run.built[name].contender for name in timed), *(one.built.contender for one in variants)]
    found = measure(
        [run.subject.contender, *contenders], run.subject.feeds, rounds=ROUNDS, twin=False, log=run.log,
        seed=run.asked.measure.seed, progress=run.progress.count,
    )  # fmt: skip
    notes: list[str] = []
    kept: list[Variant] = []
    for one in best:
        ratios = _ratios(found, one.name, [v for v in variants if v.base == one.name])
        if not ratios:
            continue
        fastest = max(ratios, key=lambda name: ratios[name].value)
        said = ", ".join(f"{name.removeprefix(one.name + '-')} {part.value:.2f}" for name, part in ratios.items())
        notes.append(f"{one.name} with other settings, times as fast as with its own: {said}")
        if ratios[fastest].value > WORTH:
            kept += [variant for variant in variants if variant.candidate.name == fastest]
    seen = {name: row for name, row in rows.items() if name in {ORIGINAL, *timed}}
    seen |= {one.candidate.name: _row(rows, one) for one in kept}
    beside = {name: trace for name, trace in found.traces.items() if name in seen}
    failed = {name: reason for name, reason in found.failed.items() if name in seen}
    again = judge.timed(seen, replace(found, traces=beside, failed=failed), found.margin)
    return *_beside(run, {**rows, **again}, kept, max_drop), notes


def _rivals(rows: Rows, best: Candidate, max_drop: float) -> list[str]:
    """Those of the same target that hold the accuracy and take hardly longer, the fastest first."""
    found = []
    for name, row in rows.items():
        if row.target == best.target.name and name != best.name and row.latency and row.validate_:
            times = select.cost(row, "latency") / select.cost(rows[best.name], "latency")
            if times <= NEAR and row.validate_.verdict != "exceeds" and (row.validate_.drop or 0.0) <= max_drop:
                found.append((times, name))
    return [name for _, name in sorted(found)[:RIVALS]]


def _variants(run: Run, builder: Builder, best: Candidate) -> list[Variant]:
    """With each of the target's settings but those that are asked for otherwise, and its own."""
    asked, sizes = run.asked.targets[best.target.name], _sizes(run, run.built[best.name])
    found = []
    for label, options in best.target.settings(host.facts(gpus=False), best.options, sizes).items():
        if options == best.options or any(asked.get(key, value) != value for key, value in options.items()):
            continue
        candidate = replace(best, name=f"{best.name}-{label}", role="steps", options=options, repair=None)
        built = builder.build(candidate)
        if isinstance(built, Built):  # what an engine does not take is no setting of it
            found.append(Variant(best.name, candidate, built))
    return found


def _sizes(run: Run, built: Built) -> dict[str, int]:
    """Of the batch, where it alone is open: calls of other lengths would find kernels that were chosen for one."""
    specs = built.model.specs.inputs
    named = {size for spec in specs for size in spec.shape if isinstance(size, str)}
    return {name: run.subject.batch for name in named} if named == {specs[0].shape[0]} else {}


def _ratios(found: Measurement, base: str, variants: Sequence[Variant]) -> dict[str, Ratio]:
    names = [one.candidate.name for one in variants if one.candidate.name in found.traces]
    return {name: found.ratio(name, base) for name in names} if base in found.traces else {}


def _row(rows: Rows, variant: Variant) -> Row:
    candidate = variant.candidate
    changed = {"name": candidate.name, "options": dict(candidate.options), "precision": variant.built.precision}
    return rows[variant.base].model_copy(update=changed)


def _beside(run: Run, rows: Rows, kept: Sequence[Variant], max_drop: float) -> tuple[Run, Rows]:
    """With variants among the candidates, each behind its base, and their accuracy on validate."""
    if not kept:
        return run, rows
    beside, built = list(run.candidates), {one.candidate.name: one.built for one in kept}
    for one in kept:
        beside.insert([c.name for c in beside].index(one.base) + 1, one.candidate)
    alone = replace(run, candidates=[one.candidate for one in kept], built=built)
    judged = {name: rows[name] for name in (ORIGINAL, *built)}
    rows = {**rows, **stages.accuracy(alone, judged, "validate_", max_drop)[0]}
    return replace(run, candidates=beside, built={**run.built, **built}), rows
