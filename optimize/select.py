"""The choice: one candidate a target, by the objective's point estimate, among those that lose no more than allowed.

Looks at *validate* only. Eligible is what was measured, does not `exceed`, and whose drop as estimated is at most
`max_drop`. Of these the best by the objective is taken. `cannot tell` gives way to `within` where it is not truly
better: where the objective's difference lies inside what can be told apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from optimize.report import Accuracy, Row


@dataclass(frozen=True)
class Choice:
    """What was chosen for one target.

    Attributes:
        name: of the candidate that enters the bundle; None where there is not even a plain engine.
        why: one sentence.
        closest: the candidate nearest to the constraint, where none holds it.
    """

    name: str | None
    why: str
    closest: str | None = None


def choose(rows: Sequence[Row], objective: str, max_drop: float, plain: str, margin: float, batch: int = 1) -> Choice:
    """Choose among one target's candidates.

    Args:
        rows: the candidates with `validate` and, where they were measured, `latency`.
        objective: latency, size, memory or throughput.
        max_drop: in the metric's unit.
        plain: the name of the plain fp32 candidate.
        margin: relative difference of the objective that cannot be told apart.
        batch: samples a call, for words only.
    """
    usable = [row for row in rows if row.status == "measured" and row.validate_ and row.latency]
    if not usable:
        reasons = "; ".join(f"{row.name}: {row.reason or row.status}" for row in rows)
        return Choice(None, f"no candidate could be measured ({reasons})")
    eligible = [row for row in usable if _holds(row.validate_, max_drop)]
    if not eligible:
        closest = min(usable, key=lambda row: _drop(row))
        kept = next((row for row in usable if row.name == plain), None)
        why = (
            f"no candidate holds the limit on validate; the closest is {closest.name}, which loses {_drop(closest):.4g}"
        )
        return Choice(kept.name if kept else None, f"{why}; the plain engine enters" if kept else why, closest.name)
    best = min(eligible, key=lambda row: _cost(row, objective))
    told = [row for row in eligible if row.validate_ and row.validate_.verdict == "within"]
    if told and best not in told:
        safe = min(told, key=lambda row: _cost(row, objective))
        if _cost(safe, objective) <= _cost(best, objective) * (1 + margin):
            why = f"{_of(safe, rows, objective, batch)}, and within the limit; {best.name}, as good, cannot be told"
            return Choice(safe.name, why)
    verdict = best.validate_.verdict if best.validate_ else None
    sure = "within the limit" if verdict == "within" else "whether it is within the limit cannot be told"
    return Choice(best.name, f"{_of(best, rows, objective, batch)}; {sure} on validate")


def unbuilt(row: Row, max_drop: float) -> Choice:
    """For a target that cannot be built here: its file travels where it holds the limit."""
    if row.validate_ is None:
        return Choice(None, f"cannot build here ({row.reason}), and its file could not be judged")
    if not _holds(row.validate_, max_drop):
        return Choice(None, f"cannot build here ({row.reason}), and its file loses {_drop(row):.4g}", row.name)
    return Choice(
        row.name,
        f"cannot build here ({row.reason}); it travels as its source, accuracy from its Q/DQ file on ONNX Runtime, "
        "latency not measured",
    )


def _holds(validate: Accuracy | None, max_drop: float) -> bool:
    return validate is not None and validate.verdict != "exceeds" and validate.drop <= max_drop


def _drop(row: Row) -> float:
    return row.validate_.drop if row.validate_ else float("inf")


def _cost(row: Row, objective: str) -> float:
    """Less is better; throughput is measured at the largest batch, so there too time decides."""
    if objective == "size":
        return float(row.size_bytes or "inf")
    if objective == "memory":
        return float(row.peak_memory_bytes or "inf")
    assert row.latency
    return row.latency.p50_ms


def _of(row: Row, rows: Sequence[Row], objective: str, batch: int) -> str:
    cost = _cost(row, objective)
    if objective == "latency":
        shown = f"{cost:.3g} ms at batch {batch}"
    elif objective == "throughput":
        shown = f"{batch / cost * 1e3:.3g} samples a second at batch {batch}"
    else:
        shown = f"{cost / 2**20:.2f} MiB" if objective == "size" else f"{cost / 2**20:.0f} MiB resident"
    return f"best of {len(rows)} by {objective} ({shown})"
