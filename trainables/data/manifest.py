"""What a reader gives: which images there are, what each is labelled, and which belong together."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from spaces.config import FORMAT, METRICS
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.files import replacing

Task = Literal["classification", "ordinal", "multilabel"]
OFFICIAL = ("", "train", "validation", "test")
_ARRAYS = ("paths", "contents", "labels", "groups", "official")
_DIGEST_BYTES = 32


@dataclass(frozen=True, eq=False)
class Manifest:
    """A dataset, one row an image. Rows keep their order, and row numbers index every array made from them."""

    root: Path
    """Folder of the dataset on this machine."""
    task: Task
    classes: tuple[str, ...]
    """Names of the L classes, grades in rising order, or findings."""
    metric: str
    """The dataset's own default, one of spaces.config.METRICS."""
    policy: str
    """The dataset's own default augmentation policy, a key of spaces/policies.yaml."""
    paths: np.ndarray
    """[N] str, relative to root, with forward slashes. Never leaves this machine."""
    contents: np.ndarray
    """[N] str, hexadecimal BLAKE2b (16 bytes) of the file's bytes."""
    labels: np.ndarray
    """[N] int64, index of the class; multilabel: [N, L] float32 with 0, 1, or NaN where it isn't known."""
    groups: np.ndarray
    """[N] str; images of one group (patient, lesion, content) are never in two parts of a split."""
    official: np.ndarray
    """[N] str, part of the dataset's own split: "train", "validation", "test", or "" where it has none."""
    notes: tuple[str, ...] = ()
    """What the person should know of how the dataset was read, in full sentences."""

    def __post_init__(self) -> None:
        rows = len(self.paths)
        multilabel = self.task == "multilabel"
        shape = (rows, len(self.classes)) if multilabel else (rows,)
        dtype = np.float32 if multilabel else np.int64
        if self.task not in get_args(Task) or self.metric not in METRICS:
            raise ValueError(f"unknown task or metric: {self.task}, {self.metric}")
        if self.labels.shape != shape or self.labels.dtype != dtype:
            expected = f"{np.dtype(dtype)} {shape}"
            raise ValueError(f"labels: expected {expected}, found {self.labels.dtype} {self.labels.shape}")
        if not multilabel and rows and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}")
        for name in ("paths", "contents", "groups", "official"):
            array = getattr(self, name)
            if array.shape != (rows,) or array.dtype.kind != "U":
                raise ValueError(f"{name}: expected {rows} strings, found {array.dtype} {array.shape}")
        if not np.isin(self.official, OFFICIAL).all():
            raise ValueError(f"official: expected some of {OFFICIAL}")

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> Manifest:
        """The manifest of some rows, in their order. `rows`: [M] int64, or [N] bool."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    def digest(self) -> str:
        """SHA-256 of what can be learned from: task, classes, and each row's content, label, group and official part.

        Independent of the root, of file names (but for the order of rows that follows from them), of the machine and
        of modification times.
        """
        labels: list[Any] = self.labels.tolist()
        if self.task == "multilabel":
            labels = [[None if value != value else value for value in row] for row in labels]
        return digest(
            {
                "task": self.task,
                "classes": list(self.classes),
                "contents": self.contents.tolist(),
                "labels": labels,
                "groups": self.groups.tolist(),
                "official": self.official.tolist(),
            }
        )

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
        }
        archive = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
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
            raise Mistake(f"{path}: no such file.") from None
        except OSError as error:
            raise Mistake(f"{path}: can't be read ({error.strerror}).") from None
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
                **{name: archive[name] for name in _ARRAYS},
            )
