"""What report.html shows as pictures: collected here from a report, drawn by optimize.report.drawing."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimize.report import Accuracy, Latency, Report, Row, words
from runtime.errors import WorkError

LIMIT_S = 120
# the page's colours, for a picture that stands alone
LIGHT = "--ink:#1c2227;--muted:#59636b;--line:#e0ded6;--accent:#0b5f73;--surface:#fffefb;--bad:#a32018"
DARK = "--ink:#e6e9ea;--muted:#a0abb3;--line:#313a42;--accent:#74c3d4;--surface:#1a2026;--bad:#ff9b8f"


@dataclass(frozen=True)
class Plots:
    """SVG texts by name (`scatter_wide`, `scatter_narrow`, `distributions_wide` ...), and why one is not there."""

    svg: dict[str, str] = field(default_factory=dict)
    why_not: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Timed:
    """A contender's latency as it is shown: of the last run where it was in that, else of the first look."""

    row: Row
    kind: str
    latency: Latency
    last: bool


def draw(report: Report) -> Plots:
    """Draw what there are figures for; where drawing fails, the page says so and the run goes on."""
    return _drawn({"scatter": _scatter(report), "distributions": _distributions(report)})


def throughput(rows: Sequence[Mapping[str, Any]]) -> str:
    """A picture of its own, as SVG, of what `optimize bench` found of throughput; follows the viewer's light or dark.

    Raises:
        WorkError: nothing ran, or it could not be drawn.
    """
    ran = [row for row in rows if "failed" not in row]
    if not ran:
        raise WorkError(f"there is no throughput to draw: {rows[0]['failed'] if rows else 'none was asked for'}")
    varied = {name: len({row[name] for row in ran}) for name in ("batch", "streams", "threads")}
    over = max(varied, key=lambda name: varied[name])
    series: dict[str, list[Any]] = {}
    for row in ran:
        rest = [f"{row[name]} {name}" if name != "batch" else f"batch {row[name]}" for name in varied if name != over]
        label = ", ".join([row["contender"], *rest])
        series.setdefault(label, []).append([row[over], row["samples_a_second"], row["least"], row["most"]])
    lines = [{"label": label, "points": points} for label, points in series.items()]
    words = {"batch": "samples a call", "streams": "calls at once", "threads": "threads a call"}[over]
    drawn = _drawn({"throughput": {"over": words, "series": lines}})
    if drawn.why_not:
        raise WorkError(f"the throughput: {drawn.why_not['throughput']}")
    style = f"<style>svg{{{LIGHT};background:var(--surface);font-family:sans-serif}}"
    style += f"@media(prefers-color-scheme:dark){{svg{{{DARK}}}}}</style>"
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    text = drawn.svg["throughput_wide"].replace("<svg", head, 1)
    return text.replace(">", f">{style}", 1) + "\n"


def write_throughput(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """`throughput` into a file; raises WorkError where it cannot be drawn or written."""
    try:
        path.write_text(throughput(rows), encoding="utf-8")
    except OSError as error:
        raise WorkError(f"{path} cannot be written: {error.strerror}") from error


def _drawn(asked: Mapping[str, Any]) -> Plots:
    why_not = {name: "there are no figures for it" for name, data in asked.items() if data is None}
    if len(why_not) == len(asked):
        return Plots(why_not=why_not)
    here = str(Path(__file__).resolve().parent.parent.parent)
    with tempfile.TemporaryDirectory(prefix="plots-") as settings:  # matplotlib's font list goes there, and with it
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "optimize.report.drawing"],
                input=json.dumps(asked), capture_output=True, text=True, encoding="utf-8", timeout=LIMIT_S, check=True,
                env={
                    **os.environ, "MPLCONFIGDIR": settings, "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8",
                    "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)]),
                },
            )  # fmt: skip
            return Plots(json.loads(done.stdout), why_not)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
            reason = f"it could not be drawn: {said[-1]}"
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            reason = f"it could not be drawn: {error}"
    return Plots(why_not={name: reason for name in asked} | why_not)


def timed(report: Report) -> list[Timed]:
    """The original and each candidate that was timed; the original and the chosen ones from the last run."""
    last = {final.name: final.latency for final in report.headline.targets.values()} if report.headline else {}
    if report.headline:
        last[report.original.name] = report.headline.original
    found = []
    for row in (report.original, *report.candidates):
        latency = last.get(row.name) or row.latency
        if latency:
            found.append(Timed(row, kind(report, row), latency, row.name in last))
    return found


def kind(report: Report, row: Row) -> str:
    """original, chosen or candidate."""
    if row is report.original:
        return "original"
    return "chosen" if row.name in report.chosen.values() else "candidate"


def _scatter(report: Report) -> dict[str, Any] | None:
    """Of the first look, in which all were measured in the same rounds; on validate where test did not see all."""
    rows = [row for row in (report.original, *report.candidates) if row.latency]
    on_test = report.original.validate_ is None or not any(words.judged(row)[1] for row in rows)
    judged = [(row, row.accuracy if on_test else row.validate_) for row in rows]
    base = report.original.accuracy if on_test else report.original.validate_
    if base is None:
        return None
    yardstick, higher = base.value, report.data.higher_is_better
    points = []
    for row, seen in judged:
        if not (row.latency and seen and math.isfinite(seen.value)):
            continue
        points.append(
            {
                "label": row.name, "kind": kind(report, row), "x": row.latency.p50_ms,
                "x_interval": _finite(row.latency.p50_interval_ms, row.latency.p50_ms),
                "y": seen.value, "y_interval": values_of(seen, yardstick, higher),
            }
        )  # fmt: skip
    if len(points) < 2:
        return None
    share = report.data.unit == "share"
    unit = "%" if share else report.data.unit
    better = "up is better" if higher else "up is better: lower values"
    split = "test" if on_test else "validate"
    return {
        "points": points, "percent": share, "higher_is_better": higher,
        "limit": yardstick - report.max_drop if higher else yardstick + report.max_drop,
        "limit_label": f"limit: {words.drop_limit(report)} below the original"
        if higher
        else f"limit: {words.drop_limit(report)} above the original",
        "y_label": f"{report.data.judged_by}{f', {unit}' if unit else ''} on {split} ({better})",
    }  # fmt: skip


def values_of(seen: Accuracy, yardstick: float, higher: bool) -> list[float]:
    """The interval of a drop as values of the metric; the original has none."""
    if seen.verdict is None:
        return [seen.value, seen.value]
    ends = (yardstick - seen.high, yardstick - seen.low) if higher else (yardstick + seen.low, yardstick + seen.high)
    return _finite(ends, seen.value)


def _finite(ends: tuple[float, float], instead: float) -> list[float]:
    return [end if math.isfinite(end) else instead for end in ends]


def _distributions(report: Report) -> dict[str, Any] | None:
    rows = []
    for one in sorted(timed(report), key=lambda one: one.latency.p50_ms):
        ms = [ns / 1e6 for calls in one.latency.raw for ns in calls if ns > 0]
        if ms:
            rows.append(
                {
                    "label": one.row.name + ("" if one.last else " (first look)"), "kind": one.kind, "ms": ms,
                    "p50": one.latency.p50_ms, "p90": one.latency.p90_ms, "p99": one.latency.p99_ms,
                }
            )  # fmt: skip
    return {"rows": rows} if rows else None
