"""A nested table of results on a terminal: keys and values, rows of equal keys as columns."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show(found: dict[str, Any]) -> None:
    """Print a result; a dict of dicts becomes a table with a row each."""
    console = Console(highlight=False, soft_wrap=True)
    for key, value in found.items():
        if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            columns = list(dict.fromkeys(name for row in value.values() for name in row))
            table = Table(box=None, padding=(0, 1), header_style="bold")
            for name in (key, *columns):
                table.add_column(name.replace("_", " "), overflow="fold")
            for name, row in value.items():
                table.add_row(name, *(Text(_cell(row.get(column))) for column in columns))
            console.print(table)
        else:
            console.print(Text(f"{key.replace('_', ' ')}: {_cell(value)}"))


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
