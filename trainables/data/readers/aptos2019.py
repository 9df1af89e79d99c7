"""APTOS2019: fundus photographs, diabetic retinopathy graded 0 to 4, in the two copies that are in circulation.

The competition's copy has train.csv and train_images/; its test.csv has no labels and isn't used. The popular re-upload
has train_1.csv, valid.csv and test.csv, all labelled, with train_images/, val_images/ and test_images/. In both, the
image folders may be doubled (train_images/train_images/).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from spaces.mistakes import Mistake
from spaces.strict import Strict
from trainables.data.contents import content_hashes
from trainables.data.manifest import Manifest
from trainables.data.near import join_near_duplicates
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root
from trainables.data.readers.table import try_table

GRADES = ("no DR", "mild", "moderate", "severe", "proliferative")
_GRADES = ("0", "1", "2", "3", "4")
COMPETITION = (("train.csv", "train_images", ""),)
REUPLOAD = (
    ("train_1.csv", "train_images", "train"),
    ("valid.csv", "val_images", "validation"),
    ("test.csv", "test_images", "test"),
)
NO_PATIENTS = (
    "aptos2019: there are no patient ids: that images of a person, both eyes say, are in different parts can't be "
    "excluded, and intervals take images that don't look alike for independent."
)


class Options(Strict):
    """Options of the APTOS2019 reader."""

    conflicts: Literal["refuse", "drop"] = "drop"
    """What to do with byte-identical images of different grades: refuse, or leave all copies out of every part."""
    near_duplicates: Literal["group", "ignore"] = "group"
    """Whether images that look alike are kept in one part (trainables.data.near), for which all are decoded once."""


def read(root: Path, options: Options, cache: Path) -> Manifest:
    """The manifest of whichever copy lies under root; the re-upload has an official split. Rows are sorted by path.

    Raises:
        Mistake: neither copy or both; missing columns, repeated ids, grades outside 0 to 4, missing images, with row
            numbers; conflicts where they are refused.
    """
    problems = Problems("aptos2019")
    rows: list[tuple[str, int, str]] = []  # path, grade, part
    safe = Root(root)
    for table_name, folder, part in _copy(root):
        rows += _rows(root, safe, table_name, folder, part, problems)
    problems.raise_if_any({path: GRADES[grade] for path, grade, _ in rows})
    rows.sort()
    paths = [path for path, _, _ in rows]
    manifest = Manifest(
        root=root,
        task="ordinal",
        classes=GRADES,
        metric="quadratic_weighted_kappa",
        policy="fundus",
        paths=np.array(paths, dtype=np.str_),
        contents=(contents := content_hashes(root, paths, cache)),
        labels=np.array([grade for _, grade, _ in rows], dtype=np.int64),
        groups=contents,
        official=np.array([part for _, _, part in rows], dtype=np.str_),
        caveats=(NO_PATIENTS,),
        crop="disc",
    )
    manifest = _without_conflicts(manifest, options)
    return join_near_duplicates(manifest, cache) if options.near_duplicates == "group" else manifest


def _copy(root: Path) -> tuple[tuple[str, str, str], ...]:
    """Tables, image folders and parts of the copy under root."""
    competition, reupload = (root / "train.csv").is_file(), (root / "train_1.csv").is_file()
    if competition and reupload:
        raise Mistake(
            "aptos2019: found train.csv and train_1.csv, of two different copies; keep one of them under root."
        )
    if competition:
        return COMPETITION
    if reupload:
        return REUPLOAD
    found = sorted(entry.name for entry in root.iterdir())[:10]
    raise Mistake(
        "aptos2019: expected train.csv (competition's copy) or train_1.csv, valid.csv and test.csv (re-upload) "
        f"directly in root, found {', '.join(found) or 'nothing'}."
    )


def _rows(root: Path, safe: Root, name: str, folder: str, part: str, problems: Problems) -> list[tuple[str, int, str]]:
    table = try_table(root, name, ("id_code", "diagnosis"), problems, "aptos2019")
    images = f"{folder}/{folder}" if (root / folder / folder).is_dir() else folder
    for row, grade in table.cells("diagnosis"):
        if grade not in _GRADES:
            is_ = f'"{grade}"' if grade else "empty"
            problems.add("grades that can't be", f"{table.name} row {row}: diagnosis is {is_}, expected 0 to 4.")
    grades = dict(table.cells("diagnosis"))
    first: dict[str, int] = {}
    found = []
    for row, code in table.cells("id_code"):
        where = f"{table.name} row {row}"
        path = f"{images}/{code}.png"
        if not code:
            problems.add("empty ids", f"{where}: id_code is empty, expected an image's name.")
        elif code in first:
            sentence = f'{where}: id_code "{code}" stands in row {first[code]} already; keep one of the two.'
            problems.add("repeated ids", sentence)
        elif reason := safe.problem(path):
            problems.add("images that can't be used", f'{where}: "{path}" {reason}.')
        elif grades.get(row) in _GRADES:
            found.append((path, int(grades[row]), part))
        first.setdefault(code, row)
    return found


def _without_conflicts(manifest: Manifest, options: Options) -> Manifest:
    grades: dict[str, set[int]] = {}
    for content, grade in zip(manifest.contents.tolist(), manifest.labels.tolist(), strict=True):
        grades.setdefault(content, set()).add(grade)
    conflicting = {content for content, several in grades.items() if len(several) > 1}
    copies = Counter(manifest.contents.tolist())
    again = sum(count - 1 for content, count in copies.items() if content not in conflicting)
    notes = list(manifest.notes)
    if again:
        notes.append(f"aptos2019: {again} images are byte-identical copies of another; copies stay in one part.")
    keep = np.array([content not in conflicting for content in manifest.contents.tolist()], dtype=bool)
    if conflicting and options.conflicts == "refuse":
        problems = Problems("aptos2019")
        for content in sorted(conflicting):
            rows = np.flatnonzero(manifest.contents == content)
            listed = ", ".join(f"{manifest.paths[row]} (grade {manifest.labels[row]})" for row in rows[:10])
            problems.add("conflicts", f"aptos2019: the same image has different grades, expected one: {listed}.")
        problems.add("remedies", "aptos2019: correct the grades, or write conflicts: drop to leave such images out.")
        grades_of = zip(manifest.paths.tolist(), manifest.labels.tolist(), strict=True)
        problems.raise_if_any({path: GRADES[grade] for path, grade in grades_of})
    caveats = manifest.caveats
    if conflicting:
        caveats += (
            f"aptos2019: {int((~keep).sum())} images left out of every part: "
            f"{len(conflicting)} contents stand under different grades.",
        )
    lines: dict[str, list[str]] = {}
    for row in np.flatnonzero(~keep):
        shown = f"{manifest.paths[row]} ({GRADES[manifest.labels[row]]})"
        lines.setdefault(str(manifest.contents[row]), []).append(shown)
    left_out = tuple(", ".join(images) for images in lines.values())
    return replace(manifest.take(keep), notes=tuple(notes), caveats=caveats, left_out=left_out)
