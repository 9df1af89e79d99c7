from __future__ import annotations

import time

import numpy as np
import pytest

from trainables.data.stratification import groups_of_classes, stratified_folds


def one_hot(labels: list[int] | np.ndarray) -> np.ndarray:
    return np.asarray(labels)[:, None] == np.arange(np.max(labels) + 1)


def test_each_fold_has_its_share_and_groups_stay_together() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    groups = np.arange(100) // 2
    folds = stratified_folds(groups, one_hot(labels), 5, seed=0)
    assert folds.dtype == np.int64
    for fold in range(5):
        assert np.bincount(labels[folds == fold]).tolist() == [12, 6, 2]
    assert (folds[::2] == folds[1::2]).all()


def test_pinned_on_every_machine_and_drawn_from_the_seed() -> None:
    members = one_hot([0, 1] * 10)
    folds = [stratified_folds(np.arange(20), members, 4, seed, stage) for seed, stage in ((0, 0), (1, 0), (0, 1))]
    assert folds[0].tolist() == [0, 1, 1, 1, 0, 3, 0, 3, 2, 0, 2, 2, 1, 2, 3, 2, 3, 3, 1, 0]
    assert not np.array_equal(folds[0], folds[1]) and not np.array_equal(folds[0], folds[2])
    assert len(stratified_folds(np.arange(20), members, 4, 2**70)) == 20, "any seed"


def test_large_groups_first() -> None:
    """Dealt in any other order, the groups of 30 would fall on one another."""
    sizes = [30, 30, 30, *[1] * 30]
    groups = np.repeat(np.arange(33), sizes)[::-1]
    for seed in range(5):
        folds = stratified_folds(groups, one_hot(np.zeros(120, dtype=int)), 3, seed)
        assert np.bincount(folds).tolist() == [40, 40, 40]


def test_one_fold_holds_all_that_is_rare() -> None:
    labels = np.concatenate([np.repeat(np.arange(6), 3), np.full(82, 6)])
    for seed in range(10):
        folds = stratified_folds(np.arange(100), one_hot(labels), 5, seed)
        assert set(labels[folds == 0]) == set(range(7))
        assert (np.bincount(folds) >= 17).all()


def test_a_group_of_several_classes_counts_for_each() -> None:
    members = np.zeros((40, 2), dtype=bool)
    members[:20, 0] = members[10:30, 1] = True
    folds = stratified_folds(np.arange(40), members, 2, 0)
    for fold in (0, 1):
        assert members[folds == fold].sum(axis=0).tolist() == [10, 10] and (folds == fold).sum() == 20


def test_groups_of_classes() -> None:
    members = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=bool)
    assert groups_of_classes(np.array([7, 7, 8, 9]), members).tolist() == [1, 2]


@pytest.mark.parametrize("folds", [5, 10])
def test_findings_of_223414_images_in_a_moment(folds: int) -> None:
    drawn = np.random.default_rng(0)
    patients = drawn.integers(0, 64_540, 223_414)
    ill = drawn.normal(size=(64_540, 14))[patients] + drawn.normal(size=(223_414, 14)) > np.linspace(3.2, 0, 14)
    start = time.process_time()
    number = stratified_folds(patients, ill, folds, seed=0)
    assert time.process_time() - start < 10
    for fold in range(folds):
        assert abs((number == fold).mean() - 1 / folds) < 1e-3
        assert np.abs(ill[number == fold].mean(axis=0) - ill.mean(axis=0)).max() < 0.01
