"""What commands print: tables and text that cannot disturb the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text


def out() -> Console:
    """Standard output, as it is when a command runs."""
    return Console()


def note(message: str) -> None:
    """One line for people on standard error, so that standard output stays a command's result."""
    print(message, file=sys.stderr, flush=True)  # rich puts it above the bars that it shows there


def plain(value: object) -> Text:
    """A cell with someone else's text: no markup, and no control characters for the terminal."""
    text = str(value)
    return Text("".join(c if c.isprintable() else " " for c in text))


def facts(rows: dict[str, object]) -> Table:
    """Two columns, names and values."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, plain(value))
    return table
