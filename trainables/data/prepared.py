"""What a search works on: training and validation rows, and of the test nothing but its digest and counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spaces.config import FORMAT, DatasetConfig, SplitConfig
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.data.manifest import Manifest
from trainables.data.readers import read
from trainables.data.splits import Fold, Split, split
from trainables.data.units import Scored, scored
from trainables.files import replacing

MANIFEST, SETTINGS = "manifest.npz", "prepared.json"


@dataclass(frozen=True)
class Digests:
    """What an export says of the data that its configuration was found on."""

    data_digest: str
    """Of the whole manifest, test included."""
    split_digest: str
    test_digest: str
    """Of the test's groups; keys the ledger of test openings."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A dataset, split. The test's rows aren't in it."""

    manifest: Manifest
    """Training and validation rows only, in the order of the whole manifest."""
    train: np.ndarray
    """[.] int64, sorted rows of `manifest`."""
    validation: np.ndarray
    """[.] int64, sorted rows of `manifest`."""
    folds: tuple[Fold, ...]
    """Training and validation rows of each fold; without folds, the one pair of `train` and `validation`."""
    data_digest: str
    split_digest: str
    test_digest: str
    test_counts: dict[str, int]
    """How many test images each class has."""
    test_scored: dict[str, Scored]
    """What the test can be evaluated on, by class."""
    test_contents: str = ""
    """Digest of the test's images, which keys the ledger beside `test_digest`; of folders that came before it none."""

    @property
    def digests(self) -> Digests:
        return Digests(self.data_digest, self.split_digest, self.test_digest)

    def save(self, folder: Path) -> None:
        """Writes two files, each atomically; the settings last, and they vouch for the manifest."""
        self.manifest.save(folder / MANIFEST)
        settings: dict[str, Any] = {
            "format": FORMAT,
            "manifest": self.manifest.digest(),
            "train": self.train.tolist(),
            "validation": self.validation.tolist(),
            "folds": [validation.tolist() for _, validation in self.folds],
            "data_digest": self.data_digest,
            "split_digest": self.split_digest,
            "test_digest": self.test_digest,
            "test_contents": self.test_contents,
            "test_counts": self.test_counts,
            "test_scored": {name: asdict(of_class) for name, of_class in self.test_scored.items()},
        }
        with replacing(folder / SETTINGS) as file:
            file.write(json.dumps({**settings, "digest": digest(settings)}).encode())

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """What `save` wrote.

        Raises:
            Mistake: not there, damaged, or of another version.
        """
        path = folder / SETTINGS
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            intact = settings.pop("digest") == digest(settings)
        except FileNotFoundError:
            raise Mistake(
                f"{path}: no such file, which a search's folder should hold; restore it, or search anew."
            ) from None
        except (OSError, ValueError, KeyError, AttributeError):
            intact = False
        if not intact:
            raise Mistake(f"{path}: damaged; delete {folder} and start again.")
        if settings["format"] != FORMAT:
            raise Mistake(f"{path}: has format {settings['format']}, this version reads {FORMAT}; make it anew.")
        manifest = Manifest.load(folder / MANIFEST)
        if manifest.digest() != settings["manifest"]:
            raise Mistake(f"{folder / MANIFEST}: isn't the manifest that {SETTINGS} belongs to; delete {folder}.")
        return cls(
            manifest=manifest,
            train=np.array(settings["train"], dtype=np.int64),
            validation=np.array(settings["validation"], dtype=np.int64),
            folds=tuple(_fold(len(manifest), validation) for validation in settings["folds"]),
            data_digest=settings["data_digest"],
            split_digest=settings["split_digest"],
            test_digest=settings["test_digest"],
            test_contents=settings.get("test_contents", ""),
            test_counts=settings["test_counts"],
            test_scored={name: Scored(**of_class) for name, of_class in settings["test_scored"].items()},
        )


def prepare(config: DatasetConfig, cache: Path, base: Path | None) -> Prepared:
    """Reads a dataset and splits it; no pixel is decoded.

    Args:
        cache: folder that remembers hashes of contents.
        base: what a relative root is relative to; None is the working folder.

    Raises:
        Mistake: all that the reader finds wrong, or what can't be split without a leak.
    """
    return prepare_for_audit(config, cache, base)[0]


def prepare_for_audit(config: DatasetConfig, cache: Path, base: Path | None) -> tuple[Prepared, Manifest, np.ndarray]:
    """As `prepare`, with what `divide` adds."""
    return divide(read(config, cache, base), config.split)


def divide(whole: Manifest, config: SplitConfig) -> tuple[Prepared, Manifest, np.ndarray]:
    """A whole manifest, split; with the manifest of all rows that are in a part, of the test too, and each row's part,
    [N] str: train, validation or test; with folds, the number of its fold or test.

    For looking at files: that an image can be decoded, or looks like another, says nothing of how well it is
    recognised. The test stays sealed.

    Raises:
        Mistake: what can't be split without a leak.
    """
    parts = split(whole, config)
    rows = np.union1d(parts.train, parts.validation)

    def within(part: np.ndarray) -> np.ndarray:
        return np.searchsorted(rows, part).astype(np.int64)

    test = whole.take(parts.test)
    prepared = Prepared(
        manifest=whole.take(rows),
        train=within(parts.train),
        validation=within(parts.validation),
        folds=tuple((within(train), within(validation)) for train, validation in parts.folds),
        data_digest=whole.digest(),
        split_digest=parts.digest,
        test_digest=parts.test_digest,
        test_contents=parts.test_contents,
        test_counts=test.class_counts(),
        test_scored=scored(test),
    )
    of_row = np.full(len(whole), "", dtype="<U12")
    of_row[parts.train], of_row[parts.test] = "train", "test"
    for number, (_, validation) in enumerate(parts.folds, start=1):
        of_row[validation] = f"fold {number}" if len(parts.folds) > 1 else "validation"
    used = of_row != ""
    return prepared, whole.take(used), of_row[used]


def sealed_test(config: DatasetConfig, cache: Path, base: Path | None, expected: Prepared | Digests) -> Manifest:
    """The manifest of the test's rows. For `final` alone, which notes the opening in the ledger first.

    Raises:
        Mistake: as `prepare`; or the data or the split aren't those that `expected` was made from.
    """
    whole, parts = _read_and_split(config, cache, base)
    found = Digests(whole.digest(), parts.digest, parts.test_digest)
    for what, of, now in (
        ("data", expected.data_digest, found.data_digest),
        ("split", expected.split_digest, found.split_digest),
        ("test set", expected.test_digest, found.test_digest),
    ):
        if of != now:
            raise Mistake(
                f"dataset: an export from other data: its {what} has the digest {of[:12]}, what lies under "
                f"{whole.root} has {now[:12]}. Give the dataset and the split that it was made from."
            )
    return whole.take(parts.test)


def _read_and_split(config: DatasetConfig, cache: Path, base: Path | None) -> tuple[Manifest, Split]:
    whole = read(config, cache, base)
    return whole, split(whole, config.split)


def _fold(rows: int, validation: list[int]) -> Fold:
    inside = np.array(validation, dtype=np.int64)
    return np.setdiff1d(np.arange(rows), inside), inside
