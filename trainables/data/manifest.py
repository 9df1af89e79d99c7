"""What a reader gives: which images there are, what each is labelled, and which belong together."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from spaces.config import FORMAT, METRICS, Crop
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.files import replacing

Task = Literal["classification", "ordinal", "multilabel"]
Combine = Literal["mean", "max"]
ALONE = (
    "Which images are of one patient or lesion isn't known: parts may share some, and intervals, which take images for "
    "independent that aren't copies, may be too narrow."
)
"""A caveat of datasets without groups."""
OFFICIAL = ("", "train", "validation", "test")
UNCERTAIN = -1.0  # of a finding that the report is unsure of; NaN is one that it doesn't mention
_ARRAYS = ("paths", "contents", "labels", "groups", "official", "units", "truth")
_ATTRIBUTE = "attribute:"  # begins the names of attributes' arrays in a file
_DIGEST_BYTES = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class Manifest:
    """A dataset, one row an image. Rows keep their order, and row numbers index every array made from them."""

    root: Path
    """Folder of the dataset on this machine."""
    task: Task = "classification"
    classes: tuple[str, ...]
    """Names of the L classes, grades in rising order, or findings."""
    metric: str
    """The dataset's own default, one of spaces.config.METRICS."""
    policy: str = "natural"
    """The dataset's own default augmentation policy, a key of spaces/policies.yaml."""
    paths: np.ndarray
    """[N] str, relative to root, with forward slashes. Never leaves this machine."""
    contents: np.ndarray
    """[N] str, hexadecimal BLAKE2b (16 bytes) of the file's bytes."""
    labels: np.ndarray
    """[N] int64, index of the class; multilabel: [N, L] float32 with 0, 1, -1 (uncertain) or NaN (not mentioned). What
    is learned from; how uncertain and missing ones are learned from is a trial's choice."""
    groups: np.ndarray
    """[N] str; images of one group (patient, lesion, content) are never in two parts of a split."""
    official: np.ndarray = None  # type: ignore[assignment]  # filled in below, as are others
    """[N] str, part of the dataset's own split: "train", "validation", "test", or "" where it has none; by default
    nowhere."""
    notes: tuple[str, ...] = ()
    """What the person should know of how the dataset was read, in full sentences."""
    caveats: tuple[str, ...] = ()
    """What whoever sees a figure made on these images should know, in full sentences without names of files, columns or
    people: reports and model cards show it."""
    units: np.ndarray = None  # type: ignore[assignment]
    """[N] str, what is reported on (an image, a breast, a study): predictions of a unit's rows are combined before they
    are scored. A unit lies within a group. By default each row is a unit."""
    truth: np.ndarray = None  # type: ignore[assignment]
    """[N] int64, class of the row's unit; multilabel: [N, L] float32 with 0, 1, or NaN where it isn't scored. What is
    evaluated against, the same for all rows of a unit, never searched. By default the labels."""
    combine: Combine = "mean"
    """How the probabilities of a unit's rows become the unit's."""
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Each [N] str, "" where it isn't known: what results are broken down by (sex, age, view, source, density)."""
    crop: Crop = "none"
    """The dataset's own default of how images are cut before they are resized."""
    left_out: tuple[str, ...] = ()
    """What was left out of every part for labels that contradict each other: of each image its files and their labels,
    as the end of a sentence. Never leaves this machine."""

    def __post_init__(self) -> None:
        rows = len(self.paths)
        if self.official is None:
            object.__setattr__(self, "official", np.full(rows, ""))
        if self.units is None:
            object.__setattr__(self, "units", np.arange(rows).astype(np.str_))
        if self.truth is None:
            known = np.where(self.labels == UNCERTAIN, np.nan, self.labels).astype(np.float32)
            object.__setattr__(self, "truth", known if self.task == "multilabel" else self.labels)
        multilabel = self.task == "multilabel"
        shape = (rows, len(self.classes)) if multilabel else (rows,)
        dtype = np.float32 if multilabel else np.int64
        if self.task not in get_args(Task) or self.metric not in METRICS:
            raise ValueError(f"unknown task or metric: {self.task}, {self.metric}")
        for name, array in (("labels", self.labels), ("truth", self.truth)):
            if array.shape != shape or array.dtype != dtype:
                expected = f"{np.dtype(dtype)} {shape}"
                raise ValueError(f"{name}: expected {expected}, found {array.dtype} {array.shape}")
            if not multilabel and rows and not (array.min() >= 0 and array.max() < len(self.classes)):
                raise ValueError(f"{name}: expected 0 to {len(self.classes) - 1}")
        texts = {name: getattr(self, name) for name in ("paths", "contents", "groups", "official", "units")}
        for name, array in {**texts, **self.attributes}.items():
            if array.shape != (rows,) or array.dtype.kind != "U":
                raise ValueError(f"{name}: expected {rows} strings, found {array.dtype} {array.shape}")
        if not np.isin(self.official, OFFICIAL).all():
            raise ValueError(f"official: expected some of {OFFICIAL}")

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> Manifest:
        """The manifest of some rows, in their order. `rows`: [M] int64, or [N] bool."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, **arrays, attributes={name: values[rows] for name, values in self.attributes.items()})

    def check_units(self) -> None:
        """That a unit has one truth and lies within one group.

        Raises:
            ValueError: a reader has made one that doesn't.
        """
        _, first, unit = np.unique(self.units, return_index=True, return_inverse=True)
        if not (self.groups == self.groups[first][unit]).all():
            raise ValueError("a unit's rows are of different groups")
        if not np.array_equal(self.truth, self.truth[first][unit], equal_nan=self.task == "multilabel"):
            raise ValueError("a unit's rows have different truths")

    def digest(self) -> str:
        """SHA-256 of what can be learned from and is evaluated: task, classes, and each row's content, label, group,
        official part, unit and truth.

        Independent of the root, of file names (but for the order of rows that follows from them), of the machine and
        of modification times.
        """
        return digest(
            {
                "task": self.task,
                "classes": list(self.classes),
                "contents": self.contents.tolist(),
                "labels": _plain(self.labels),
                "groups": self.groups.tolist(),
                "official": self.official.tolist(),
                "units": _numbers(self.units),
                "truth": _plain(self.truth),
                "combine": self.combine,
            }
        )

    def groups_digest(self) -> str:
        """Of which groups it holds, however often."""
        return digest(sorted(set(self.groups.tolist())))

    def contents_digest(self) -> str:
        """Of which images it holds, whatever they are called, labelled or grouped by."""
        return digest(sorted(set(self.contents.tolist())))

    def class_counts(self) -> dict[str, int]:
        """How many images each class has; multilabel: how many are known to have the finding."""
        if self.task == "multilabel":
            counts = np.nansum(self.labels == 1, axis=0)
        else:
            counts = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}

    def save(self, path: Path) -> None:
        """Writes everything to one file, atomically: NumPy's zip archive, no pickle, and SHA-256 of it at the end."""
        meta = {
            "format": FORMAT,
            "root": str(self.root),
            "task": self.task,
            "classes": list(self.classes),
            "metric": self.metric,
            "policy": self.policy,
            "notes": list(self.notes),
            "caveats": list(self.caveats),
            "combine": self.combine,
            "crop": self.crop,
            "left_out": list(self.left_out),
        }
        archive = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {f"{_ATTRIBUTE}{name}": values for name, values in self.attributes.items()}
        np.savez_compressed(archive, meta=np.array(json.dumps(meta)), **arrays)
        with replacing(path) as file:
            file.write(archive.getvalue())
            file.write(hashlib.sha256(archive.getvalue()).digest())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """What `save` wrote.

        Raises:
            Mistake: no such file, damaged, or written by another version.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise Mistake(
                f"{path}: no such file, which a search's folder should hold; restore it, or search anew."
            ) from None
        except OSError as error:
            raise Mistake(f"{path}: can't be read ({error.strerror}); give this user the right to.") from None
        content, expected = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != expected:
            raise Mistake(f"{path}: damaged (its digest doesn't match); delete it and start again.")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            meta = json.loads(str(archive["meta"]))
            if meta["format"] != FORMAT:
                raise Mistake(f"{path}: has format {meta['format']}, this version reads {FORMAT}; make it anew.")
            return cls(
                root=Path(meta["root"]),
                task=meta["task"],
                classes=tuple(meta["classes"]),
                metric=meta["metric"],
                policy=meta["policy"],
                notes=tuple(meta["notes"]),
                caveats=tuple(meta.get("caveats", ())),  # none in files that came before them
                combine=meta["combine"],
                crop=meta["crop"],
                left_out=tuple(meta.get("left_out", ())),
                attributes={
                    name.removeprefix(_ATTRIBUTE): archive[name] for name in archive if name.startswith(_ATTRIBUTE)
                },
                **{name: archive[name] for name in _ARRAYS},
            )


def _plain(labels: np.ndarray) -> list[Any]:
    if labels.ndim == 1:
        return labels.tolist()
    return [[None if value != value else value for value in row] for row in labels.tolist()]


def _numbers(names: np.ndarray) -> list[int]:
    """Names as numbers in the order in which they first occur: which rows belong together, whatever it is called."""
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].tolist()
