"""CBIS-DDSM: mammograms of masses and calcifications, malignant or benign, in the two copies that are in circulation.

Four tables list lesions: of masses and of calcifications, training and test each. What is evaluated is the breast: the
mean over its images, against the worst pathology that any of the four tables has for it. For the copies' files see
trainables.data.readers.cbis_ddsm_files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spaces.strict import Strict
from trainables.data.contents import content_hashes
from trainables.data.manifest import Manifest
from trainables.data.problems import Problems
from trainables.data.readers.cbis_ddsm_files import CASE, Files
from trainables.data.readers.table import Table, try_table

CLASSES = ("benign", "malignant")
TABLES = {
    "mass_case_description_train_set.csv": ("mass", "train"),
    "mass_case_description_test_set.csv": ("mass", "test"),
    "calc_case_description_train_set.csv": ("calc", "train"),
    "calc_case_description_test_set.csv": ("calc", "test"),
}
MALIGNANT = {"BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False, "MALIGNANT": True}
DENSITIES = {"1": "1", "2": "2", "3": "3", "4": "4", "0": "", "": ""}  # 0 is no BI-RADS density
_PATHS = ("image file path", "cropped image file path", "ROI mask file path")
_COLUMNS = ("patient_id", "left or right breast", "image view", "pathology", *_PATHS)
_DENSITY = ("breast_density", "breast density")  # of masses, of calcifications


class Options(Strict):
    """Options of the CBIS-DDSM reader."""

    abnormality: Literal["mass", "calc", "both"] = "both"
    """Whose images are used. What a breast is evaluated against comes from both."""
    image: Literal["whole", "crop"] = "whole"
    """Whole mammograms, or the crops of lesions."""


@dataclass(frozen=True)
class Lesion:
    """A row of a table."""

    where: str
    kind: str
    part: str
    patient: str
    side: str
    view: str
    density: str
    malignant: bool
    case: str
    """PatientID of the image that is used: of the mammogram, or of the lesion."""
    series: tuple[str, str, str]
    """Of mammogram, crop and mask, as the table has them."""

    @property
    def breast(self) -> str:
        return f"{self.patient} {self.side}"


def read(root: Path, options: Options, cache: Path) -> Manifest:
    """The manifest of whichever copy lies under root, its folders doubled or not. Rows are sorted by path.

    An image's label is the worst of its lesions in the tables that are used; of a mammogram that stands in the tables
    of masses and of calcifications, of both. A patient of the test part of any table that is used is in the test.
    Images aren't decoded, but for telling crops from masks where no table or header does.

    Raises:
        Mistake: neither copy or both, tables missing (all four are needed), cells that can't be, images missing, with
            table and row; all of them together.
    """
    problems = Problems("cbis_ddsm")
    files = Files(root, problems)
    every = [
        lesion
        for name, (kind, part) in TABLES.items()
        for lesion in _lesions(root, files, name, kind, part, options, problems)
    ]
    used = [lesion for lesion in every if options.abnormality in (lesion.kind, "both")]
    by_path = _images(files, used, options, problems) if files.copy else {}
    paths = sorted(by_path)
    images = [by_path[path] for path in paths]
    malignant = {lesion.breast for lesion in every if lesion.malignant}
    views = {(lesion.breast, lesion.view) for lesion in used if lesion.malignant}
    whole = options.image == "whole"
    labels = [
        (rows[0].breast, rows[0].view) in views if whole else any(row.malignant for row in rows) for rows in images
    ]
    problems.raise_if_any({path: CLASSES[label] for path, label in zip(paths, labels, strict=True)})
    tested = {lesion.patient for lesion in used if lesion.part == "test"}
    return Manifest(
        root=root,
        task="classification",
        classes=CLASSES,
        metric="macro_auroc",
        policy="mammography",
        paths=np.array(paths, dtype=np.str_),
        contents=content_hashes(root, paths, cache),
        labels=np.array(labels, dtype=np.int64),
        groups=np.array([rows[0].patient for rows in images], dtype=np.str_),
        official=np.array(["test" if rows[0].patient in tested else "train" for rows in images], dtype=np.str_),
        notes=_notes(images, whole),
        caveats=_caveats(images, tested),
        units=np.array([rows[0].breast for rows in images], dtype=np.str_),
        truth=np.array([rows[0].breast in malignant for rows in images], dtype=np.int64),
        combine="mean",
        attributes={
            "density": np.array([_only({row.density for row in rows} - {""}) for rows in images], dtype=np.str_),
            "view": np.array([rows[0].view for rows in images], dtype=np.str_),
            "abnormality": np.array([rows[0].kind for rows in images], dtype=np.str_),
        },
        crop="breast" if whole else "none",
    )


def _lesions(
    root: Path, files: Files, name: str, kind: str, part: str, options: Options, problems: Problems
) -> list[Lesion]:
    found = files.named(name)
    if len(found) != 1:
        is_ = f"found {len(found)} ({', '.join(found)})" if found else "found none"
        sentence = (
            f"cbis_ddsm: expected one {name} under root, {is_}; all four tables say whether a breast is malignant."
        )
        problems.add("missing or repeated tables", sentence)
        return []
    table = try_table(root, found[0], _COLUMNS, problems, "cbis_ddsm")
    density = next((column for column in _DENSITY if column in table.columns), None)
    if table.columns and density is None:
        problems.add("missing columns", f'{table.name}: column "{_DENSITY[0]}" is missing; take TCIA\'s own table.')
    if density is None or not all(column in table.columns for column in _COLUMNS):
        return []
    lesions = []
    for i, row in enumerate(table.rows):
        cells = {column: table.columns[column][i] for column in _COLUMNS}
        # The tables break lines within their quoted paths.
        cells |= {column: "".join(cells[column].split()) for column in _PATHS}
        cells["density"] = table.columns[density][i]
        lesion = _lesion(table, row, kind, part, cells, options, problems)
        if lesion is not None:
            lesions.append(lesion)
    return lesions


def _lesion(
    table: Table, row: int, kind: str, part: str, cells: dict[str, str], options: Options, problems: Problems
) -> Lesion | None:
    where = f"{table.name} row {row}"
    before = len(problems)
    for column, known in (("pathology", tuple(MALIGNANT)), ("density", tuple(DENSITIES)[:-1])):
        cell = cells[column]
        if cell not in known and not (column == "density" and cell == ""):
            is_ = f'"{cell}"' if cell else "empty"
            sentence = f"{where}: {column} is {is_}, expected one of {', '.join(sorted(known))}."
            problems.add(f"unknown values of {column}", sentence)
    column = _PATHS[0] if options.image == "whole" else _PATHS[1]
    case = next((folder for folder in cells[column].split("/") if CASE.fullmatch(folder)), "")
    match = CASE.fullmatch(case)
    if match is None:
        sentence = f'{where}: {column} is "{cells[column]}", expected it to begin like Mass-Training_P_00001_LEFT_CC/.'
        problems.add("unknown paths", sentence)
    else:
        said = (cells["patient_id"], cells["left or right breast"], cells["image view"])
        named = match["patient"], match["side"], match["view"]
        if said != named or match["kind"].lower() != kind or (match["part"] == "Test") != (part == "test"):
            sentence = (
                f"{where}: {column} is of {case}, but the row is of {kind}, {part}, {', '.join(said)}; correct either."
            )
            problems.add("rows whose path is of another image", sentence)
    if len(problems) > before:
        return None
    series = [(cells[path].split("/")[-2:-1] or [""])[0] for path in _PATHS]
    return Lesion(
        where=where,
        kind=kind,
        part=part,
        patient=cells["patient_id"],
        side=cells["left or right breast"],
        view=cells["image view"],
        density=DENSITIES[cells["density"]],
        malignant=MALIGNANT[cells["pathology"]],
        case=case,
        series=(series[0], series[1], series[2]),
    )


def _images(files: Files, lesions: list[Lesion], options: Options, problems: Problems) -> dict[str, list[Lesion]]:
    """Paths, and the lesions that each shows."""
    by_case: dict[str, list[Lesion]] = {}
    for lesion in lesions:
        by_case.setdefault(lesion.case, []).append(lesion)
    images: dict[str, list[Lesion]] = {}
    for case, rows in by_case.items():
        first = rows[0]
        if options.image == "whole":
            path = files.mammogram(case, first.series[0], first.where, problems)
        else:
            path = files.crop(case, first.series[1:], first.where, problems)
        if path is None:
            continue
        if path in images:
            case = images[path][0].case
            sentence = f'{first.where}: "{path}" is the image of {case} already; correct one of the rows.'
            problems.add("repeated images", sentence)
        images.setdefault(path, rows)
    return images


def _caveats(images: list[list[Lesion]], tested: set[str]) -> tuple[str, ...]:
    moved = [rows[0].patient for rows in images if rows[0].part == "train" and rows[0].patient in tested]
    if not moved:
        return ()
    return (
        f"cbis_ddsm: {len(moved)} training images of {len(set(moved))} patients were moved to the test, since they "
        "have others in a test set: it is neither of the two official ones.",
    )


def _notes(images: list[list[Lesion]], whole: bool) -> tuple[str, ...]:
    notes = []
    if whole:
        seen: dict[tuple[str, str], set[str]] = {}
        for rows in images:
            seen.setdefault((rows[0].breast, rows[0].view), set()).add(rows[0].kind)
        if twice := sum(len(kinds) > 1 for kinds in seen.values()):
            notes.append(
                f"cbis_ddsm: {twice} mammograms are there twice, under their mass and under their calcification; both "
                "copies stay, with the label of the worse."
            )
    return tuple(notes)


def _only(values: set[str]) -> str:
    """The value where there is one, "" where there is none or several."""
    return next(iter(values)) if len(values) == 1 else ""
