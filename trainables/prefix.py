"""What the frozen part of a network gives for the rows of a part, computed once and kept, or live.

Frozen blocks are a function of weights, pixels and augmentation alone, so that trials which share these share what was
computed. Where it is kept it is computed for a whole view at once, in an order of its own; kept or live, losses are the
same but for the order of summation within a matrix product.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from spaces.config import TrialConfig
from spaces.sources import sources_digest
from spaces.strict import digest
from trainables import watchdog
from trainables.accumulation import Pieces
from trainables.ahead import ahead
from trainables.augment import Augment, draws
from trainables.backbones import build, weights_digest
from trainables.data.parts import Part
from trainables.data.stored import ACTIVATIONS, built, stored
from trainables.model import Model
from trainables.place import Place, autocast, precision
from trainables.resident import Rows, resident_of

log = logging.getLogger(__name__)

BATCH = 256  # images at once where nothing is learned
AHEAD = 2  # batches that the host has ready
SHARE_OF_DISK = 0.4
NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.bfloat16: np.dtype(np.uint16),
}  # NumPy has no bfloat16
COMPUTING = (
    "trainables.backbones",
    "trainables.model",
    "trainables.augment",
    "trainables.prefix",
    "trainables.place",
    "trainables.accumulation",
    "trainables.resident",
    "spaces.feature",
)
"""The code that what is kept follows from; what else differs is in each key by itself."""
CODE = sources_digest(COMPUTING)  # as this process loads it, whatever is edited meanwhile
VERSIONS = {"torch": torch.__version__, "timm": timm.__version__}


@dataclass(frozen=True)
class ActivationStore:
    """Where activations are kept, and how many bytes they may take."""

    home: Path
    budget: int


@dataclass
class Counts:
    """Images whose frozen part was computed, and those for which it was read."""

    computed: int = 0
    read: int = 0


class Prefix:
    """The frozen part of a trial's model, for the rows of one part of its data.

    What it draws and keeps is of the images in the part's file of pixels, by their places in it, so that folds, whose
    parts are rows of one file, share both.

    Args:
        augment: None for evaluation.
        store: None computes everything live.
    """

    def __init__(
        self,
        model: Model,
        config: TrialConfig,
        part: Part,
        place: Place,
        augment: Augment | None = None,
        store: ActivationStore | None = None,
    ) -> None:
        self.model, self.config, self.part, self.place = model, config, part, place
        self.augment = augment if augment and augment.active else None
        self.store = store if store and worth_keeping(model) else None
        self.counts = Counts()
        self.resident = resident_of(place.device)
        self.ahead = 0 if place.device.type == "cpu" else AHEAD
        self.pieces = Pieces(BATCH, place.device)
        self._view = -1
        self._draws = torch.empty(0)
        self._kept: Rows | None = None

    def look_at(self, epoch: int) -> None:
        """Makes ready for an epoch: draws its view, and opens what is kept of it."""
        view = view_of(epoch, self.config) if self.augment else 0
        if view == self._view:
            return
        self._view = view
        if self.augment:
            self._draws = draws(view_seed(self.config), view, len(self.part.pixels)).to(self.place.device)
        self._kept = self._opened() if self.store and self._fits() else None

    def __call__(self, rows: Tensor) -> Tensor:
        """For rows [B] int64 (on the host): the hidden state on the place's device, or, where the stem is trained, the
        images.

        Returns:
            What `Model.from_hidden`, or `Model.forward`, takes.
        """
        places = self.part.places(rows)
        return self._given(places, self._gathered(places))

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """What calling gives for each batch of rows, in turn. The host gathers the next ones meanwhile."""
        batches = [self.part.places(rows) for rows in batches]
        with closing(ahead(self._gathered, batches, self.ahead)) as gathered:
            for places, of_places in zip(batches, gathered, strict=True):
                yield self._given(places, of_places)

    def all_rows(self) -> Rows:
        """Of every row, in their order: kept, or computed now. Not for a trained stem.

        What is computed now lies on the device, too, where it fits beside training, and else on the host.
        """
        if self._kept is not None:
            self.counts.read += len(self.part)
            return self._kept.at(self.part.at)
        array = np.empty((len(self.part), *self._shape), NUMPY[self.dtype])
        self._fill(array, self.part.places(torch.arange(len(self.part))))
        computed = torch.from_numpy(array).view(self.dtype)
        return Rows(computed, None, self.place.device, self.resident)

    @functools.cached_property
    def _pixels(self) -> Rows:
        return Rows(self.part.pixels, f"pixels {self.part.file or self.part.key}", self.place.device, self.resident)

    def _gathered(self, places: Tensor) -> Tensor | None:
        """What of `_given` is the host's."""
        return self._kept.gather(places) if self._kept else self._pixels.gather(places)

    def _given(self, places: Tensor, gathered: Tensor | None) -> Tensor:
        if self._kept is not None:
            self.counts.read += len(places)
            return self._kept.give(places, gathered)
        images = self._images(places, gathered)
        if self.model.stem_trained:
            return images
        self.counts.computed += len(places)
        return self.pieces.of(images, self._hidden)

    def _images(self, places: Tensor, gathered: Tensor | None) -> Tensor:
        pixels = self._pixels.give(places, gathered)
        if self.augment:
            return self.augment(pixels, self._draws[places.to(self._draws.device, non_blocking=True)])
        return pixels.float().div_(255)

    def _hidden(self, images: Tensor) -> Tensor:
        """In the type in which it would be kept, so that live and kept are the same."""
        with torch.no_grad(), autocast(images.device):
            return self.model.hidden(images).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return precision(self.place.device)

    @functools.cached_property
    def _shape(self) -> tuple[int, ...]:
        """Of the hidden state of one image."""
        return tuple(self._hidden(self._images(torch.zeros(1, dtype=torch.int64), None)).shape[1:])

    def _fits(self) -> bool:
        """Whether all views that this trial looks at would fit the store at once; they would only drive each other
        out."""
        assert self.store is not None
        views = views_looked_at(self.config) if self.augment else 1
        each = len(self.part.pixels) * int(np.prod(self._shape)) * NUMPY[self.dtype].itemsize
        return views * each <= self.store.budget

    def _opened(self) -> Rows | None:
        assert self.store is not None
        key = self.key()
        try:
            array = stored(self.store.home, key)
            if array is None:
                everywhere = torch.arange(len(self.part.pixels))
                shape, fill = (len(everywhere), *self._shape), functools.partial(self._fill, places=everywhere)
                array = built(self.store.home, key, shape, NUMPY[self.dtype], fill, self.store.budget)
        except OSError as error:
            log.warning("activations can't be kept (%s); they are computed as they are needed", error.strerror)
            return None
        if array is None:
            return None
        kept = torch.from_numpy(np.asarray(array)).view(self.dtype)
        return Rows(kept, f"kept {key}", self.place.device, self.resident)

    def _fill(self, array: np.ndarray, places: Tensor) -> None:
        """Computes what is at these places [M] into an array [M, ...]."""
        training = self.model.training
        self.model.eval()
        pieces, start = places.split(BATCH), 0
        for piece, gathered in zip(pieces, ahead(self._pixels.gather, pieces, self.ahead), strict=True):
            hidden = self.pieces.of(self._images(piece, gathered), self._hidden).contiguous().cpu()
            wide = torch.uint16 if self.dtype == torch.bfloat16 else self.dtype
            array[start : start + len(piece)] = hidden.view(wide)
            start += len(piece)
            self.counts.computed += len(piece)
            watchdog.beat()
        self.model.train(training)

    @property
    def _views_differ(self) -> bool:
        return self.augment is not None and self.augment.ranges.random

    def key(self) -> str:
        """SHA-256 of everything that the kept numbers follow from; not of a seed or a view where nothing is drawn."""
        backbone = self.model.backbone
        return digest(
            {
                "code": CODE,
                "versions": VERSIONS,
                "backbone": backbone.spec.computing,
                "weights": frozen_digest(self.config),
                "resolution": list(backbone.resolution),
                "cut": self.model.cut,
                "images": self.part.file or self.part.key,
                "augmented": self.augment.ranges.plain() if self.augment else None,
                "view": [view_seed(self.config), self._view] if self._views_differ else None,
                "dtype": str(self.dtype),
            }
        )


def activation_store(cache: Path, budget: int) -> ActivationStore | None:
    """The store in a cache's folder; None where it may take nothing."""
    return ActivationStore(cache / ACTIVATIONS, budget) if budget else None


def activation_budget(cache: Path, wanted: float | str) -> int:
    """Bytes that a cache's activations may take: GiB as asked for, or `auto`, a share of what is free."""
    if isinstance(wanted, str):
        home = cache / ACTIVATIONS
        kept = 0
        for array in home.glob("*/array"):
            with suppress(FileNotFoundError):  # another process makes room meanwhile
                kept += array.stat().st_size
        there = next(folder for folder in (home, *home.parents) if folder.exists())
        return int(SHARE_OF_DISK * (shutil.disk_usage(there).free + kept))
    return int(wanted * 2**30)


def view_of(epoch: int, config: TrialConfig) -> int:
    """Which view of the training images an epoch (counted from 0) looks at."""
    if config.level == 0:
        return 0
    return epoch % config.views if config.views else epoch


def views_looked_at(config: TrialConfig) -> int:
    """How many views of the training images that differ a trial looks at."""
    if config.level == 0 or not Augment(config).ranges.random:
        return 1
    return min(config.views or config.epochs, config.epochs)


def view_seed(config: TrialConfig) -> int:
    return config.seed if config.view_seed is None else config.view_seed


def worth_keeping(model: Model) -> bool:
    """Whether what is frozen costs enough to be kept: all blocks, or more than half of them.

    With k of L blocks trained, keeping saves L - k of L + 2k block passes: at half it is a quarter of the time, for
    tokens of every image and view on disk.
    """
    return model.frozen or (not model.stem_trained and 2 * model.backbone.boundary > model.backbone.spec.blocks)


@functools.lru_cache(maxsize=64)
def _digest_of_weights(backbone: str, weights: str, resolution: tuple[int, int], changed: int) -> str:
    return weights_digest(build(backbone, weights=weights, resolution=resolution))


def frozen_digest(config: TrialConfig) -> str:
    """SHA-256 of a backbone's weights as they are before any training; computed once a process."""
    file = Path(config.weights)
    changed = 0 if config.weights in ("pretrained", "random") else file.stat().st_mtime_ns
    return _digest_of_weights(config.backbone, config.weights, config.resolution, changed)
