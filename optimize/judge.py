"""Figures into the report's parts: accuracies with their verdicts, latencies with theirs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from optimize.metrics import Metric, Rows
from optimize.report import MOST, Accuracy, Final, Latency, RatioPart, Row, Timing
from optimize.statistics import judge, paired_drop, samples_that_tell
from runtime.errors import InputError
from runtime.intervals import Ratio, percentile, verdict
from runtime.measure import Measurement
from runtime.tensors import Array


def accuracy(metric: Metric, original: Rows | Array, candidate: Rows | Array | None, max_drop: float) -> Accuracy:
    """Of a candidate against the original, on the same samples; of the original itself where there is no candidate.

    Raises:
        InputError: the metric has no value on these samples.
    """
    original = Rows.of(original)
    if candidate is None:
        value = metric.finish(original.values)
        if not math.isfinite(value):
            raise InputError(
                f"the metric '{metric.name}' is {value} for the original on {len(original)} samples; it needs others, "
                "of two classes and not all alike say."
            )
        return Accuracy(metric=metric.name, value=value, samples=len(original), each=_each(original))
    candidate = Rows.of(candidate)
    drop = paired_drop(original, candidate, metric.finish, metric.higher_is_better, drawn=metric.drawn)
    found = judge(drop, max_drop)
    needed = None
    if found == "cannot tell":
        pairs: tuple[int, int] | tuple[()] = ()
        if drop.changed is not None:
            lost, won = np.sum(original.values > candidate.values), np.sum(original.values < candidate.values)
            pairs = (int(lost), int(won)) if metric.higher_is_better else (int(won), int(lost))
        needed = samples_that_tell(drop, max_drop, *pairs)
    return Accuracy(
        metric=metric.name,
        value=metric.finish(candidate.values),
        drop=drop.value,
        low=drop.low,
        high=drop.high,
        verdict=found,
        samples=drop.samples,
        samples_that_tell=needed,
        changed_p=drop.changed,
        each=_each(candidate),
    )


def _each(rows: Rows) -> list[list[list[float]]]:
    """A sample's rows, sample by sample; nothing where they are too many for a report."""
    if rows.values.size > MOST:
        return []
    values, ends = rows.values.tolist(), np.cumsum(rows.counts).tolist()
    return [values[end - count : end] for end, count in zip(ends, rows.counts.tolist(), strict=True)]


def latency(found: Measurement, name: str, margin: float) -> Latency:
    """One contender's; with the ratio to the base, unless it is the base."""
    trace = found.traces[name]
    p50, p90, p99 = (percentile(trace.samples / 1e6, share) for share in (0.5, 0.9, 0.99))
    against = None if name == found.base else ratio_part(found.ratio(name), margin)
    return Latency(
        p50_ms=p50[0], p50_interval_ms=p50[1:],
        p90_ms=p90[0], p90_interval_ms=p90[1:],
        p99_ms=p99[0], p99_interval_ms=p99[1:],
        **(against.model_dump() if against else {}),
        engine_only_ms=trace.inside_ms,
        rounds=len(trace.rounds),
        samples=len(trace.samples),
        raw=[calls.tolist() for calls in trace.rounds],
    )  # fmt: skip


def timed(rows: Mapping[str, Row], found: Measurement, margin: float) -> dict[str, Row]:
    """A measurement put into the rows of those that were in it."""
    changed = dict(rows)
    for name, reason in found.failed.items():
        changed[name] = rows[name].model_copy(update={"status": "failed", "reason": reason})
    for name, trace in found.traces.items():
        seen = {
            "status": "measured",
            "latency": latency(found, name, margin),
            "threads": trace.threads,
            "cold_start_ms": float(np.median(trace.cold_start_ms)),
            "peak_memory_bytes": trace.peak_memory_bytes or None,
        }
        changed[name] = rows[name].model_copy(update=seen)
    return changed


def with_margin(rows: Mapping[str, Row], margin: float) -> dict[str, Row]:
    """Verdicts on latency told anew, whichever look they are of: the machine's floor was not known then."""
    changed = dict(rows)
    for name, row in rows.items():
        seen = row.latency
        if seen and seen.ratio is not None and seen.low is not None and seen.high is not None:
            told = verdict(Ratio(seen.ratio, seen.low, seen.high, seen.rounds), margin)
            changed[name] = row.model_copy(update={"latency": seen.model_copy(update={"verdict": told})})
    return changed


def ratio_part(found: Ratio, margin: float) -> RatioPart:
    """With its verdict."""
    return RatioPart(ratio=found.value, low=found.low, high=found.high, verdict=verdict(found, margin))


def final(found: Measurement, name: str, plain: str | None, default: str | None) -> Final:
    """One target's chosen engine in the last run, against the original, the plain and the default engine."""

    def against(other: str | None) -> RatioPart | None:
        if other is None or other not in found.traces:
            return None
        return ratio_part(found.ratio(name, other), found.margin)

    return Final(
        name=name,
        latency=latency(found, name, found.margin),
        ratio_to_plain=against(plain),
        ratio_to_default=against(default),
    )


def timing(found: Measurement, others: Sequence[str] = ()) -> Timing:
    """How a measurement went, and who else was busy meanwhile."""
    return Timing(
        rounds=found.rounds,
        stopped=found.stopped,
        floor=found.floor,
        margin=found.margin,
        quiet=found.quiet,
        restless=found.restless,
        others=list(others),
    )
