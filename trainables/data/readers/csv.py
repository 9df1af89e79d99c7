"""Images listed in a CSV table: a path and a label a row, optionally a group and a part of an official split."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from spaces.mistakes import nearest
from spaces.strict import Strict
from trainables.data.contents import content_hashes
from trainables.data.manifest import ALONE, Manifest
from trainables.data.near import join_near_duplicates
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root
from trainables.data.readers.table import Table, try_table

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class Options(Strict):
    """Options of the CSV reader: the table, and the names of its columns."""

    table: str
    """Path of the table, relative to root."""
    path: str = "path"
    """Column of image paths, relative to root."""
    label: str = "label"
    group: str | None = None
    """Column of groups (patient, lesion); without it, images of the same content are a group."""
    split: str | None = None
    """Column of the official split: train, validation (or val, valid) or test."""
    classes: tuple[str, ...] | None = Field(default=None, min_length=2)
    """The classes in order; the sorted labels of the table by default."""
    near_duplicates: Literal["group", "ignore"] = "ignore"
    """Whether images that look alike are kept in one part (trainables.data.near), for which all are decoded once."""

    @field_validator("classes")
    @classmethod
    def _no_repeats(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("should not name a class twice")
        return value


def read(root: Path, options: Options, cache: Path) -> Manifest:
    """The manifest of a table. Rows are sorted by path, so that the table's order doesn't matter.

    Raises:
        Mistake: missing columns; repeated paths, missing images, paths that leave the root, unknown or empty labels and
            split words, with row numbers, all of them together.
    """
    wanted = (options.path, options.label, options.group, options.split)
    problems = Problems(options.table)
    table = try_table(root, options.table, [column for column in wanted if column is not None], problems)
    paths = _paths(table, options.path, Root(root), problems)
    labels = table.columns.get(options.label, [])
    classes = options.classes or tuple(sorted(set(labels) - {""}))
    _check_labels(table, options.label, classes, problems)
    official = _official(table, options.split, problems)
    usable = zip(paths, labels, strict=False)  # where there is no such column, none is
    problems.raise_if_any({path: label for path, label in usable if path and label in classes})

    order = sorted(range(len(paths)), key=paths.__getitem__)
    ordered = [paths[i] for i in order]
    contents = content_hashes(root, ordered, cache)
    groups = contents
    notes: list[str] = []
    caveats = [] if options.group is not None else [ALONE]
    if options.group is not None:
        named = [table.columns[options.group][i] for i in order]
        # Prefixed, so that no group's name can be mistaken for a content.
        groups = np.array([f"group {g}" if g else c for g, c in zip(named, contents, strict=True)], dtype=np.str_)
        if empty := named.count(""):
            notes.append(f"{table.name}: {empty} images have no {options.group}; each is a group of its own.")
            caveats.append(f"{empty} of {len(paths)} images are in no known group: each counts as one by itself.")
    index = {name: i for i, name in enumerate(classes)}
    manifest = Manifest(
        root=root,
        task="classification",
        classes=classes,
        metric="balanced_accuracy",
        policy="natural",
        paths=np.array(ordered, dtype=np.str_),
        contents=contents,
        labels=np.array([index[labels[i]] for i in order], dtype=np.int64),
        groups=groups,
        official=np.array([official[i] for i in order], dtype=np.str_),
        notes=tuple(notes),
        caveats=tuple(caveats),
    )
    return join_near_duplicates(manifest, cache) if options.near_duplicates == "group" else manifest


def _paths(table: Table, column: str, root: Root, problems: Problems) -> list[str]:
    """Of each row, empty where it can't be used."""
    first: dict[str, int] = {}
    paths = []
    for row, cell in table.cells(column):
        where = f"{table.name} row {row}"
        path = str(PurePosixPath(cell)) if cell else ""
        before = len(problems)
        if not cell:
            problems.add("empty paths", f"{where}: {column} is empty, expected an image's path.")
        elif path in first:
            problems.add(
                "repeated paths", f'{where}: "{path}" stands in row {first[path]} already; keep one of the two.'
            )
        elif reason := root.problem(path):
            problems.add("images that can't be used", f'{where}: "{path}" {reason}.')
        first.setdefault(path, row)
        paths.append(path if len(problems) == before else "")
    return paths


def _check_labels(table: Table, column: str, classes: tuple[str, ...], problems: Problems) -> None:
    for row, label in table.cells(column):
        if not label:
            problems.add("empty labels", f"{table.name} row {row}: {column} is empty, expected one of the classes.")
        elif label not in classes:
            sentence = (
                f'{table.name} row {row}: {column} is "{label}", expected one of the classes.{nearest(label, classes)}'
            )
            problems.add("unknown labels", sentence)
    if column in table.columns and len(classes) < 2 and table.rows:
        problems.add("tables of one class", f"{table.name}: {column} has {len(classes)} class, expected two or more.")


def _official(table: Table, column: str | None, problems: Problems) -> list[str]:
    if column is None:
        return [""] * len(table.rows)
    official = []
    for row, cell in table.cells(column):
        part = SPLIT_WORDS.get(cell.lower(), "")
        if not part:
            found = f'"{cell}"' if cell else "empty"
            sentence = f"{table.name} row {row}: {column} is {found}, expected train, validation or test."
            problems.add("unknown split words", sentence)
        official.append(part)
    return official
