"""Splits as in a paper: by image, in the order of paths, of the official training rows alone."""

from __future__ import annotations

import numpy as np
import pytest

from spaces.config import SplitConfig
from spaces.mistakes import Mistake
from trainables.data.splits import split


def test_by_image_takes_shares_of_all_images_and_cuts_groups(invented) -> None:
    manifest = invented([0, 1] * 100, groups=[f"g{i // 4}" for i in range(200)])
    s = split(manifest, SplitConfig(by="image", validation=0.15, test=0.1))
    assert [len(s.train), len(s.validation), len(s.test)] == [150, 30, 20]
    assert sorted(np.concatenate([s.train, s.validation, s.test]).tolist()) == list(range(200))
    assert np.isin(manifest.groups[s.test], manifest.groups[s.train]).mean() > 0.8
    again = split(manifest, SplitConfig(by="image", validation=0.15, test=0.1))
    assert again.digest == s.digest and again.test.tolist() == s.test.tolist()
    assert split(manifest, SplitConfig(by="image", validation=0.15, test=0.1, seed=1)).test.tolist() != s.test.tolist()
    assert s.test[:6].tolist() == PINNED, "the same on every machine"


PINNED = [4, 6, 7, 13, 14, 22]


def test_in_order_no_group_is_cut(invented) -> None:
    manifest = invented([0, 1] * 50, groups=[f"g{i // 7:02d}" for i in range(100)])
    s = split(manifest, SplitConfig(by="order", validation=0.1, test=0.1))
    assert s.validation.tolist() == list(range(14)) and s.test.tolist() == list(range(14, 21))
    assert s.train.tolist() == list(range(21, 100))


def test_of_the_official_training_rows_alone(invented) -> None:
    official = ["train"] * 80 + ["validation"] * 10 + ["test"] * 10
    manifest = invented([0, 1] * 50, official=official)
    for by in ("image", "order", "group"):
        s = split(manifest, SplitConfig(by=by, rows="train", validation=0.25, test=0.25))
        assert sorted(np.concatenate([s.train, s.validation, s.test]).tolist()) == list(range(80)), by
    with pytest.raises(Mistake, match="has no such split"):
        split(invented([0, 1] * 50), SplitConfig(rows="train"))


def test_what_cannot_be_divided(invented) -> None:
    manifest = invented([0, 1] * 50)
    with pytest.raises(Mistake, match=r"dataset\.split\.folds: 3 folds can't be divided by image"):
        split(manifest, SplitConfig(by="image", folds=3))
    with pytest.raises(Mistake, match="too few to divide, validation would have none"):
        split(invented([0, 1]), SplitConfig(by="order", validation=0.1, test=0.5))
    with pytest.raises(Mistake, match='class "b" has no training images'):
        split(invented([1] * 3 + [0] * 97), SplitConfig(by="order", validation=0.1, test=0.1))
