"""A trial over folds: each fold is fine-tuned by itself, and the trial goes on in whichever fold it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaces.config import SplitConfig, TrialConfig
from tests.trainables.digits import Digits
from trainables.augment import Augment, store_resolution
from trainables.data.parts import TrialData, trial_data
from trainables.data.pixels import DECODERS
from trainables.data.prepared import Prepared, prepare
from trainables.epoch import EpochReport
from trainables.folds import fine_tune_folds
from trainables.head_group import fine_tune_heads
from trainables.loop import fine_tune
from trainables.model import build_model
from trainables.place import Place
from trainables.prefix import ActivationStore, Prefix

FOLDS = 3


@pytest.fixture(scope="module")
def folded(digits: Digits) -> Prepared:
    dataset = digits.dataset.model_copy(update={"split": SplitConfig(folds=FOLDS)})
    return prepare(dataset, digits.cache, None)


def test_the_value_is_the_mean_over_folds(digits: Digits, folded: Prepared, tmp_path: Path) -> None:
    config = digits.config(trained_blocks=0, level=1, epochs=2)

    def data(fold: int) -> TrialData:
        return trial_data(folded, digits.dataset, config.resolution, store_resolution(config), digits.cache, fold=fold)

    alone = [fine_tune(config, data(fold)) for fold in range(FOLDS)]
    told = killed_at_epoch_3(config, data, tmp_path)
    again: list[EpochReport] = []
    valued = fine_tune_folds(config, data, FOLDS, tmp_path, again.append, Place())
    assert [r.epoch for r in told] == [1, 2, 3] and [r.epoch for r in again] == [1, 2, 3, 4, 5, 6]
    assert valued.last.epoch == 6
    assert valued.value == pytest.approx(np.mean([outcome.value for outcome in alone]), abs=1e-12)
    expected = np.concatenate([outcome.probabilities for outcome in alone])
    np.testing.assert_array_equal(valued.predictions.probabilities, expected)
    earlier = np.concatenate([outcome.earlier for outcome in alone], axis=1)
    np.testing.assert_array_equal(valued.predictions.earlier, earlier)
    assert len(valued.predictions.truth) == len(folded.manifest), "every row is validated once"
    assert np.bincount(valued.predictions.fold).tolist() == [len(validation) for _, validation in folded.folds]


def test_folds_share_their_pixels(digits: Digits, folded: Prepared) -> None:
    config = digits.config(level=1)
    parts = [
        trial_data(folded, digits.dataset, config.resolution, store_resolution(config), digits.cache, fold=fold)
        for fold in range(FOLDS)
    ]
    assert len({data.train.pixels.data_ptr() for data in parts}) <= FOLDS
    for data, (train, validation) in zip(parts, folded.folds, strict=True):
        assert len(data.train) == len(train) and len(data.validation) == len(validation)
        assert data.train.labels.tolist() == folded.manifest.labels[train].tolist()
    whole = {
        row: image
        for data, (_, rows) in zip(parts, folded.folds, strict=True)
        for row, image in zip(rows.tolist(), data.validation.images(np.arange(len(rows))), strict=True)
    }
    assert sorted(whole) == list(range(len(folded.manifest)))
    assert len({data.digest() for data in parts}) == FOLDS


def test_a_trial_goes_on_where_others_decode(
    digits: Digits, folded: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade of Pillow: from the checkpoints of its folds, with the pixels as they are decoded now."""
    config = digits.config(trained_blocks=0, level=1, epochs=2)
    data = partial(data_of, digits, folded, config)
    before, again = data(0), list[EpochReport]()
    told = killed_at_epoch_3(config, data, tmp_path)
    monkeypatch.setattr("trainables.data.pixels.DECODERS", {**DECODERS, "pillow": "0.1"})
    fine_tune_folds(config, data, FOLDS, tmp_path, again.append, Place())
    assert data(0).train.file != before.train.file and data(0).train.key != before.train.key
    assert [r.time for r in again[:3]] == [r.time for r in told] and len(again) == 6


def data_of(digits: Digits, folded: Prepared, config: TrialConfig, fold: int) -> TrialData:
    return trial_data(folded, digits.dataset, config.resolution, store_resolution(config), digits.cache, fold=fold)


@pytest.mark.parametrize(("level", "passes"), [(0, 1), (2, 3)])
def test_folds_share_what_frozen_blocks_gave(
    digits: Digits, folded: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int, passes: int
) -> None:
    """Every image once without augmentation; else once for each view, and once for validation."""
    config = digits.config(trained_blocks=0, level=level, epochs=2)
    data = partial(data_of, digits, folded, config)
    made: list[Prefix] = []
    init = Prefix.__init__

    def noted(self: Prefix, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        made.append(self)

    monkeypatch.setattr(Prefix, "__init__", noted)

    def run(name: str, store: ActivationStore | None) -> tuple[list[float], np.ndarray, int]:
        made.clear()
        told: list[EpochReport] = []
        valued = fine_tune_folds(config, data, FOLDS, tmp_path / name, told.append, Place(), store)
        losses = [loss for report in told for loss in report.step_losses]
        return losses, valued.predictions.probabilities, sum(prefix.counts.computed for prefix in made)

    store = ActivationStore(tmp_path / "activations", 1 << 30)
    losses, probabilities, _ = run("live", None)
    kept = run("kept", store)
    np.testing.assert_allclose(kept[0], losses, rtol=1e-5)
    np.testing.assert_allclose(kept[1], probabilities, atol=1e-5)
    assert kept[2] == passes * len(folded.manifest)
    assert len(list(store.home.glob("*/array"))) == passes
    again = run("again", store)
    assert again[0] == kept[0] and again[2] == 0


@pytest.mark.parametrize("kept", [True, False])
def test_a_group_of_heads_takes_the_rows_of_its_fold(
    digits: Digits, folded: Prepared, tmp_path: Path, kept: bool
) -> None:
    config = digits.config(trained_blocks=0, level=1, epochs=1)
    data = data_of(digits, folded, config, 1)
    store = ActivationStore(tmp_path / "activations", 1 << 30) if kept else None
    [member], counts = fine_tune_heads([config], data, store=store)
    alone = fine_tune(config, data)
    np.testing.assert_allclose(member.reports[0].step_losses, alone.reports[0].step_losses, rtol=1e-5)
    np.testing.assert_allclose(member.probabilities, alone.probabilities, atol=1e-5)
    assert counts.computed == len(folded.manifest if kept else data.train)


def test_an_image_is_drawn_alike_in_every_fold(digits: Digits, folded: Prepared) -> None:
    config = digits.config(trained_blocks="all", level=3)
    seen: dict[int, torch.Tensor] = {}
    model = build_model(config, 10)
    for fold, (rows, _) in enumerate(folded.folds):
        prefix = Prefix(model, config, data_of(digits, folded, config, fold).train, Place(), Augment(config))
        prefix.look_at(1)
        for row, image in zip(rows.tolist(), prefix(torch.arange(len(rows))), strict=True):
            assert torch.equal(seen.setdefault(row, image), image)
    assert len(seen) == len(folded.manifest)


def killed_at_epoch_3(config: TrialConfig, data: Callable[[int], TrialData], folder: Path) -> list[EpochReport]:
    """What a trial told before it was killed; its checkpoints lie in the folder."""
    told: list[EpochReport] = []

    class Killed(Exception):
        pass

    def until(report: EpochReport) -> None:
        told.append(report)
        if report.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        fine_tune_folds(config, data, FOLDS, folder, until, Place())
    return told
