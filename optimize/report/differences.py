"""The tables of report.html that say where the accuracy went: answers, classes, flipped samples."""

import re

from optimize.report import Detail, Report, Row
from optimize.report.plots import kind as kind_of
from optimize.report.tables import Cell, Line, Table, name_cell, noted, number, why

_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
_MANY = "more than one number"
CLASSES = 10  # shown of each chosen candidate


def answers(report: Report) -> Table:
    """How each candidate's answers on test differ from the original's."""
    columns = (
        ("candidate", False), ("called alike", True), ("flipped", True), ("became wrong", True), ("became right", True),
        ("calibration error", True), ("outputs’ SQNR dB", True), ("cosine", True),
    )  # fmt: skip
    lines: list[Line] = []
    rows = (report.original, *report.candidates)
    for row in rows if any(row.detail for row in rows) else ():
        seen, base = row.detail or Detail(), row is report.original
        reason = "the original is the yardstick" if base else why(row, "its outputs are no class scores")
        cells = (
            number(seen.agreement, "{:.2%}", 1, reason),
            number(seen.flipped, "{:,d}", 1, reason),
            number(seen.lost, "{:,d}", 1, reason if seen.agreement is None else "no labels"),
            number(seen.won, "{:,d}", 1, reason if seen.agreement is None else "no labels"),
            number(seen.calibration_error, "{:.2%}", 1, "no labels, or no class scores"),
            number(seen.sqnr_db, "{:.1f}", 1, "equal to the last bit, or no real numbers"),
            number(seen.cosine, "{:.5f}", 1, "no real numbers"),
        )
        kind = kind_of(report, row)
        lines.append(Line((name_cell(row.name, kind), *cells), kind))
    return noted("answers", "How the answers differ", columns, lines)


def classes(report: Report) -> Table:
    """The classes on which the chosen ones lost most."""
    columns = (
        ("candidate", False),
        ("class", True),
        ("samples", True),
        ("original", True),
        ("now", True),
        ("pp", True),
    )
    lines = []
    for row in _chosen(report):
        lost = [one for one in (row.detail.classes if row.detail else []) if one.after < one.before]
        for one in lost[:CLASSES]:
            gain = (one.after - one.before) * 100
            cells = (
                Cell(row.name, key=row.name),
                Cell(str(one.number), key=one.number),
                Cell(f"{one.samples:,}", key=one.samples),
                Cell(f"{one.before:.1%}", key=one.before),
                Cell(f"{one.after:.1%}", key=one.after),
                Cell(f"{gain:+.1f}".replace("-", "−"), key=gain),
            )
            lines.append(Line(cells))
    return Table("classes", "The classes that lost most", columns, tuple(lines))


def flips(report: Report) -> Table:
    """The samples that the chosen ones call otherwise, those first of which the original was surest."""
    columns = (
        ("candidate", False), ("sample", True), ("shown", False), ("label", True), ("original said", True),
        ("now says", True),
    )  # fmt: skip
    lines = []
    for row in _chosen(report):
        for one in row.detail.flips if row.detail else []:
            picture = one.shown if _PICTURE.fullmatch(one.shown) else ""
            right = one.label is not None and one.label in (one.before, one.after)
            tone = "" if not right else "bad" if one.label == one.before else "good"
            cells = (
                Cell(row.name, key=row.name),
                Cell(f"{one.sample:,}", key=one.sample),
                Cell(f"sample {one.sample}" if picture else one.shown, picture=picture, reason="not kept"),
                number(one.label, "{:d}", 1, "no labels"),
                Cell(str(one.before), _sure(one.confidence_before), one.before),
                Cell(str(one.after), _sure(one.confidence_after), one.after, tone=tone),
            )
            lines.append(Line(cells))
    return noted("flips", "Samples called otherwise", columns, lines)


def moved(report: Report) -> Table:
    """The samples of the chosen ones whose answer, no class scores, moved furthest from the original's."""
    columns = (
        ("candidate", False), ("sample", True), ("shown", False), ("label", True), ("original said", True),
        ("now says", True), ("moved by", True),
    )  # fmt: skip
    lines = []
    for row in _chosen(report):
        for one in row.detail.moved if row.detail else []:
            picture = one.shown if _PICTURE.fullmatch(one.shown) else ""
            alone = one.before is not None
            cells = (
                Cell(row.name, key=row.name),
                Cell(f"{one.sample:,}", key=one.sample),
                Cell(f"sample {one.sample}" if picture else one.shown, picture=picture, reason="not kept"),
                number(one.label, "{:.4g}", 1, "no labels" if alone else _MANY),
                number(one.before, "{:.4g}", 1, _MANY),
                number(one.after, "{:.4g}", 1, _MANY),
                Cell(f"{one.share:.3g}" if alone else f"{one.share:.2%}", key=one.share),
            )
            lines.append(Line(cells))
    return noted("moved", "Samples whose answer moved most", columns, lines)


def _sure(confidence: float | None) -> str:
    return "" if confidence is None else f"{confidence:.0%} sure"


def _chosen(report: Report) -> list[Row]:
    return [row for row in report.candidates if row.name in report.chosen.values()]
