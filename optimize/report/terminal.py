"""The report on a terminal, or in a pipe."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optimize.report import Report, words

_COLOURS = {
    "within": "green", "faster": "green", "measured": "", "no difference": "", "cannot tell": "yellow",
    "exceeds": "red", "slower": "red", "failed": "red", "wrong": "red", "cannot build here": "yellow",
}  # fmt: skip
PIPE_WIDTH = 160  # where there is no terminal to fit into


def show(report: Report, out: Path) -> None:
    """Print the first lines, the table, the chosen ones and why, where things lie and how to load them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    for line in words.first_lines(report):
        console.print(Text(line, style="bold yellow"))
    header, *rows = words.table(report)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in (2, 5, 8) else "left", no_wrap=i in (0, 3, 6))
    for cells in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
    console.print(table)
    console.print(Text(words.measured_how(report), style="dim"))
    for line in words.headline(report):
        console.print(Text(line, style="bold"))
    for line in words.pareto(report):
        console.print(Text(line, style="dim"))
    reports = ", ".join(str(out / name) for name in ("report.html", "report.md", "report.json"))
    if report.bundle:
        bundle = out / report.bundle
        console.print(f"bundle  {bundle}\nreport  {reports}\n")
        for line in words.load_lines(str(bundle), bool(report.states)):
            console.print(Text(f"    {line}"))
    else:
        console.print(f"no bundle; report  {reports}")
