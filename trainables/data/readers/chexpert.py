"""CheXpert: chest radiographs with findings read off reports, in each copy that is in circulation.

train.csv and valid.csv lie in root, or in CheXpert-v1.0/ or CheXpert-v1.0-small/ under it, and so do train/ and valid/.
The tables' paths begin with another folder in each copy, and are matched from train/ or valid/ on. Where the official
test lies beside them (test/ and groundtruth.csv or test_labels.csv), it is the test, else valid.csv is. Validation is
carved from train.csv by patient. valid.csv beside an official test is a second validation, on radiologists' labels: a
dataset of its own, on which a finished final is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from spaces.mistakes import Mistake
from spaces.strict import Strict
from trainables.data.contents import content_hashes
from trainables.data.manifest import UNCERTAIN, Manifest
from trainables.data.problems import Problems
from trainables.data.readers.attributes import age_band, sex
from trainables.data.readers.listing import Listing
from trainables.data.readers.table import Table, try_table

NO_FINDING = "No Finding"
TWO_SOURCES = (
    "chexpert: labels of training and validation were read off reports, those of the test are radiologists': two "
    "different things, whose values don't belong in one column."
)
FOURTEEN = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
_COPIES = ("", "CheXpert-v1.0/", "CheXpert-v1.0-small/")
_TESTS = ("groundtruth.csv", "test_labels.csv")
_PATH = re.compile(r"(?:^|/)(train|valid|test)/(patient[^/]+)/(study[^/]+)(?:/([^/]+))?/?$")
_LABELS = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": int(UNCERTAIN), "-1": int(UNCERTAIN)}
_BLANK, _BAD = 2, 3  # beside 1, 0 and -1
_PROJECTIONS = ("AP", "PA", "LL", "RL", "")


class Options(Strict):
    """Options of the CheXpert reader."""

    rows: Literal["all", "valid"] = "all"
    """Everything, or valid.csv alone and without a split: the second validation of a finished final, whose labels are
    radiologists'."""
    views: Literal["frontal", "lateral", "both"] = "frontal"
    findings: Literal["five", "fourteen"] = "five"
    """The competition's five, or all columns of the table."""
    blanks: Literal["zero", "mask"] = "zero"
    """How findings that a report of train.csv doesn't mention are scored: as absent, or not at all. How they are
    learned is the trial's `blank`."""
    uncertain: Literal["mask", "zero"] = "mask"
    """How uncertain findings are scored: not at all, or as absent. How they are learned is the trial's `uncertain`."""


@dataclass(frozen=True)
class Rows:
    """Images of one table, row by row."""

    official: str
    paths: list[str]
    patients: list[str]
    studies: list[str]
    findings: np.ndarray
    """[n, L] int8: 1, 0, -1 (uncertain), 2 (not mentioned)."""
    sexes: list[str]
    ages: list[str]
    views: list[str]
    """Frontal AP, Frontal PA, Frontal, Lateral."""


def read(root: Path, options: Options, cache: Path) -> Manifest:
    """The manifest of the chosen views, sorted by path. A patient is a group, a study a unit.

    Raises:
        Mistake: not CheXpert, or two copies of it; missing tables, columns and images, paths of another form, labels,
            ages, sexes and views that can't be, studies whose rows differ, with row numbers, all of them together.
    """
    parts, notes = read_tables(root, options)
    contents = content_hashes(root, [path for rows in parts for path in rows.paths], cache)
    manifest = assemble(root, parts, contents, options, notes)
    if options.rows == "valid":
        manifest = replace(manifest, official=np.full(len(manifest), "", dtype="<U10"))
    return manifest


def read_tables(root: Path, options: Options) -> tuple[list[Rows], list[str]]:
    """The rows of the chosen views, checked, and notes. Arguments and raises as for `read`."""
    tables, images = _copy(root)
    classes = FIVE if options.findings == "five" else FOURTEEN
    problems = Problems("chexpert")
    notes: list[str] = []
    if options.rows == "valid":
        listing = Listing(root, [f"{images}valid"])
        valid = _labelled(root, f"{tables}valid.csv", images, "valid", classes, listing, problems)
        problems.raise_if_any(_usable([valid]))
        return [_of_views(valid, options.views)], ["chexpert: valid.csv alone (rows: valid)."]
    test_table = next((name for name in _TESTS if (root / tables / name).is_file()), None)
    official_test = test_table is not None and (root / images / "test").is_dir()
    listing = Listing(root, [f"{images}{part}" for part in ("train", "test" if official_test else "valid")])
    parts = [_labelled(root, f"{tables}train.csv", images, "train", classes, listing, problems)]
    if test_table and official_test:
        parts.append(_official_test(root, f"{tables}{test_table}", classes, listing, problems, notes))
        notes.append(
            f"chexpert: the official test ({test_table}) is the test; valid.csv is in no part: evaluate a finished "
            "final on it (options: rows: valid), as a second validation."
        )
    else:
        parts.append(_labelled(root, f"{tables}valid.csv", images, "valid", classes, listing, problems))
        lacking = f"{test_table} lies there without test/" if test_table else f"no {' or '.join(_TESTS)}"
        notes.append(f"chexpert: valid.csv is the test, since there is no official one ({lacking}).")
    problems.raise_if_any(_usable(parts))
    return [_of_views(rows, options.views) for rows in parts], notes


def _usable(parts: list[Rows]) -> dict[str, str]:
    """Paths of the rows that can be used, and what is said of their findings."""
    return {
        path: " ".join(map(str, findings))
        for rows in parts
        for path, findings in zip(rows.paths, rows.findings.tolist(), strict=True)
        if path and _BAD not in findings
    }


def assemble(root: Path, parts: list[Rows], contents: np.ndarray, options: Options, notes: list[str]) -> Manifest:
    """The manifest of checked rows, sorted by path. `contents`: [N] str of all rows in their order."""
    findings = np.concatenate([rows.findings for rows in parts])
    official = np.concatenate([np.full(len(rows.paths), rows.official) for rows in parts])
    blank, uncertain = findings == _BLANK, findings == UNCERTAIN
    labels = np.where(blank, np.nan, findings).astype(np.float32)
    truth = np.where(uncertain, np.nan, labels)
    scored = "aren't scored"
    if options.blanks == "zero":
        truth = np.where(blank & (official == "train")[:, None], 0, truth)
        scored = "are scored as absent"
    if options.uncertain == "zero":
        truth = np.where(uncertain, 0, truth)
    in_train = int(uncertain[official == "train"].sum())
    notes = [
        *notes,
        f"chexpert: findings that a report of train.csv doesn't mention {scored} (blanks: {options.blanks}); "
        f"its {in_train} uncertain ones "
        + ("never are." if options.uncertain == "mask" else "are, as absent (uncertain: zero)."),
    ]
    read_off = official == "train"

    def column(name: str) -> np.ndarray:
        return np.array([value for rows in parts for value in getattr(rows, name)], dtype=np.str_)

    paths = column("paths")
    whole = Manifest(
        root=root,
        task="multilabel",
        classes=FIVE if options.findings == "five" else FOURTEEN,
        metric="macro_auroc",
        policy="radiograph",
        paths=paths,
        contents=contents,
        labels=labels,
        groups=column("patients"),
        official=official,
        notes=tuple(notes),
        caveats=(TWO_SOURCES,) if read_off.any() and not read_off.all() else (),
        units=np.array([f"{rows.official}/{study}" for rows in parts for study in rows.studies], dtype=np.str_),
        truth=truth.astype(np.float32),
        combine="max",
        attributes={
            "sex": column("sexes"),
            "age": column("ages"),
            "view": column("views"),
            "labels from": np.where(read_off, "reports", "radiologists"),
        },
    )
    return whole.take(np.argsort(paths, kind="stable"))


def _copy(root: Path) -> tuple[str, str]:
    """Where the tables and where the image folders of the copy under root lie, each "" or ending in a slash."""
    tables = [copy for copy in _COPIES if (root / copy / "train.csv").is_file()]
    images = [copy for copy in _COPIES if (root / copy / "train").is_dir()]
    if len(tables) == 1 and (images == tables or len(images) == 1):
        return tables[0], images[0]
    for what, found in (("train.csv", tables), ("train/", images)):
        if len(found) > 1:
            raise Mistake(f"chexpert: found {' and '.join(f'{copy}{what}' for copy in found)}; keep one copy in root.")
    lacking = " and ".join(what for what, found in (("train.csv", tables), ("train/", images)) if not found)
    found = sorted(entry.name for entry in root.iterdir())[:10]
    raise Mistake(
        f"chexpert: expected train.csv, valid.csv, train/ and valid/ in root or in {' or '.join(_COPIES[1:])}; there "
        f"is no {lacking}; found {', '.join(found) or 'nothing'}."
    )


def _labelled(
    root: Path, name: str, images: str, part: str, classes: tuple[str, ...], listing: Listing, problems: Problems
) -> Rows:
    """The rows of train.csv or valid.csv."""
    needed = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *classes)
    table = try_table(root, name, needed, problems, "chexpert")
    paths, patients, studies = _paths(table, images, part, listing, problems)
    findings = _findings(table, classes, problems)
    _refuse_differing(table, studies, findings, problems)
    sexes = [_word(table, row, "Sex", cell, sex(cell), problems) for row, cell in table.cells("Sex")]
    ages = [_word(table, row, "Age", cell, age_band(cell), problems) for row, cell in table.cells("Age")]
    views = _views(table, problems)
    official = "train" if part == "train" else "test"
    return Rows(official, paths, patients, studies, findings, sexes, ages, views)


def _paths(
    table: Table, images: str, part: str, listing: Listing, problems: Problems
) -> tuple[list[str], list[str], list[str]]:
    """Path, patient and study of each row; empty where its path can't be used."""
    paths, patients, studies = [], [], []
    first: dict[str, int] = {}
    for row, cell in table.cells("Path"):
        match = _PATH.search(cell)
        patient = study = path = ""
        if not cell:
            problems.add("empty paths", f"{table.name} row {row}: Path is empty, expected an image's path.")
        elif match is None or match[4] is None or match[1] != part:
            sentence = f'{table.name} row {row}: Path is "{cell}", expected .../{part}/patient.../study.../an image.'
            problems.add("paths of another form", sentence)
        else:
            patient, study = match[2], f"{match[2]}/{match[3]}"
            path = f"{images}{part}/{study}/{match[4]}"
            if first.setdefault(path, row) != row:
                sentence = f'{table.name} row {row}: "{path}" stands in row {first[path]} already; keep one of the two.'
                problems.add("repeated paths", sentence)
                path = ""
            elif reason := listing.problem(path):
                problems.add("images that can't be used", f'{table.name} row {row}: "{path}" {reason}.')
                path = ""
        paths.append(path)
        patients.append(patient)
        studies.append(study)
    return paths, patients, studies


def _findings(table: Table, classes: tuple[str, ...], problems: Problems) -> np.ndarray:
    """[n, L] int8 with 1, 0, -1, `_BLANK`, and `_BAD` where a cell or its column can't be used."""
    codes = {**_LABELS, "": _BLANK}
    found = np.full((len(table.rows), len(classes)), _BAD, dtype=np.int8)
    for i, name in enumerate(classes):
        if name not in table.columns:
            continue
        found[:, i] = [codes.get(cell, _BAD) for cell in table.columns[name]]
        for entry in np.flatnonzero(found[:, i] == _BAD).tolist():
            cell = table.columns[name][entry]
            sentence = f'{table.name} row {table.rows[entry]}: {name} is "{cell}", expected 1, 0, -1 or nothing.'
            problems.add("labels that can't be", sentence)
    return found


def _refuse_differing(table: Table, studies: list[str], findings: np.ndarray, problems: Problems) -> None:
    """A report is of a study: all its images have the same labels."""
    if not studies:
        return
    _, first, study = np.unique(np.array(studies), return_index=True, return_inverse=True)
    known = (findings != _BAD) & (findings[first][study] != _BAD)
    differs = ((findings != findings[first][study]) & known).any(axis=1) & (np.array(studies) != "")
    for entry in np.flatnonzero(differs).tolist():
        before = table.rows[first[study[entry]]]
        sentence = (
            f"{table.name} row {table.rows[entry]}: other labels than in row {before}, which is of the same study; "
            "give both the same."
        )
        problems.add("studies whose rows differ", sentence)


def _word(table: Table, row: int, column: str, cell: str, word: str | None, problems: Problems) -> str:
    if word is None:
        expected = {"Sex": "Female, Male or Unknown", "Age": "years from 0 to 120"}[column]
        problems.add(f"{column} that can't be", f'{table.name} row {row}: {column} is "{cell}", expected {expected}.')
    return word or ""


def _views(table: Table, problems: Problems) -> list[str]:
    projections = dict(table.cells("AP/PA"))
    for row, projection in projections.items():
        if projection not in _PROJECTIONS:
            sentence = f'{table.name} row {row}: AP/PA is "{projection}", expected AP, PA, LL, RL or nothing.'
            problems.add("projections that can't be", sentence)
    views = []
    for row, view in table.cells("Frontal/Lateral"):
        if view not in ("Frontal", "Lateral"):
            sentence = f'{table.name} row {row}: Frontal/Lateral is "{view}", expected Frontal or Lateral.'
            problems.add("views that can't be", sentence)
        frontal = view == "Frontal" and projections.get(row) in ("AP", "PA")
        views.append(f"{view} {projections[row]}" if frontal else view)
    return views


def _official_test(
    root: Path, name: str, classes: tuple[str, ...], listing: Listing, problems: Problems, notes: list[str]
) -> Rows:
    """The images under test/, labelled by study: a table of studies, or of images."""
    needed = [finding for finding in classes if finding != NO_FINDING]  # noted where it's missing
    table = try_table(root, name, needed, problems, "chexpert")
    key = "Study" if "Study" in table.columns else "Path"
    if table.columns and key not in table.columns:
        problems.add(
            "missing columns", f'{table.name}: column "Study" or "Path" is missing; take the dataset\'s own table.'
        )
    studies = []
    for row, cell in table.cells(key):
        match = _PATH.search(cell)
        if match is None or match[1] != "test":
            sentence = f'{table.name} row {row}: {key} is "{cell}", expected .../test/patient.../study...'
            problems.add("paths of another form", sentence)
        studies.append(f"{match[2]}/{match[3]}" if match else "")
    findings = _findings(table, classes, problems)
    if NO_FINDING in classes and NO_FINDING not in table.columns:
        findings[:, classes.index(NO_FINDING)] = _BLANK
        notes.append(f'{table.name} has no column "{NO_FINDING}": it can\'t be scored on the test.')
    _refuse_differing(table, studies, findings, problems)
    entry_of = {study: entry for entry, study in enumerate(studies)}
    paths, patients, found, views, entries, unlabelled = [], [], [], [], [], 0
    for path in listing.images():
        match = _PATH.search(path)
        if match is None or match[1] != "test" or match[4] is None:
            continue
        study = f"{match[2]}/{match[3]}"
        if study not in entry_of:
            unlabelled += 1
            continue
        view = next((word for word in ("Frontal", "Lateral") if f"_{word.lower()}." in match[4].lower()), "")
        if not view:
            sentence = (
                f"chexpert: {path}: its name says neither frontal nor lateral, as in view1_frontal.jpg; rename it."
            )
            problems.add("images of no known view", sentence)
        paths.append(path)
        patients.append(match[2])
        found.append(study)
        views.append(view)
        entries.append(entry_of[study])
    for study in sorted(entry_of.keys() - set(found) - {""}):
        row = table.rows[entry_of[study]]
        problems.add(
            "studies without images", f"{table.name} row {row}: no images under test/{study}/, expected one at least."
        )
    if unlabelled:
        notes.append(f"chexpert: {unlabelled} images under test/ aren't in {table.name} and aren't used.")
    unknown = [""] * len(paths)
    return Rows("test", paths, patients, found, findings[entries], unknown, unknown, views)


def _of_views(rows: Rows, views: str) -> Rows:
    keep = [i for i, view in enumerate(rows.views) if views == "both" or view.lower().startswith(views)]
    lists = {
        name: [getattr(rows, name)[i] for i in keep]
        for name in ("paths", "patients", "studies", "sexes", "ages", "views")
    }
    return Rows(official=rows.official, findings=rows.findings[keep], **lists)
