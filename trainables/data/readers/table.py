"""Reads a CSV table, with row numbers as a spreadsheet shows them (the header is row 1)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spaces.mistakes import nearest
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root


@dataclass(frozen=True)
class Table:
    """Cells by column, without surrounding blanks."""

    name: str
    """For messages: the file relative to the dataset's root, after the dataset's name where that was given."""
    columns: dict[str, list[str]]
    rows: list[int]
    """Row number of each entry."""

    def cells(self, column: str) -> list[tuple[int, str]]:
        """Row numbers and cells; none where the column is missing."""
        return list(zip(self.rows, self.columns[column], strict=True)) if column in self.columns else []


def read_table(root: Path, name: str, needed: Iterable[str]) -> Table:
    """Reads `root/name` in UTF-8, with or without a byte order mark. Newlines may stand inside quotes.

    Args:
        needed: columns that must be there.

    Raises:
        Mistake: no such file, not a table, missing or repeated columns, nothing in it, rows of another length.
    """
    problems = Problems(name)
    table = try_table(root, name, needed, problems)
    problems.raise_if_any()
    return table


def try_table(root: Path, name: str, needed: Iterable[str], problems: Problems, dataset: str = "") -> Table:
    """As `read_table`, but adds what is wrong to `problems`, and gives what can be used in spite of it: rows that are
    as long as the header, and those columns that are there.

    Args:
        dataset: name of the dataset, which then begins every sentence and the table's name in messages.
    """
    said = f"{dataset}: {name}" if dataset else name
    records = _records(root, name, problems, said)
    if not records:
        return Table(said, {}, [])
    header = [cell.strip() for cell in records[0]]
    for column in needed:
        if column not in header:
            problems.add("missing columns", f'{said}: column "{column}" is missing.{nearest(column, header)}')
    for column in sorted({c for c in header if c and header.count(c) > 1}):
        problems.add("repeated columns", f'{said}: column "{column}" stands twice in the header; rename one.')
    rows: list[int] = []
    columns: list[list[str]] = [[] for _ in header]
    known: dict[str, str] = {}  # of cells that repeat, which most do, one string instead of millions
    blank = 0
    for number, record in enumerate(records[1:], start=2):
        cells = [cell.strip() for cell in record]
        if not any(cells):
            blank += 1
        elif len(cells) != len(header):
            sentence = f"{said} row {number}: expected {len(header)} cells as in the header, found {len(cells)}."
            problems.add("rows of another length", sentence)
        else:
            rows.append(number)
            for of_column, cell in zip(columns, cells, strict=True):
                of_column.append(known.setdefault(cell, cell))
    if blank == len(records) - 1:
        problems.add("empty tables", f"{said}: has a header but no rows; expected a row for each image.")
    return Table(said, dict(zip(reversed(header), reversed(columns), strict=True)), rows)  # of repeated ones the first


def _records(root: Path, name: str, problems: Problems, said: str) -> list[list[str]]:
    kind = "tables that can't be read"
    if reason := Root(root).problem(name):
        problems.add(kind, f"{said}: {reason}.")
        return []
    try:
        with (root / name).open(encoding="utf-8-sig", newline="") as file:
            records = list(csv.reader(file, strict=True))
    except UnicodeDecodeError:
        problems.add(kind, f"{said}: not UTF-8 text; save the table as CSV in UTF-8.")
        return []
    except csv.Error as error:
        problems.add(kind, f"{said}: not a CSV table ({error}); save it as CSV.")
        return []
    except OSError as error:
        problems.add(kind, f"{said}: can't be read ({error.strerror}); give this user the right to.")
        return []
    if not records:
        problems.add(kind, f"{said}: empty; expected a header and a row for each image.")
    return records
