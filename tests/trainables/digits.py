"""Two hundred handwritten digits as a dataset for tests: files, prepared, and trials that learn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from spaces.backbone import backbone
from spaces.config import DatasetConfig, TrialConfig
from trainables.augment import store_resolution
from trainables.data.parts import TrialData, trial_data
from trainables.data.prepared import Prepared, prepare

IMAGES = 200
EVERYTHING: dict[str, Any] = {
    "level": 3,
    "trained_blocks": "all",
    "mixup": 0.4,
    "label_smoothing": 0.1,
    "drop_path": 0.3,
    "ema": 0.1,
    "layer_decay": 0.75,
}
"""Settings of a trial with all that draws from a random state or carries one from step to step."""


@dataclass(frozen=True)
class Digits:
    """Where the prepared digits lie."""

    folder: Path
    dataset: DatasetConfig

    @property
    def prepared(self) -> Path:
        return self.folder / "data"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def config(self, name: str = "dinov2_tiny", **changes: Any) -> TrialConfig:
        return TrialConfig.model_validate(
            {
                "backbone": name,
                "weights": "random",
                "metric": "balanced_accuracy",
                "epochs": 3,
                "seed": 3,
                "resolution": backbone(name).native,
                "policy": "digits",
                "head_lr": 3e-3,
                "backbone_lr_ratio": 0.5,
                "batch_size": 32,
                **changes,
            }
        )

    def data(self, config: TrialConfig) -> TrialData:
        store = store_resolution(config)
        return trial_data(Prepared.load(self.prepared), self.dataset, config.resolution, store, self.cache)


def write_and_prepare(folder: Path) -> Digits:
    """Writes the images, and prepares them: 128 to train on, 32 to validate, 40 to test."""
    source = load_digits()
    for index in range(IMAGES):
        path = folder / "images" / str(source.target[index]) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(source.images[index] * (255 / 16)).astype(np.uint8)).save(path)
    dataset = DatasetConfig(reader="folder", root=str(folder / "images"), policy="digits")
    prepare(dataset, folder / "cache", None).save(folder / "data")
    return Digits(folder, dataset)
