"""The choice: one candidate a target, by the objective's point estimate, among those that lose no more than allowed.

Looks at *validate* only, and at the limits of time, size and memory. Eligible is what was measured, does not `exceed`,
and whose drop as estimated is at most `max_drop`. Of these the best by the objective is taken, and of those that differ
from it by no more than can be told apart the one that loses least; `cannot tell` gives way to `within` there. Accuracy
is never given for a limit of another kind: where none that holds it meets them all, the one that comes nearest enters,
and is said not to.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from optimize.report import Accuracy, Row
from optimize.tables import Constraints, Device

MIB = 2**20


@dataclass(frozen=True)
class Limit:
    """One constraint beside accuracy.

    Attributes:
        most: what is allowed of it.
        value: what a candidate has of it; None where that was not measured.
        words: of a value, for people.
    """

    most: float
    value: Callable[[Row], float | None]
    words: Callable[[float], str]

    def excess(self, row: Row) -> float:
        """By which factor a candidate is above it; 1 or less where it holds it, infinite where that is not known."""
        value = self.value(row)
        return float("inf") if value is None else value / self.most


def limits(asked: Constraints, device: Device, batch: int) -> list[Limit]:
    """The constraints of a recipe beside accuracy; of two of a kind the narrower counts."""
    found = []
    if asked.max_latency_ms is not None:
        found.append(Limit(asked.max_latency_ms, lambda row: ms(row, asked.percentile), lambda v: f"{v:.3g} ms"))
    if asked.min_throughput is not None:  # of samples in time: its inverse is what may not be more

        def seconds(row: Row) -> float | None:
            return None if (taken := ms(row, 50)) is None else taken / 1e3 / batch

        found.append(Limit(1 / asked.min_throughput, seconds, lambda v: f"{1 / v:.4g} samples a second"))
    for most, field in (
        ((asked.max_size_mib, device.flash_mib), "size_bytes"),
        ((asked.max_memory_mib, device.ram_mib), "peak_memory_bytes"),
    ):
        given = [one for one in most if one is not None]
        if given:
            found.append(_in_mib(field, min(given)))
    return found


def ms(row: Row, percentile: int) -> float | None:
    """Milliseconds of a call at a percentile; None where it was not measured."""
    return float(getattr(row.latency, f"p{percentile}_ms")) if row.latency else None


def _in_mib(field: str, most: float) -> Limit:
    what = "of files" if field == "size_bytes" else "of resident memory"
    return Limit(most * MIB, lambda row: getattr(row, field), lambda value: f"{value / MIB:.3g} MiB {what}")


@dataclass(frozen=True)
class Choice:
    """What was chosen for one target.

    Attributes:
        name: of the candidate that enters the bundle; None where there is not even a plain engine.
        why: one sentence.
        closest: the candidate nearest to the constraints, where none holds them all; it is the one that enters where
            it holds the accuracy.
    """

    name: str | None
    why: str
    closest: str | None = None


def choose(
    rows: Sequence[Row], objective: str, max_drop: float, plain: str, margin: float, batch: int = 1,
    bounds: Sequence[Limit] = (), percentile: int = 50, among: Collection[str] = (),
) -> Choice:  # fmt: skip
    """Choose among one target's candidates.

    Args:
        rows: the candidates with `validate` and, where they were measured, `latency`.
        objective: latency, size, memory or throughput.
        max_drop: in the metric's unit.
        plain: the name of the plain fp32 candidate.
        margin: relative difference of the objective that cannot be told apart.
        batch: samples a call, for words only.
        bounds: the constraints beside accuracy.
        percentile: of the latency by which is chosen.
        among: names of those that were looked at again together, before whom no other comes that does as well.
    """
    usable = [row for row in rows if row.status == "measured" and row.validate_ and row.latency]
    if not usable:
        reasons = "; ".join(f"{row.name}: {row.reason or row.status}" for row in rows)
        return Choice(None, f"no candidate could be measured ({reasons})")
    eligible = [row for row in usable if _holds(row.validate_, max_drop)]
    if not eligible:
        closest = min(usable, key=lambda row: lost(row))
        kept = next((row for row in usable if row.name == plain), None)
        why = (
            f"no candidate holds the limit on validate; the closest is {closest.name}, which loses {lost(closest):.4g}"
        )
        return Choice(kept.name if kept else None, f"{why}; the plain engine enters" if kept else why, closest.name)
    met = [row for row in eligible if all(bound.excess(row) <= 1 for bound in bounds)]
    if not met:
        nearest = min(eligible, key=lambda row: max(bound.excess(row) for bound in bounds))
        return Choice(nearest.name, f"no candidate that holds the accuracy {_short(nearest, bounds)}", nearest.name)
    eligible = [row for row in met if row.name in among] or met
    best = min(eligible, key=lambda row: cost(row, objective, percentile))
    enough = cost(best, objective, percentile) * (1 + margin)
    alike = [row for row in eligible if cost(row, objective, percentile) <= enough]
    told = [row for row in alike if row.validate_ and row.validate_.verdict == "within"]
    taken = min(told or alike, key=lambda row: (lost(row), cost(row, objective, percentile)))
    verdict = taken.validate_.verdict if taken.validate_ else None
    sure = "within the limit" if verdict == "within" else "whether it is within the limit cannot be told"
    why = f"{_of(taken, rows, objective, batch, percentile)}; {sure} on validate"
    if taken is not best:
        worse = "loses more there" if best in told or not told else "cannot be told"
        why += f"; {best.name}, as good, {worse}"
    return Choice(taken.name, why)


def pending(
    rows: Sequence[Row], objective: str, max_drop: float, margin: float, bounds: Sequence[Limit] = (),
    percentile: int = 50,
) -> str | None:  # fmt: skip
    """Of one target's candidates, all timed, which is to be judged next; None where no other could be chosen any more.

    `choose` then takes what it would take of all, were they judged, but that the first `within` is enough: of those
    that are as good it need not be the one that loses least. Arguments as there.
    """
    timed = [row for row in rows if row.status == "measured" and row.latency]
    excess = {row.name: max((bound.excess(row) for bound in bounds), default=0.0) for row in timed}
    costs = {row.name: cost(row, objective, percentile) for row in timed}
    best = math.inf
    for row in sorted(timed, key=lambda row: (0, costs[row.name]) if excess[row.name] <= 1 else (1, excess[row.name])):
        own = costs[row.name]
        if best < math.inf and (own > best * (1 + margin) or excess[row.name] > 1):
            return None
        if row.validate_ is None:
            return row.name
        if _holds(row.validate_, max_drop):
            if row.validate_.verdict == "within" or excess[row.name] > 1:
                return None
            best = min(best, own)
    return None


def front(rows: Sequence[Row]) -> list[str]:
    """Names of those that no other beats or equals at once in time, drop on validate and size, by the estimates."""
    timed = [row for row in rows if row.latency and row.validate_]
    seen = {row.name: (cost(row, "latency"), lost(row), row.size_bytes) for row in timed}
    sizes = {name: tuple(math.inf if value is None else value for value in one) for name, one in seen.items()}

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    left = [name for name, own in sizes.items() if not any(beats(other, own) for other in sizes.values())]
    return sorted(left, key=lambda name: sizes[name])


def unbuilt(row: Row, max_drop: float) -> Choice:
    """For a target that cannot be built here: its file travels where it holds the limit."""
    if row.validate_ is None:
        return Choice(None, f"cannot build here ({row.reason}), and its file could not be judged")
    if not _holds(row.validate_, max_drop):
        return Choice(None, f"cannot build here ({row.reason}), and its file loses {lost(row):.4g}", row.name)
    return Choice(
        row.name,
        f"cannot build here ({row.reason}); it travels as its source, accuracy from its Q/DQ file on ONNX Runtime, "
        "latency not measured",
    )


def _holds(validate: Accuracy | None, max_drop: float) -> bool:
    return validate is not None and validate.verdict != "exceeds" and validate.drop <= max_drop


def lost(row: Row) -> float:
    """What a candidate loses on validate; infinite where that is not known, or no number."""
    drop = row.validate_.drop if row.validate_ else None
    return math.inf if drop is None or math.isnan(drop) else drop


def _short(row: Row, bounds: Sequence[Limit]) -> str:
    """What a candidate has where a limit is not met, and how much is allowed."""
    parts = []
    for bound in bounds:
        if bound.excess(row) > 1:
            value = bound.value(row)
            parts.append(f"{'not measured' if value is None else bound.words(value)} where {bound.words(bound.most)}")
    return f"meets all limits; nearest comes {row.name}: {', '.join(parts)} is the limit"


def cost(row: Row, objective: str, percentile: int = 50) -> float:
    """Less is better; throughput is measured at the largest batch, so there too time decides.

    By the median, as a share of the original's in the same rounds where both were seen: two looks, and two contenders
    in one of them, meet a machine of different speed, which the pairs do not see.
    """
    if objective == "size":
        return float(row.size_bytes or "inf")
    if objective == "memory":
        return float(row.peak_memory_bytes or "inf")
    assert row.latency is not None  # its callers looked
    if row.latency.ratio is not None and (objective == "throughput" or percentile == 50):
        return 1 / row.latency.ratio
    found = ms(row, percentile if objective == "latency" else 50)
    assert found is not None
    return found


def _of(row: Row, rows: Sequence[Row], objective: str, batch: int, percentile: int) -> str:
    if objective in ("size", "memory"):
        value = cost(row, objective) / MIB
        shown = f"{value:.2f} MiB" if objective == "size" else f"{value:.0f} MiB resident"
    else:
        taken = ms(row, percentile if objective == "latency" else 50)
        assert taken is not None  # it was chosen by it
        at = "" if percentile == 50 else f"p{percentile} of "
        shown = f"{at}{taken:.3g} ms at batch {batch}"
        if objective == "throughput":
            shown = f"{batch / taken * 1e3:.3g} samples a second at batch {batch}"
    return f"best of {len(rows)} by {objective} ({shown})"
