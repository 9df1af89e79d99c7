"""What a split by image reports where nothing can be learned, and what ours does, by the real reader and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from spaces.config import DatasetConfig, SearchConfig
from spaces.protocol import apply
from tests.trainables.data.leaking import write_leaking
from trainables.data.pixels import PixelSpec, open_pixels
from trainables.data.prepared import prepare, sealed_test
from trainables.intervals import Interval, group_bootstrap

CLASSES = 8


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_leaking(tmp_path_factory.mktemp("leak") / "isic", lesions=480)


def reported(dataset: DatasetConfig, cache: Path) -> Interval:
    """Balanced accuracy on the test set of the nearest training image, with its interval over lesions."""
    prepared = prepare(dataset, cache, None)
    test = sealed_test(dataset, cache, None, prepared)
    train = prepared.manifest.take(prepared.train)
    spec = PixelSpec(height=16, width=16)
    seen, new = (np.asarray(open_pixels(part, spec, cache).array).reshape(len(part), -1) for part in (train, test))
    nearest = KNeighborsClassifier(1).fit(seen.astype(np.float32), train.labels).predict(new.astype(np.float32))
    probabilities = np.eye(CLASSES)[nearest]
    return group_bootstrap(
        "balanced_accuracy", test.labels, probabilities, test.groups, classes=CLASSES, resamples=2000
    )


def test_the_papers_split_reports_a_lot_and_ours_chance(leaking: Path, tmp_path: Path) -> None:
    own = {"name": "leak", "dataset": {"reader": "isic2019", "root": str(leaking)}, "backbones": ["mae_tiny"]}
    paper = apply(SearchConfig.parse({**own, "protocol": "paper"}, "s"))
    assert paper.dataset.split.by == "image"
    leak = reported(paper.dataset, tmp_path / "cache")
    assert leak.value > 0.9, leak

    honest = reported(SearchConfig.parse(own, "s").dataset, tmp_path / "cache")
    assert honest.low is not None and honest.high is not None and not honest.warnings, honest
    assert honest.low < 1 / CLASSES < honest.high < 0.3, honest


def test_most_test_images_of_the_papers_split_share_a_lesion_with_training(leaking: Path, tmp_path: Path) -> None:
    settings = {"name": "l", "dataset": {"reader": "isic2019", "root": str(leaking)}, "backbones": ["mae_tiny"]}
    for protocol, low, high in (("paper", 0.9, 1.0), ("own", 0.0, 0.0)):
        dataset = apply(SearchConfig.parse({**settings, "protocol": protocol}, "s")).dataset
        prepared = prepare(dataset, tmp_path / "cache", None)
        test = sealed_test(dataset, tmp_path / "cache", None, prepared)
        shared = np.isin(test.groups, prepared.manifest.take(prepared.train).groups).mean()
        assert low <= shared <= high, protocol
