"""A closer look at the best: the candidates that come near, then the settings that the best could be run with.

Threads, and sizes known beforehand, change the time that an engine takes and not what it computes, so they are tried
last, on what was chosen for each target alone. What is compared is measured together, with the original, in more rounds
than the first look had.
"""

from collections.abc import Collection, Mapping, Sequence
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
        known: it is compiled for the sizes that are called.
    """

    base: str
    candidate: Candidate
    built: Built
    known: bool


def looked_closer(run: Run, rows: Rows, chosen: Mapping[str, str], max_drop: float) -> tuple[Rows, list[str]]:
    """The rows with the best and its rivals as they are measured now, and the names of these.

    Args:
        run: with the candidates.
        rows: after the first look.
        chosen: target to name, by the first look.
        max_drop: in the metric's unit.

    Raises:
        WorkError: the original failed.
    """
    best = _best(run, rows, chosen)
    rivals = {one.name: _rivals(rows, one, max_drop) for one in best}
    names = [name for one in best if rivals[one.name] for name in (one.name, *rivals[one.name])]
    if not names:
        return rows, []
    found = _measured(run, [run.built[name] for name in names])
    return {**rows, **_timed(rows, found, names)}, names


def tried(
    run: Run, rows: Rows, builder: Builder, chosen: Mapping[str, str], max_drop: float
) -> tuple[Run, Rows, list[str], list[str]]:
    """The settings that what was chosen could be run with.

    Args:
        run: with the candidates.
        rows: after the closer look.
        builder: opens the variants.
        chosen: target to name.
        max_drop: in the metric's unit.

    Returns:
        The run and its rows, with what is to be run otherwise among the candidates; the names of these; and what came
        of each setting, in words.

    Raises:
        WorkError: the original failed.
    """
    best = _best(run, rows, chosen)
    variants = {one.name: own for one in best if (own := _variants(run, builder, one))}
    if not variants:
        return run, rows, [], []
    beside = [one for base, own in variants.items() for one in (run.built[base], *(each.built for each in own))]
    found = _measured(run, beside)
    notes: list[str] = []
    kept: list[Variant] = []
    for base, own in variants.items():
        ratios = _ratios(found, base, own)
        if not ratios:
            continue
        said = ", ".join(f"{name.removeprefix(base + '-')} {part.value:.2f}" for name, part in ratios.items())
        taken, why = _preferred(found, base, own, ratios)
        notes.append(f"{base} with other settings, times as fast as with its own: {said}{why}")
        kept += [one for one in own if one.candidate.name == taken]
    names = [one.candidate.name for one in kept]
    rows = {**rows, **{one.candidate.name: _row(rows, one) for one in kept}}
    rows = {**rows, **_timed(rows, found, [*(one.base for one in kept), *names])} if kept else rows
    return *_beside(run, rows, kept, max_drop), names, notes


def _best(run: Run, rows: Rows, chosen: Mapping[str, str]) -> list[Candidate]:
    return [one for one in run.candidates if chosen.get(one.target.name) == one.name and rows[one.name].latency]


def _measured(run: Run, built: Sequence[Built]) -> Measurement:
    return measure(
        [run.subject.contender, *(one.contender for one in built)], run.subject.feeds, rounds=ROUNDS, twin=False,
        log=run.log, seed=run.asked.measure.seed, progress=run.progress.count,
    )  # fmt: skip


def _timed(rows: Rows, found: Measurement, names: Collection[str]) -> Rows:
    """Rows of the original and of these, by what was found of them."""
    seen = {name: rows[name] for name in (ORIGINAL, *names)}
    traces = {name: trace for name, trace in found.traces.items() if name in seen}
    failed = {name: reason for name, reason in found.failed.items() if name in seen}
    return judge.timed(seen, replace(found, traces=traces, failed=failed), found.margin)


def _preferred(
    found: Measurement, base: str, variants: Sequence[Variant], ratios: Mapping[str, Ratio]
) -> tuple[str | None, str]:
    """Which settings are taken, if not the candidate's own, and why where it is not for their speed.

    Sizes that are known leave an engine less to do at each call, so that is taken where it may be faster and cannot be
    told apart from the fastest: a noisy look would else leave it out by chance.
    """
    values = {base: 1.0, **{name: part.value for name, part in ratios.items()}}
    fastest = max(values, key=lambda name: values[name])
    known = {
        one.candidate.name: values[one.candidate.name] for one in variants
        if one.known and one.candidate.name in ratios and ratios[one.candidate.name].high > WORTH
        and (one.candidate.name == fastest or found.ratio(one.candidate.name, fastest).high >= 1)
    }  # fmt: skip
    if taken := max(known, key=lambda name: known[name], default=None):
        told = taken == fastest and values[taken] > WORTH
        label = taken.removeprefix(f"{base}-")
        return taken, "" if told else f"; {label} is taken, which may be as fast as any and has less to do at each call"
    return (fastest if values[fastest] > WORTH else None), ""


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
    found: list[Variant] = []
    for label, options in best.target.settings(host.facts(gpus=False), best.options, sizes).items():
        if options in (best.options, *(one.candidate.options for one in found)) or any(
            asked.get(key, value) != value for key, value in options.items()
        ):
            continue
        candidate = replace(best, name=f"{best.name}-{label}", role="steps", options=options, repair=None)
        built = builder.build(candidate)
        if isinstance(built, Built):  # what an engine does not take is no setting of it
            known = "fixed" in options and "fixed" not in best.options
            found.append(Variant(best.name, candidate, built, known))
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
