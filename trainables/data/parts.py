"""Training and validation images and labels as the loop takes them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaces.config import DatasetConfig, Resolution
from spaces.strict import digest
from trainables.data.manifest import Manifest, Task
from trainables.data.pixels import Pixels, Progress, open_many, pixel_spec
from trainables.data.prepared import Prepared
from trainables.data.units import Units, units_of


@dataclass(frozen=True)
class Part:
    """Images and labels of one part of a dataset, row by row."""

    pixels: Tensor
    """uint8 [N, C, H, W], C 1 or 3, mapped from disk."""
    labels: Tensor
    """What is learned: int64 [N]; multilabel: float32 [N, L] with 0, 1, -1 (uncertain), NaN (not mentioned)."""
    units: Units
    """What is scored."""
    key: str
    """SHA-256 of the images' contents in their order and of what made pixels of them."""

    at: Tensor | None = None
    """int64 [N], where a row's image is in `pixels`; None: in the same place."""
    file: str = ""
    """Names what is in `pixels`, where that isn't `key`: a file that several parts share."""
    contents: str = ""
    """As `key`, whatever made pixels of the images (`Pixels.contents`); empty where the pixels are all that is known.
    """

    def places(self, rows: Tensor) -> Tensor:
        """Where the images of rows [B] are in `pixels`."""
        return rows if self.at is None else self.at[rows]

    def images(self, rows: Tensor) -> Tensor:
        """uint8 [B, C, H, W] of rows [B]."""
        return self.pixels[self.places(rows)]

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of what can be learned from this part: its images and labels, row by row.

        Not of what decoded the images: a trial, or a final's run, goes on from its checkpoints where that has changed,
        which a resume and a final tell (`search.identity`), as they do where torch has.
        """
        labels = self.labels.nan_to_num(nan=-2.0).tolist()
        return digest({"images": self.contents or self.key, "labels": labels, "units": self.units.digest()})


@dataclass(frozen=True)
class TrialData:
    """What one trial learns from and is measured on."""

    train: Part
    validation: Part
    classes: tuple[str, ...]
    task: Task
    decoded: int = 0
    """Images that were decoded to make it; 0 where their pixels were there."""

    def digest(self) -> str:
        """SHA-256 of both parts and the classes. The same on every machine."""
        return digest([self.train.digest(), self.validation.digest(), list(self.classes), self.task])


def trial_data(
    prepared: Prepared,
    dataset: DatasetConfig,
    resolution: Resolution,
    store: Resolution,
    cache: Path,
    progress: Progress | None = None,
    fold: int | None = None,
) -> TrialData:
    """Parts of a prepared dataset at a resolution; decodes what no earlier call has decoded.

    Args:
        resolution: height and width of the input in pixels, at which validation images are kept.
        store: height and width at which training images are kept (see trainables.augment.store_resolution).
        cache: folder of the pixel files.
        fold: which of the prepared dataset's folds; None is its training and validation part.
    """
    specs = [pixel_spec(dataset, size) for size in (store, resolution)]
    if fold is None:
        manifests = [prepared.manifest.take(rows) for rows in (prepared.train, prepared.validation)]
        opened = [open_many(one, [s], cache, progress=progress)[0] for one, s in zip(manifests, specs, strict=True)]
        train, validation = (part(one, pixels) for one, pixels in zip(manifests, opened, strict=True))
    else:  # all folds share the pixel files of all rows
        opened = open_many(prepared.manifest, specs, cache, progress=progress)
        train, validation = (
            rows_of(prepared.manifest, pixels, rows) for pixels, rows in zip(opened, prepared.folds[fold], strict=True)
        )
    return TrialData(
        train=train,
        validation=validation,
        classes=prepared.manifest.classes,
        task=prepared.manifest.task,
        decoded=sum(pixels.decoded for pixels in opened),
    )


def open_part(
    manifest: Manifest, dataset: DatasetConfig, resolution: Resolution, cache: Path, progress: Progress | None = None
) -> Part:
    """All rows of a manifest at one resolution."""
    return part(manifest, open_many(manifest, [pixel_spec(dataset, resolution)], cache, progress=progress)[0])


def rows_of(manifest: Manifest, pixels: Pixels, rows: np.ndarray) -> Part:
    """Some rows [M] int64 of a manifest whose pixels are open: no file of their own."""
    whole, at = part(manifest, pixels), torch.from_numpy(rows)
    key, contents = (digest([of_file, rows.tolist()]) for of_file in (pixels.key, pixels.contents))
    return Part(whole.pixels, whole.labels[at], units_of(manifest.take(rows)), key, at, pixels.key, contents)


def part(manifest: Manifest, pixels: Pixels) -> Part:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes to the mapped file
        mapped = torch.from_numpy(np.asarray(pixels.array))
    labels = torch.from_numpy(manifest.labels)
    return Part(mapped, labels, units_of(manifest), pixels.key, contents=pixels.contents)
