"""The values for thousands of weightings must be those of `metrics.compute` on rows that are really there so often."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from spaces.config import METRICS
from trainables.grouped import grouped_metric
from trainables.metrics import Undefined, compute

CASES = list(product(METRICS, (2, 5), (1, 3), (False, True)))


def sample(classes: int, seeds: int, ties: bool, groups: int = 14) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], probabilities [S, N, C], group of each row [N]; groups of 1 to 4 rows with labels of their own."""
    rng = np.random.default_rng([classes, seeds, ties])
    group_of_row = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, 5, groups)))
    labels = rng.integers(0, classes, len(group_of_row))
    probabilities = rng.dirichlet(np.ones(classes), (seeds, len(labels)))
    return labels, probabilities.round(1) if ties else probabilities, group_of_row


def mean_over_seeds(metric: str, labels: np.ndarray, probabilities: np.ndarray, rows: np.ndarray) -> float:
    try:
        return float(np.mean([compute(metric, labels[rows], p[rows], p.shape[1]) for p in probabilities]))
    except Undefined:
        return np.nan


@pytest.mark.parametrize(("metric", "classes", "seeds", "ties"), CASES)
def test_weights_are_repeated_rows(metric: str, classes: int, seeds: int, ties: bool) -> None:
    labels, probabilities, group_of_row = sample(classes, seeds, ties)
    weights = np.random.default_rng(1).integers(0, 3, (group_of_row.max() + 1, 25))
    weights[4:, 0] = 0  # so few groups that some metrics aren't defined
    expected = [
        mean_over_seeds(metric, labels, probabilities, np.repeat(np.arange(len(labels)), w[group_of_row]))
        for w in weights.T
    ]
    found = grouped_metric(metric, labels, probabilities, group_of_row, classes).at(weights)
    np.testing.assert_allclose(found, expected, atol=2e-12)
    assert np.isfinite(found).sum() > 15


@pytest.mark.parametrize(("metric", "classes", "seeds", "ties"), CASES)
def test_leaving_out_each_group(metric: str, classes: int, seeds: int, ties: bool) -> None:
    labels, probabilities, group_of_row = sample(classes, seeds, ties)
    groups = group_of_row.max() + 1
    expected = [
        mean_over_seeds(metric, labels, probabilities, np.flatnonzero(group_of_row != g)) for g in range(groups)
    ]
    found = grouped_metric(metric, labels, probabilities, group_of_row, classes).without_each()
    np.testing.assert_allclose(found, expected, atol=2e-12)


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in ("accuracy", "quadratic_weighted_kappa")])
def test_leaving_out_the_only_group_of_a_class_is_undefined(metric: str) -> None:
    labels, probabilities, group_of_row = sample(5, 1, False)
    labels[labels == 3] = 0
    labels[group_of_row == 2] = 3
    found = grouped_metric(metric, labels, probabilities, group_of_row, 5).without_each()
    assert np.flatnonzero(np.isnan(found)).tolist() == [2]


def test_equal_values_are_the_same_number_whatever_the_order_of_summation() -> None:
    labels, probabilities, group_of_row = sample(5, 3, False)
    weights = np.ones((group_of_row.max() + 1, 300))
    for metric in METRICS:
        measure = grouped_metric(metric, labels, probabilities, group_of_row, 5)
        assert len(np.unique(np.concatenate([measure.at(weights), measure.at(weights[:, :1])]))) == 1
