"""Reads a CSV table, with row numbers as a spreadsheet shows them (the header is row 1)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spaces.mistakes import Mistake, nearest
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root


@dataclass(frozen=True)
class Table:
    """Cells by column, without surrounding blanks."""

    name: str
    """File name for messages, relative to the dataset's root."""
    columns: dict[str, list[str]]
    rows: list[int]
    """Row number of each entry."""


def read_table(root: Path, name: str, needed: Iterable[str]) -> Table:
    """Reads `root/name` in UTF-8, with or without a byte order mark. Newlines may stand inside quotes.

    Args:
        needed: columns that must be there.

    Raises:
        Mistake: no such file, not a table, missing or repeated columns, nothing in it, rows of another length.
    """
    if reason := Root(root).problem(name):
        raise Mistake(f"{name}: {reason}.")
    try:
        with (root / name).open(encoding="utf-8-sig", newline="") as file:
            records = list(csv.reader(file, strict=True))
    except UnicodeDecodeError:
        raise Mistake(f"{name}: not UTF-8 text; save the table as CSV in UTF-8.") from None
    except csv.Error as error:
        raise Mistake(f"{name}: not a CSV table ({error}).") from None
    except OSError as error:
        raise Mistake(f"{name}: can't be read ({error.strerror}).") from None
    if not records:
        raise Mistake(f"{name}: empty; expected a header and a row for each image.")

    header = [cell.strip() for cell in records[0]]
    problems = Problems(name)
    for column in needed:
        if column not in header:
            problems.add("missing columns", f'{name}: column "{column}" is missing.{nearest(column, header)}')
    for column in sorted({c for c in header if c and header.count(c) > 1}):
        problems.add("repeated columns", f'{name}: column "{column}" stands twice in the header; rename one.')
    rows: list[int] = []
    kept: list[list[str]] = []
    for number, record in enumerate(records[1:], start=2):
        if not any(cell.strip() for cell in record):
            continue
        if len(record) != len(header):
            sentence = f"{name} row {number}: expected {len(header)} cells as in the header, found {len(record)}."
            problems.add("rows of another length", sentence)
            continue
        rows.append(number)
        kept.append(record)
    if len(records) == 1 or not (rows or problems):
        problems.add("empty tables", f"{name}: has a header but no rows; expected a row for each image.")
    problems.raise_if_any()
    columns = {column: [record[i].strip() for record in kept] for i, column in enumerate(header)}
    return Table(name, columns, rows)
