"""Tables of text: with rules on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


class Table:
    """Table with headings and rows of text."""

    def __init__(self, headings: Sequence[str]) -> None:
        self._headings = headings
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: str) -> None:
        """Add a row with one cell per heading."""
        self._rows.append(cells)

    def show(self) -> None:
        """Print the table."""
        console = Console()
        if not console.is_terminal:
            widths = [max(map(len, column)) for column in zip(self._headings, *self._rows, strict=True)]
            for row in (self._headings, *self._rows):
                print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            return
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in self._headings:
            table.add_column(heading, overflow="fold")
        for row in self._rows:
            table.add_row(*map(Text, row))  # text, because brackets of spaces would be read as markup
        console.print(table)
