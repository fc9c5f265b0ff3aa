"""Figures into the report's parts: accuracies with their verdicts, latencies with theirs."""

import numpy as np

from optimize.metrics import Metric
from optimize.report import Accuracy, Final, Latency, RatioPart, Timing
from optimize.statistics import judge, paired_drop, samples_that_tell
from runtime.intervals import Ratio, percentile, verdict
from runtime.measure import Measurement
from runtime.tensors import Array


def accuracy(metric: Metric, original: Array, candidate: Array | None, max_drop: float) -> Accuracy:
    """Of a candidate against the original, on the same samples; of the original itself where there is no candidate."""
    if candidate is None:
        return Accuracy(metric=metric.name, value=metric.finish(original), samples=len(original))
    drop = paired_drop(original, candidate, metric.finish, metric.higher_is_better)
    found = judge(drop, max_drop)
    needed = None
    if found == "cannot tell":
        pairs: tuple[int, int] | tuple[()] = ()
        if drop.changed is not None:
            lost, won = np.sum(original > candidate), np.sum(original < candidate)
            pairs = (int(lost), int(won)) if metric.higher_is_better else (int(won), int(lost))
        needed = samples_that_tell(drop, max_drop, *pairs)
    return Accuracy(
        metric=metric.name,
        value=metric.finish(candidate),
        drop=drop.value,
        low=drop.low,
        high=drop.high,
        verdict=found,
        samples=drop.samples,
        samples_that_tell=needed,
        changed_p=drop.changed,
    )


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
        rounds=len(trace.rounds),
        samples=len(trace.samples),
        raw=[calls.tolist() for calls in trace.rounds],
    )  # fmt: skip


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


def timing(found: Measurement) -> Timing:
    """How a measurement went."""
    return Timing(
        rounds=found.rounds,
        stopped=found.stopped,
        floor=found.floor,
        margin=found.margin,
        quiet=found.quiet,
        restless=found.restless,
    )
