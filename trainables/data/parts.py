"""Training and validation images and labels as the loop takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaces.config import DatasetConfig, Resolution
from spaces.strict import digest
from trainables.data.manifest import Manifest, Task
from trainables.data.pixels import Pixels, PixelSpec, open_many
from trainables.data.prepared import Prepared


@dataclass(frozen=True)
class Part:
    """Images and labels of one part of a dataset, row by row."""

    pixels: Tensor
    """uint8 [N, C, H, W], C 1 or 3, mapped from disk."""
    labels: Tensor
    """int64 [N]."""
    groups: np.ndarray
    """Name of each row's group [N]: what is never torn apart by a split or a resampling."""
    key: str
    """SHA-256 of the images' contents in their order and of how they became pixels."""

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """SHA-256 of what can be learned from this part: its images and labels, row by row."""
        return digest({"images": self.key, "labels": self.labels.tolist()})


@dataclass(frozen=True)
class TrialData:
    """What one trial learns from and is measured on."""

    train: Part
    validation: Part
    classes: tuple[str, ...]
    task: Task

    def digest(self) -> str:
        """SHA-256 of both parts and the classes. The same on every machine."""
        return digest([self.train.digest(), self.validation.digest(), list(self.classes), self.task])


Progress = Callable[[int, int], None]


def trial_data(
    prepared: Prepared,
    dataset: DatasetConfig,
    resolution: Resolution,
    store: Resolution,
    cache: Path,
    progress: Progress | None = None,
) -> TrialData:
    """Parts of a prepared dataset at a resolution; decodes what no earlier call has decoded.

    Args:
        resolution: height and width of the input in pixels, at which validation images are kept.
        store: height and width at which training images are kept (see trainables.augment.store_resolution).
        cache: folder of the pixel files.
    """
    train, validation = prepared.manifest.take(prepared.train), prepared.manifest.take(prepared.validation)
    return TrialData(
        train=open_part(train, dataset, store, cache, progress),
        validation=open_part(validation, dataset, resolution, cache, progress),
        classes=prepared.manifest.classes,
        task=prepared.manifest.task,
    )


def open_part(
    manifest: Manifest, dataset: DatasetConfig, resolution: Resolution, cache: Path, progress: Progress | None = None
) -> Part:
    """All rows of a manifest at one resolution."""
    return part(manifest, open_many(manifest, [pixel_spec(dataset, resolution)], cache, progress=progress)[0])


def pixel_spec(dataset: DatasetConfig, resolution: Resolution) -> PixelSpec:
    return PixelSpec(height=resolution[0], width=resolution[1], fit=dataset.fit)


def part(manifest: Manifest, pixels: Pixels) -> Part:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes to the mapped file
        mapped = torch.from_numpy(np.asarray(pixels.array))
    return Part(pixels=mapped, labels=torch.from_numpy(manifest.labels), groups=manifest.groups, key=pixels.key)
