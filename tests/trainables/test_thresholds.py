from __future__ import annotations

import numpy as np
from sklearn.metrics import cohen_kappa_score

from trainables.thresholds import cross_fitted_grades, fit_thresholds, natural_thresholds, probabilities_of_scores


def scores(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores whose right thresholds are far from halfway, truth, and groups of two."""
    random = np.random.default_rng(seed)
    truth = random.choice(5, rows, p=[0.5, 0.1, 0.27, 0.05, 0.08])
    return np.sqrt(truth) + random.normal(0, 0.15, rows), truth, np.repeat(np.arange(rows // 2), 2)


def kappa(truth: np.ndarray, grades: np.ndarray) -> float:
    return cohen_kappa_score(truth, grades, labels=range(5), weights="quadratic")


def test_fitted_thresholds_beat_halfway() -> None:
    values, truth, _ = scores(600)
    fitted = fit_thresholds(values, truth, 5)
    assert (np.diff(fitted) >= 0).all()
    natural = kappa(truth, np.searchsorted(natural_thresholds(5), values))
    assert kappa(truth, np.searchsorted(fitted, values)) > natural + 0.1


def test_nothing_to_fit() -> None:
    assert fit_thresholds(np.array([0.1, 2.0]), np.array([1, 1]), 3).tolist() == [0.5, 1.5]


def test_probabilities_are_highest_between_the_thresholds() -> None:
    thresholds = np.array([-1.0, 0.2, 3.0])
    values = np.array([-5.0, -1.001, -0.999, 0.19, 0.21, 2.99, 3.01, 9.0])
    found = probabilities_of_scores(values, thresholds)
    assert found.argmax(1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_no_row_is_judged_by_thresholds_from_its_own_group() -> None:
    values, truth, groups = scores(60)
    before = cross_fitted_grades(values, truth, groups, 5)
    for group in (0, 7, 29):
        changed = truth.copy()
        changed[groups == group] = 4 - changed[groups == group]
        own = groups == group
        assert np.array_equal(cross_fitted_grades(values, changed, groups, 5)[own], before[own])


def test_pure_noise_gains_nothing_by_cross_fitting() -> None:
    """Thresholds fitted on the rows that they judge find a kappa in noise; cross-fitted ones don't
    (they find one below 0, as what was left out leans the other way)."""
    own, crossed = [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        values, truth, groups = random.normal(2, 1, 60), random.integers(0, 5, 60), np.arange(60)
        own.append(kappa(truth, np.searchsorted(fit_thresholds(values, truth, 5), values)))
        crossed.append(kappa(truth, cross_fitted_grades(values, truth, groups, 5).argmax(1)))
    assert np.mean(own) > 0.1 and np.mean(crossed) < 0.03
