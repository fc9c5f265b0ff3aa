"""The tables of report.html that say why: each layer's time and precision, its noise, what it brings in float."""

from optimize.report import LayerTime, Report, Row, words
from optimize.report.tables import Cell, Line, Table, noted

NOISIEST = 12


def layers(row: Row) -> Table:
    """The costliest layers of an engine, as its own profile has them."""
    columns = (
        ("layer", False), ("op", False), ("ms a call", True), ("share", True), ("precision", False), ("what", False),
        ("fused into it", True), ("kernel", False),
    )  # fmt: skip
    seen = row.explained
    assert seen is not None
    assert seen.total_ms is not None
    lines = [Line(_layer(one, seen.total_ms)) for one in seen.layers]
    return Table(f"layers-{row.name}", f"The costliest layers of {row.name}", columns, tuple(lines))


def noise(row: Row) -> Table:
    """The layers at which most of the signal was lost."""
    columns = (("layer", False), ("op", False), ("dB before it", True), ("dB after it", True), ("new noise", True))
    lines = [
        Line(
            (
                Cell(one.name, key=one.name),
                Cell(one.op, key=one.op),
                Cell(f"{one.before_db:.1f}", key=one.before_db),
                Cell(f"{one.sqnr_db:.1f}", key=one.sqnr_db),
                Cell(f"{one.added:.2%}", key=one.added),
            )
        )
        for one in row.noise[:NOISIEST]
    ]
    return Table(f"noise-{row.name}", f"Where {row.name} lost most of the signal", columns, tuple(lines))


def sensitivity(report: Report, row: Row) -> Table:
    """The layers that the model minds most, each alone in int8."""
    columns = (("layer", False), ("op", False), ("signal to noise dB", True), ("drop", True))
    lines = [
        Line(
            (
                Cell(one.name, key=one.name),
                Cell(one.op, key=one.op),
                Cell(f"{one.sqnr_db:.1f}", key=one.sqnr_db),
                Cell("" if one.drop is None else words.figure(report, one.drop), key=one.drop, reason="not measured"),
            )
        )
        for one in row.sensitivity[:NOISIEST]
    ]
    return noted(f"minded-{row.name}", f"Layers of {row.name}, each alone in int8", columns, lines)


def repair(row: Row) -> Table:
    """Every layer that was tried by itself in float: what it regains and costs, best first."""
    columns = (("layer", False), ("op", False), ("noise regained", True), ("ms lost", True), ("in float", False))
    lines = [
        Line(
            (
                Cell(one.name, key=one.name),
                Cell(one.op, key=one.op),
                Cell(f"{one.regained:.1%}", key=one.regained),
                Cell("" if one.ms is None else f"{one.ms:.4f}", key=one.ms, reason="not measured"),
                Cell("yes" if one.returned else "no", key=one.returned),
            )
        )
        for one in row.repair
    ]
    return Table(f"repair-{row.name}", f"Layers of {row.name} in float, each alone", columns, tuple(lines))


def _layer(one: LayerTime, total: float) -> tuple[Cell, ...]:
    return (
        Cell(one.name, key=one.name),
        Cell(one.op, key=one.op),
        Cell(f"{one.ms:.4f}", key=one.ms),
        Cell(f"{one.ms / total:.1%}", key=one.ms),
        Cell(one.precision, key=one.precision),
        Cell({"compute": "computes", "convert": "converts", "move": "moves"}[one.kind], key=one.kind),
        Cell(str(one.fused), key=one.fused),
        Cell(one.kernel, key=one.kernel, reason="not told"),
    )
