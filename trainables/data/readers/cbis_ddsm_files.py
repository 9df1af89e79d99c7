"""Which file of a copy of CBIS-DDSM is a mammogram, and which one the crop of a lesion.

TCIA's copy has a folder for each of its PatientIDs (Mass-Training_P_00001_LEFT_CC is a mammogram,
Mass-Training_P_00001_LEFT_CC_1 its first lesion, with a crop and a mask), below it a folder a study and one a series,
and .dcm files. The JPEG conversion has jpeg/<SeriesInstanceUID>/<n>-<m>.jpg, and dicom_info.csv that says the PatientID
and SeriesDescription of each. File names, and their numbers, aren't those that the tables of lesions give, in neither.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pydicom

from trainables.data.images import SUFFIXES, BadImage, open_image, read_header
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root, ignored
from trainables.data.readers.table import try_table

CASE = re.compile(
    r"(?P<kind>Mass|Calc)-(?P<part>Training|Test)_(?P<patient>P_\d+)_(?P<side>LEFT|RIGHT)_(?P<view>CC|MLO)(_\d+)?"
)
INFO = "dicom_info.csv"
_DICOM = (".dcm", ".dicom")
_MASK_LOOK = (256, 256)  # height and width that an image is decoded to at least, to tell whether it is a mask
_MASK_SHARE = 0.95  # of a mask's pixels are black or white; JPEG and shrinking leave some between at edges
_MASK_NEAR = 8  # of 255: how near to the darkest or brightest counts as that
Kind = Literal["mammogram", "crop", "mask"]


@dataclass(frozen=True)
class File:
    path: str
    """Relative to root."""
    series: str
    """Name of the folder it lies in: the SeriesInstanceUID, in most copies."""


class Files:
    """The images of the copy that lies under a root."""

    def __init__(self, root: Path, problems: Problems) -> None:
        """Lists the files, and reads dicom_info.csv where there is one. No image is opened."""
        self._root = root
        self._safe = Root(root)
        self.all = _files(root)
        images = [path for path in self.all if PurePosixPath(path).suffix.lower() in SUFFIXES]
        cases = {path: case for path in images if path.lower().endswith(_DICOM) and (case := _case(path))}
        infos = self.named(INFO)
        self._described: dict[str, Kind | None] = {}
        self._by_case: dict[str, list[File]] = {}
        self._by_series: dict[str, list[File]] = {}
        self.copy: Literal["DICOM", "JPEG"] | None = None
        """None where neither lies there, or both, which is then among the problems."""
        if bool(cases) == bool(infos):
            problems.add("unknown copies", self._not_one_copy(bool(cases)))
        elif cases:
            self.copy = "DICOM"
            for path, case in cases.items():
                self._add(case, path)
        else:
            self.copy = "JPEG"
            self._add_described(infos, images, problems)

    def named(self, name: str) -> list[str]:
        """Files of that name, in whatever folder."""
        return [path for path in self.all if path.rsplit("/", 1)[-1] == name]

    def mammogram(self, case: str, series: str, where: str, problems: Problems) -> str | None:
        """Path of a whole image, or None, and a problem more."""
        found = self._by_case.get(case) or self._by_series.get(series, [])
        if len(found) > 1:
            kinds = {file: self._kind(file) for file in found}
            found = [f for f in found if kinds[f] == "mammogram"] or [f for f in found if kinds[f] is None]
        if len(found) > 1:
            found = [f for f in found if f.series == series] or found
        if len(found) != 1:
            self._missing(case, "mammogram", len(found), where, problems)
            return None
        return self._usable(found[0], where, problems)

    def crop(self, case: str, series: tuple[str, str], where: str, problems: Problems) -> str | None:
        """Path of a lesion's crop, or None, and a problem more.

        Its SeriesDescription tells it from the mask. Where that is missing, or the same for both, the images do: a mask
        is black and white. Only the smaller one is decoded then, unless that is the mask, or both have one size.

        Args:
            series: what the table says of the crop's and of the mask's series, which may be exchanged.
        """
        found = self._by_case.get(case) or [f for name in dict.fromkeys(series) for f in self._by_series.get(name, [])]
        kinds = {file: self._kind(file) for file in found}
        pool = [f for f in found if kinds[f] == "crop"] or [f for f in found if kinds[f] is None] or found
        told = len(pool) == 1 and (kinds[pool[0]] == "crop" or (kinds[pool[0]] is None and len(found) > 1))
        if not told:
            for file in pool:
                if self._usable(file, where, problems) is None:
                    return None
            try:
                pool = self._not_masks(pool)
            except BadImage as bad:
                sentence = (
                    f"{where}: an image of {case} can't be used to tell crop from mask: {bad.reason}; restore it, or "
                    "leave the row out."
                )
                problems.add("images that can't be used", sentence)
                return None
        if len(pool) != 1:
            self._missing(case, "crop that isn't a mask", len(pool), where, problems)
            return None
        return self._usable(pool[0], where, problems)

    def _add(self, case: str, path: str) -> None:
        parts = path.split("/")
        file = File(path, parts[-2] if len(parts) > 1 else "")
        self._by_case.setdefault(case, []).append(file)
        self._by_series.setdefault(file.series, []).append(file)

    def _add_described(self, infos: list[str], images: list[str], problems: Problems) -> None:
        if len(infos) > 1:
            sentence = f"cbis_ddsm: {INFO} lies in several places ({', '.join(infos)}); keep one of them."
            problems.add("repeated tables", sentence)
        table = try_table(self._root, infos[0], ("image_path", "PatientID", "SeriesDescription"), problems, "cbis_ddsm")
        # The folders before jpeg/ are those of whoever made the conversion, and may be doubled.
        known = {_tail(path): path for path in reversed(images)}
        cases = dict(table.cells("PatientID"))
        descriptions = dict(table.cells("SeriesDescription"))
        for row, cell in table.cells("image_path"):
            path = known.get(_tail(cell), str(PurePosixPath(cell)))
            self._add(cases.get(row, ""), path)
            self._described[path] = _kind_of(descriptions.get(row, ""))

    def _kind(self, file: File) -> Kind | None:
        """By the SeriesDescription, which goes no further."""
        if file.path not in self._described:
            self._described[file.path] = None
            if self.copy == "DICOM" and self._safe.problem(file.path) is None:
                self._described[file.path] = _kind_of(_series_description(self._root / file.path))
        return self._described[file.path]

    def _not_masks(self, pool: list[File]) -> list[File]:
        sizes = {file: int(np.prod(read_header(self._root / file.path).size)) for file in pool}
        ordered = sorted(pool, key=sizes.__getitem__)
        if len(ordered) == 2 and sizes[ordered[0]] < sizes[ordered[1]] and not is_mask(self._root / ordered[0].path):
            return ordered[:1]
        return [file for file in ordered if not is_mask(self._root / file.path)]

    def _usable(self, file: File, where: str, problems: Problems) -> str | None:
        reason = self._safe.problem(file.path)
        if reason is None:
            return file.path
        problems.add("images that can't be used", f'{where}: "{file.path}" {reason}.')
        return None

    def _missing(self, case: str, what: str, count: int, where: str, problems: Problems) -> None:
        sentence = f"{where}: expected one {what} of {case} under root, found {count or 'none'}."
        problems.add(f"missing or unclear {what.split()[0]}s", sentence)

    def _not_one_copy(self, both: bool) -> str:
        looked = (
            "folders like Mass-Training_P_00001_LEFT_CC with .dcm files (TCIA's copy), or "
            f"{INFO} with jpeg/<series>/*.jpg (the JPEG conversion)"
        )
        if both:
            return f"cbis_ddsm: expected either {looked}, found both under root; keep one of them."
        found = sorted({path.split("/")[0] for path in self.all})[:10]
        return f"cbis_ddsm: looked anywhere under root for {looked}, found {', '.join(found) or 'nothing'}."


def is_mask(path: Path) -> bool:
    """Whether an image is nothing but black and white.

    Raises:
        BadImage: it can't be decoded.
    """
    grey = np.asarray(open_image(path, _MASK_LOOK).convert("L")).astype(np.int16)
    return bool(np.mean((grey <= grey.min() + _MASK_NEAR) | (grey >= grey.max() - _MASK_NEAR)) >= _MASK_SHARE)


def _files(root: Path) -> list[str]:
    """All files, links to files among them, sorted."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not ignored(name)]
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in names if not ignored(name)]
    return sorted(found)


def _case(path: str) -> str | None:
    """The first folder of a path that is a PatientID."""
    return next((part for part in path.split("/")[:-1] if CASE.fullmatch(part)), None)


def _tail(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _kind_of(description: str) -> Kind | None:
    words = description.lower()
    if "mask" in words:
        return "mask"
    if "crop" in words:
        return "crop"
    return "mammogram" if "full" in words else None


def _series_description(path: Path) -> str:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesDescription"])
        return str(header.get("SeriesDescription") or "")
    except Exception:  # damaged, which whoever opens the image tells
        return ""
