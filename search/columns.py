"""Tables with as many columns as a window has room for, none of them cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2  # blanks between columns
Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """Of a table whose rows are of one kind."""

    name: str
    cell: Callable[[Row], str | Text]
    keep: int
    """Where the window is narrow, columns with the smallest number go first."""
    right: bool = False


def fitting(columns: Sequence[Column[Row]], rows: Sequence[Row], width: int) -> Table:
    """A table of the columns that a window of so many characters has room for, at least two."""
    cells = {column: [column.cell(row) for row in rows] for column in columns}
    widths = {c: max(map(cell_len, [*c.name.split("\n"), *map(str, of)])) for c, of in cells.items()}

    def too_wide() -> bool:
        return sum(widths[column] + GAP for column in cells) > width + GAP

    while len(cells) > 2 and too_wide():
        del cells[min(cells, key=lambda column: column.keep)]
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in cells:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.name, justify=justify, no_wrap=not too_wide(), overflow="fold")
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    return table
