"""A trial over folds: each fold is fine-tuned by itself, and the trial goes on in whichever fold it was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spaces.config import SplitConfig
from tests.trainables.digits import Digits
from trainables.augment import store_resolution
from trainables.data.parts import TrialData, trial_data
from trainables.data.prepared import Prepared, prepare
from trainables.epoch import EpochReport
from trainables.folds import fine_tune_folds
from trainables.loop import fine_tune
from trainables.place import Place

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
    told: list[EpochReport] = []

    class Killed(Exception):
        pass

    def until(report: EpochReport) -> None:
        told.append(report)
        if report.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        fine_tune_folds(config, data, FOLDS, tmp_path, until, Place())
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
