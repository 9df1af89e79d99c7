"""ISIC2019: dermoscopic images of eight diagnoses, grouped by lesion.

ISIC_2019_Training_GroundTruth.csv and ISIC_2019_Training_Metadata.csv lie in root, the images in
ISIC_2019_Training_Input/, which some copies double. Some images' names end in _downsampled in one table or folder and
not in another; they are matched either way. The official test (ISIC_2019_Test_...) has labels but no lesions.
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
from trainables.data.manifest import Manifest
from trainables.data.near import join_near_duplicates
from trainables.data.problems import Problems
from trainables.data.readers.attributes import age_band, sex
from trainables.data.readers.listing import Listing
from trainables.data.readers.table import Table, try_table

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
UNKNOWN = "UNK"
_DOWNSAMPLED = "_downsampled"
_OF_PART = {"Training": "train", "Test": "test"}


class Options(Strict):
    """Options of the ISIC2019 reader."""

    test: Literal["ours", "official"] = "ours"
    """Ours: carved from the labelled training images by lesion. Official: ISIC_2019_Test_Input, without its images of
    no known class (UNK), which eight outputs can't give."""
    near_duplicates: Literal["group", "ignore"] = "group"
    """Whether images that look alike are kept in one part (trainables.data.near), for which all are decoded once."""


@dataclass(frozen=True)
class _Facts:
    """What the metadata say of an image."""

    lesion: str = ""
    sex: str = ""
    age: str = ""
    site: str = ""

    @property
    def source(self) -> str:
        """The archive that the lesion comes from, by its id's prefix: BCN, HAM, MSK."""
        prefix = re.match("[A-Za-z]+", self.lesion)
        return prefix[0].upper() if prefix else ""


@dataclass(frozen=True)
class _Image:
    path: str
    label: int
    official: str
    facts: _Facts


def read(root: Path, options: Options, cache: Path) -> Manifest:
    """The manifest of the labelled images, sorted by path. A lesion is a group, an image without one by itself.

    Raises:
        Mistake: not ISIC2019; missing tables and columns; repeated or unknown ids, rows that aren't one-hot, unknown
            classes in training, missing images, ages and sexes that can't be, with row numbers, all of them together.
    """
    _refuse_another_dataset(root)
    problems = Problems("isic2019")
    notes: list[str] = []
    caveats: list[str] = []
    images = _part(root, "Training", problems, notes, caveats)
    if options.test == "official":
        images += _part(root, "Test", problems, notes, caveats)
    problems.raise_if_any({image.path: CLASSES[image.label] for image in images})
    images.sort(key=lambda image: image.path)
    paths = [image.path for image in images]
    contents = content_hashes(root, paths, cache)
    facts = [image.facts for image in images]
    # Prefixed, so that no lesion's name can be mistaken for a content.
    groups = [f"lesion {f.lesion}" if f.lesion else c for f, c in zip(facts, contents.tolist(), strict=True)]
    own = options.test == "ours"
    manifest = Manifest(
        root=root,
        task="classification",
        classes=CLASSES,
        metric="balanced_accuracy",
        policy="dermoscopy",
        paths=np.array(paths, dtype=np.str_),
        contents=contents,
        labels=np.array([image.label for image in images], dtype=np.int64),
        groups=np.array(groups, dtype=np.str_),
        official=np.array(["" if own else image.official for image in images], dtype=np.str_),
        notes=tuple(notes),
        caveats=tuple(caveats),
        attributes={
            "source": np.array([f.source for f in facts], dtype=np.str_),
            "sex": np.array([f.sex for f in facts], dtype=np.str_),
            "age": np.array([f.age for f in facts], dtype=np.str_),
            "site": np.array([f.site for f in facts], dtype=np.str_),
        },
    )
    if options.near_duplicates == "group":
        manifest = join_near_duplicates(manifest, cache)
    return manifest if own else _without_siblings_of_the_test(manifest)


def _refuse_another_dataset(root: Path) -> None:
    expected = ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv", "ISIC_2019_Training_Input")
    if not any((root / name).exists() for name in expected):
        found = sorted(entry.name for entry in root.iterdir())[:10]
        raise Mistake(
            f"isic2019: expected {', '.join(expected)} directly in root, found {', '.join(found) or 'nothing'}."
        )


def _part(root: Path, part: str, problems: Problems, notes: list[str], caveats: list[str]) -> list[_Image]:
    """The images of "Training" or "Test"."""
    training = part == "Training"
    labels = try_table(root, f"ISIC_2019_{part}_GroundTruth.csv", ("image", *CLASSES), problems, "isic2019")
    facts: dict[str, _Facts] = {}
    name = f"ISIC_2019_{part}_Metadata.csv"
    described = training or (root / name).exists()
    if described:
        needed = ("image", "age_approx", "anatom_site_general", "sex", *(("lesion_id",) if training else ()))
        facts = _metadata(try_table(root, name, needed, problems, "isic2019"), problems)
    folder = f"ISIC_2019_{part}_Input"
    if (root / folder / folder).is_dir():
        folder = f"{folder}/{folder}"
    listing = Listing(root, [folder])
    classes = _classes(labels, training, problems)
    row_of: dict[str, int] = {}  # of paths
    images, unknown = [], 0
    for row, image in labels.cells("image"):
        where = f"{labels.name} row {row}"
        if not image:
            problems.add("empty ids", f"{where}: image is empty, expected an image's name.")
            continue
        path, reason = _file(listing, folder, image)
        if reason:
            problems.add("images that can't be used", f'{where}: "{path}" {reason}.')
            continue
        if row_of.setdefault(path, row) != row:
            sentence = f'{where}: "{path}" stands in row {row_of[path]} already; keep one of the two.'
            problems.add("repeated images", sentence)
            continue
        of_image = _either(facts, image)
        if of_image is None and facts:
            problems.add("images without metadata", f'{where}: "{image}" has no row in {name}; add one.')
        unknown += classes.get(row) == len(CLASSES)
        if 0 <= classes.get(row, -1) < len(CLASSES):
            images.append(_Image(path, classes[row], _OF_PART[part], of_image or _Facts()))
    unlabelled = len(set(listing.images()) - set(row_of))
    if unlabelled:
        notes.append(f"isic2019: {unlabelled} images in {folder}/ stand in no table and aren't used.")
    alone = sum(not image.facts.lesion for image in images)
    if training and alone:
        notes.append(f"isic2019: {alone} images have no lesion_id; each is a group of its own.")
    if not training:
        notes.append("isic2019: score_weight and validation_weight of the official test aren't used.")
        caveats.append(
            f"isic2019: the official test has no lesions, so that intervals take its {len(images)} images, but those "
            f"that look alike, for independent and may be too narrow; its {unknown} images of class {UNKNOWN} are left "
            f"out, since {len(CLASSES)} outputs can't give it: the challenge's own figures hold them."
        )
    return images


def _metadata(table: Table, problems: Problems) -> dict[str, _Facts]:
    """By image."""
    first: dict[str, int] = {}
    facts = {}
    cells = {c: dict(table.cells(c)) for c in ("age_approx", "anatom_site_general", "lesion_id", "sex")}
    for row, image in table.cells("image"):
        where = f"{table.name} row {row}"
        if not image:
            problems.add("empty ids", f"{where}: image is empty, expected an image's name.")
            continue
        if first.setdefault(image, row) != row:
            sentence = f'{where}: image "{image}" stands in row {first[image]} already; keep one of the two.'
            problems.add("repeated metadata", sentence)
            continue
        age, of_sex = cells["age_approx"].get(row, ""), cells["sex"].get(row, "")
        if (band := age_band(age)) is None:
            problems.add("ages that can't be", f'{where}: age_approx is "{age}", expected years from 0 to 120 or none.')
        if (word := sex(of_sex)) is None:
            problems.add("unknown sexes", f'{where}: sex is "{of_sex}", expected female, male or none.')
        lesion, site = (cells[c].get(row, "") for c in ("lesion_id", "anatom_site_general"))
        facts[image] = _Facts(lesion, word or "", band or "", site)
    return facts


def _classes(table: Table, training: bool, problems: Problems) -> dict[int, int]:
    """Class by row number, `len(CLASSES)` for the unknown one; rows that aren't one-hot are left out."""
    names = [name for name in (*CLASSES, UNKNOWN) if name in table.columns]
    whole = set(CLASSES) <= set(names)
    classes = {}
    for i, row in enumerate(table.rows):
        where = f"{table.name} row {row}"
        cells = {name: table.columns[name][i] for name in names}
        wrong = [name for name, cell in cells.items() if cell not in ("0", "1", "0.0", "1.0")]
        for name in wrong:
            found = f'"{cells[name]}"' if cells[name] else "empty"
            problems.add("labels that can't be", f"{where}: {name} is {found}, expected 0 or 1.")
        ones = [name for name, cell in cells.items() if cell in ("1", "1.0")]
        if wrong or not whole:
            continue
        if len(ones) != 1:
            found = ", ".join(ones) or "none"
            problems.add("rows that aren't one-hot", f"{where}: expected one class with a 1, found {found}.")
        elif training and ones[0] == UNKNOWN:
            sentence = f"{where}: the class is {UNKNOWN}, expected one of {', '.join(CLASSES)}; leave the row out."
            problems.add("training images of no known class", sentence)
        else:
            classes[row] = (*CLASSES, UNKNOWN).index(ones[0])
    return classes


def _spellings(image: str) -> tuple[str, str]:
    plain = image.removesuffix(_DOWNSAMPLED)
    return image, plain if image != plain else f"{image}{_DOWNSAMPLED}"


def _file(listing: Listing, folder: str, image: str) -> tuple[str, str | None]:
    """Path of an image, and why it can't be used."""
    path, other = (f"{folder}/{spelling}.jpg" for spelling in _spellings(image))
    reason = listing.problem(path)
    if reason and listing.problem(other) is None:
        return other, None
    return path, reason


def _either(facts: dict[str, _Facts], image: str) -> _Facts | None:
    return next((facts[spelling] for spelling in _spellings(image) if spelling in facts), None)


def _without_siblings_of_the_test(manifest: Manifest) -> Manifest:
    """The official test can't be changed: training images of its groups and copies of its images go."""
    test = manifest.official == "test"
    seen = np.isin(manifest.groups, manifest.groups[test]) | np.isin(manifest.contents, manifest.contents[test])
    out = seen & ~test
    if not out.any():
        return manifest
    note = (
        f"isic2019: {int(out.sum())} training images are, or look like, images of the official test and are left out."
    )
    return replace(manifest.take(~out), notes=(*manifest.notes, note))
