"""The table of report.html with a column a device: unlike machines stand side by side, never in one ratio."""

from optimize.report import Report
from optimize.report.tables import Cell, Line, Table, noted, tone

LONGEST = 24  # letters of a device's name in a title; the line below the table has it whole


def timings(report: Report) -> Table:
    """The bundle's engines, as each device measured them; ratios are within a device, to the plain model there."""
    columns = [("engine", False)]
    for device in report.devices:
        name = device.device if len(device.device) <= LONGEST else f"{device.device[: LONGEST - 1]}…"
        columns += [(f"{name}: p50 ms", True), (f"{name}: ratio", True)]
    names = dict.fromkeys(name for device in report.devices for name in (*device.engines, *device.failed))
    lines = []
    for name in names:
        cells = [Cell(name, key=name)]
        for device in report.devices:
            seen = device.engines.get(name)
            if seen is None:
                reason = device.failed.get(name, "does not run there")
                cells += [Cell(reason=reason), Cell(reason=reason)]
                continue
            low, high = seen.p50_interval_ms
            value, least, most = seen.ratio
            cells.append(Cell(f"{seen.p50_ms:.3f}", f"[{low:.3f}, {high:.3f}]", seen.p50_ms))
            if seen.verdict == "the base":
                cells.append(Cell(reason="with it the others are compared"))
            else:
                cells.append(
                    Cell(f"{value:.2f} ×", f"[{least:.2f}, {most:.2f}] {seen.verdict}", value, tone=tone(seen.verdict))
                )
        lines.append(Line(tuple(cells)))
    return noted("devices", "On devices", tuple(columns), lines)
