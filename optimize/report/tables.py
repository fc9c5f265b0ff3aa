"""The tables of report.html: each cell with what it is sorted by, and an empty one with the reason why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optimize.report import Accuracy, Latency, Made, Report, Row, words
from optimize.report.plots import kind as kind_of
from optimize.report.plots import timed

GOOD = ("within", "faster")
BAD = ("exceeds", "slower", "failed", "wrong")
CAUTION = ("cannot tell", "cannot build here", "built, not measured", "dropped")
_LOST = ("failed", "wrong", "dropped", "cannot build here", "built, not measured")


@dataclass(frozen=True)
class Cell:
    """Text, and beside it what is said more quietly; `key` sorts it; without a text, `reason` says why.

    `picture` is a data URL that is shown in place of the text.
    """

    text: str = ""
    beside: str = ""
    key: float | str | None = None
    reason: str = ""
    tone: str = ""
    note: int = 0
    picture: str = ""


@dataclass(frozen=True)
class Line:
    """One row."""

    cells: tuple[Cell, ...]
    kind: str = "candidate"


@dataclass(frozen=True)
class Table:
    """One table; `columns` are its titles, each with whether it holds numbers; `notes` are the reasons in it."""

    name: str
    caption: str
    columns: tuple[tuple[str, bool], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())


def candidates(report: Report) -> Table:
    """All of them, with the original, as the first look and the test split saw them; of a search most on validate."""
    columns = (
        ("candidate", False), ("status", False), (report.data.judged_by, True),
        ("drop [90\u00a0%\u00a0interval]", True),
        ("limit", False), ("p50\u00a0ms", True), ("ratio [95\u00a0%\u00a0interval]", True),
        ("speed", False), ("MiB", True),
    )  # fmt: skip
    lines = []
    for row in (report.original, *report.candidates):
        kind = kind_of(report, row)
        (seen, split), time, base = words.judged(row), row.latency, row is report.original
        yardstick = "the original is the yardstick" if base else ""
        unjudged = why(row, row.reason or "not judged on test")
        lines.append(
            Line(
                (
                    name_cell(row.name, kind),
                    Cell(row.status, key=row.status, tone=tone(row.status)),
                    Cell(reason=unjudged) if seen is None else Cell(value(report, seen.value), split, seen.value),
                    _cell(
                        seen if seen and seen.verdict else None,
                        lambda s: (*drop(report, s), s.drop),
                        yardstick or unjudged,
                    ),
                    _verdict(seen, yardstick or unjudged),
                    _cell(time, lambda t: (f"{t.p50_ms:.3f}", "", t.p50_ms), why(row, "not timed")),
                    _cell(
                        time if time and time.ratio is not None else None,
                        lambda t: (*_split(words.ratio(t)), t.ratio),
                        yardstick or why(row, "not timed"),
                    ),
                    _verdict(time, yardstick or why(row, "not timed")),
                    _size(row.size_bytes, "the original is not one file" if base else why(row, "not known")),
                ),
                kind,
            )
        )
    return noted("candidates", "Candidates", columns, lines)


def latencies(report: Report) -> Table:
    """The percentiles, each with its interval."""
    columns = (
        ("contender", False), ("run", False), ("p50 ms", True), ("p90 ms", True), ("p99 ms", True),
        ("engine only ms", True), ("calls", True), ("rounds", True),
    )  # fmt: skip
    lines = []
    for one in timed(report):
        t = one.latency
        spans = (
            (t.p50_ms, t.p50_interval_ms), (t.p90_ms, t.p90_interval_ms), (t.p99_ms, t.p99_interval_ms),
        )  # fmt: skip
        cells = [Cell(f"{v:.3f}", f"[{low:.3f}, {high:.3f}]", v) for v, (low, high) in spans]
        run = "last run" if one.last else "first look"
        only = number(t.engine_only_ms, "{:.3f}", 1, "its engine did not run without the copies around it")
        counts = (Cell(f"{t.samples:,}", key=t.samples), Cell(str(t.rounds), key=t.rounds))
        lines.append(Line((name_cell(one.row.name, one.kind), Cell(run, key=run), *cells, only, *counts), one.kind))
    return noted("latencies", "Latency of a call", columns, lines)


def ran(report: Report) -> Table:
    """What each engine truly ran, and what it took."""
    columns = (
        ("candidate", False), ("engine", False), ("precision", False), ("options", False), ("threads", True),
        ("cold start ms", True), ("peak memory MiB", True),
    )  # fmt: skip
    lines = []
    for row in (report.original, *report.candidates):
        kind = kind_of(report, row)
        base = row is report.original
        options = ", ".join(f"{key} {value}" for key, value in row.options.items())
        lines.append(
            Line(
                (
                    name_cell(row.name, kind),
                    Cell(row.engine, key=row.engine),
                    Cell(
                        row.precision, key=row.precision,
                        reason="as its framework runs it" if base else why(row, "not known"),
                    ),
                    Cell(options, key=options, reason="as its framework runs it" if base else "its engine's defaults"),
                    number(row.threads, "{:d}", 1, why(row, "not timed")),
                    number(row.cold_start_ms, "{:.0f}", 1, why(row, "not timed")),
                    number(row.peak_memory_bytes, "{:.0f}", 2**20, why(row, "could not be read")),
                ),
                kind,
            )
        )  # fmt: skip
    return noted("ran", "What ran", columns, lines)


def made(report: Report) -> Table:
    """What each step did to the model, beside the step before; what candidates have in common stands there once.

    The first line is the original.

    Accuracy belongs to a whole list of steps: it stands at the last one.
    """
    columns = (
        ("step", False), ("of", False), ("MiB", True), ("parameters", True), ("MACs", True),
        (report.data.judged_by, True), ("signal to noise dB", True), ("seconds", True),
    )  # fmt: skip
    shared: dict[str, list[tuple[Row, int]]] = {}  # by all that was done up to here, the time it took included
    for row in (report.original, *report.candidates):
        for i in range(len(row.made)):
            done = "\n".join(step.model_dump_json() for step in row.made[: i + 1])
            shared.setdefault(done, []).append((row, i))
    everyone = sum(bool(row.made) for row in report.candidates)
    lines = []
    for place, users in enumerate(shared.values()):
        row, i = users[0]
        step, before = row.made[i], next(iter((row.made[:i] or report.original.made)[-1:]), None)
        names = "all" if len(users) == everyone > 1 else ", ".join(user.name for user, _ in users)
        chosen = all(kind_of(report, user) == "chosen" for user, _ in users)
        cells = (
            Cell(step.use, key=f"{place:04d}"),
            Cell(names, key=names),
            _changed(step, before, "size_bytes", "{:.2f}", 2**20),
            _changed(step, before, "parameters", "{:,d}", 1),
            _changed(step, before, "macs", "{:,d}", 1),
            _reached(report, [user for user, at in users if at == len(user.made) - 1]),
            number(step.signal_to_noise_db, "{:.1f}", 1, "only for steps that change the model's numbers"),
            replace(
                number(step.seconds, "{:.1f}", 1, "nothing was done"), beside="in an earlier run" if step.cached else ""
            ),
        )
        lines.append(Line(cells, "chosen" if chosen else "candidate"))
    return noted("made", "What each step did", columns, lines)


def _reached(report: Report, rows: Sequence[Row]) -> Cell:
    """The accuracy of those whose last step this is; from the least to the most, where engines differ."""
    values = sorted(row.accuracy.value for row in rows if row.accuracy)
    if not values:
        return Cell(reason=why(rows[0], "not judged on test") if rows else "judged after the last step, on the engine")
    ends = dict.fromkeys(value(report, one) for one in (values[0], values[-1]))
    return Cell(" to ".join(ends), key=values[0])


def noted(name: str, caption: str, columns: Sequence[tuple[str, bool]], lines: Sequence[Line]) -> Table:
    """Number the reasons for empty cells, each once, in the order of reading."""
    reasons: dict[str, int] = {}
    numbered = []
    for line in lines:
        cells = []
        for cell in line.cells:
            if cell.text:
                cells.append(cell)
                continue
            note = reasons.setdefault(cell.reason or "not known", len(reasons) + 1)
            cells.append(Cell(reason=cell.reason or "not known", note=note))
        numbered.append(Line(tuple(cells), line.kind))
    return Table(name, caption, tuple(columns), tuple(numbered), tuple(reasons))


def name_cell(name: str, kind: str) -> Cell:
    """A contender's name."""
    return Cell(name, "chosen" if kind == "chosen" else "", name)


def why(row: Row, otherwise: str) -> str:
    """Why a row has no figure: what became of it, or what holds for one that was measured."""
    return f"{row.status}: {row.reason}" if row.status in _LOST and row.reason else otherwise


def _cell(part: Any, show: Callable[[Any], tuple[str, str, float | None]], reason: str) -> Cell:
    if part is None:
        return Cell(reason=reason)
    return Cell(*show(part))


def _verdict(part: Accuracy | Latency | None, reason: str) -> Cell:
    verdict = part.verdict if part else None
    return Cell(verdict, key=verdict, tone=tone(verdict)) if verdict else Cell(reason=reason)


def tone(word: str) -> str:
    """Whether a verdict or status is good or bad news."""
    return "good" if word in GOOD else "bad" if word in BAD else "caution" if word in CAUTION else ""


def number(value: float | None, form: str, divisor: int, reason: str) -> Cell:
    """A figure over a divisor, or the reason why there is none."""
    if value is None:
        return Cell(reason=reason)
    return Cell(form.format(value / divisor if divisor > 1 else value), key=value)


def _size(value: int | None, reason: str) -> Cell:
    return number(value, "{:.2f}", 2**20, reason)


def _changed(step: Made, before: Made | None, what: str, form: str, divisor: int) -> Cell:
    """A figure of a step, and beside it by how much it differs from the step before."""
    value = getattr(step, what)
    old = getattr(before, what) if before else None
    cell = number(value, form, divisor, "not counted")
    if not value or not old or abs(value / old - 1) < 0.0005:
        return cell
    return Cell(cell.text, f"{(value / old - 1) * 100:+.1f} %".replace("-", "−"), cell.key)


def value(report: Report, value: float) -> str:
    """A value of the metric: percent where it is a share."""
    return f"{value:.2%}" if report.data.unit == "share" else f"{value:.5g}"


def drop(report: Report, seen: Accuracy) -> tuple[str, str]:
    """A drop, and its interval."""
    figure, interval = _split(words.interval(report, seen))
    unit = " pp" if report.data.unit == "share" else ""
    return figure + unit, interval.removesuffix(unit)


def _split(text: str) -> tuple[str, str]:
    """A figure and its interval apart, in the signs that print has for minus and times."""
    figure, _, interval = text.replace("-", "−").replace(" x", " ×").partition(" [")
    return figure, f"[{interval}"
