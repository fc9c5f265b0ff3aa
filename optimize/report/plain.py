"""Results of a command on a terminal: keys and values, and a dict of dicts as a table with a row each."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200


def show(found: dict[str, Any]) -> None:
    """Print a result; a table that is too wide for the terminal becomes one block a row."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, soft_wrap=True, width=PIPE_WIDTH)
    for key, value in found.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            value = {str(number): row for number, row in enumerate(value, 1)}
        if not (isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values())):
            console.print(Text(f"{key.replace('_', ' ')}: {_cell(value)}"))
            continue
        columns = [key, *dict.fromkeys(name for row in value.values() for name in row)]
        rows = [[name, *(_cell(row.get(column)) for column in columns[1:])] for name, row in value.items()]
        titles = [column.replace("_", " ") for column in columns]
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        if sum(widths) + 2 * len(widths) <= console.width:
            table = Table(box=None, padding=(0, 1), header_style="bold")
            for title in titles:
                table.add_column(title, no_wrap=True)
            for cells in rows:
                table.add_row(*map(Text, cells))
            console.print(table)
            continue
        for cells in rows:
            console.print(Text(cells[0], style="bold"))
            for title, cell in zip(titles[1:], cells[1:], strict=True):
                if cell:
                    console.print(Text(f"    {title}: {cell}"))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return str(value)
