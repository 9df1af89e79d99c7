"""The values for thousands of weightings must be those of `metrics.compute` on rows that are really there so often."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from spaces.config import METRICS
from trainables.grouped import grouped_metric
from trainables.metric_names import RANKED
from trainables.metrics import Over, Undefined, compute

CASES = list(product(METRICS, (2, 5), (1, 3), (False, True)))


def sample(classes: int, seeds: int, ties: bool, groups: int = 14) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], probabilities [S, N, C], group of each row [N]; groups of 1 to 4 rows with labels of their own."""
    rng = np.random.default_rng([classes, seeds, ties])
    group_of_row = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, 5, groups)))
    labels = rng.integers(0, classes, len(group_of_row))
    probabilities = rng.dirichlet(np.ones(classes), (seeds, len(labels)))
    return labels, probabilities.round(1) if ties else probabilities, group_of_row


def of_findings(findings: int, seeds: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of findings: labels [N, L] of which a fifth isn't scored."""
    _, _, group_of_row = sample(2, seeds, ties)
    rng = np.random.default_rng([findings, seeds, ties, 1])
    labels = rng.choice([0, 1, np.nan], p=[0.5, 0.3, 0.2], size=(len(group_of_row), findings)).astype(np.float32)
    probabilities = rng.random((seeds, *labels.shape))
    return labels, probabilities.round(1) if ties else probabilities, group_of_row


def by_seed(
    metric: str, labels: np.ndarray, probabilities: np.ndarray, rows: np.ndarray, over: Over = None
) -> list[float]:
    def value(p: np.ndarray) -> float:
        try:
            return compute(metric, labels[rows], p[rows], p.shape[1], over=over)
        except Undefined:
            return np.nan

    return [value(p) for p in probabilities]


def assert_weights_are_repeated_rows(
    metric: str, labels: np.ndarray, probabilities: np.ndarray, group_of_row: np.ndarray, over: Over = None
) -> None:
    weights = np.random.default_rng(1).integers(0, 3, (group_of_row.max() + 1, 25))
    weights[4:, 0] = 0  # so few groups that some metrics aren't defined
    rows = [np.repeat(np.arange(len(labels)), w[group_of_row]) for w in weights.T]
    expected = np.transpose([by_seed(metric, labels, probabilities, r, over) for r in rows])
    found = grouped_metric(metric, labels, probabilities, group_of_row, probabilities.shape[2], over=over).at(weights)
    np.testing.assert_allclose(found, expected, atol=2e-12)
    assert np.isfinite(found).all(axis=0).sum() > 15


def assert_leaving_out_each_group(
    metric: str, labels: np.ndarray, probabilities: np.ndarray, group_of_row: np.ndarray
) -> None:
    rows = [np.flatnonzero(group_of_row != g) for g in range(group_of_row.max() + 1)]
    expected = np.transpose([by_seed(metric, labels, probabilities, r) for r in rows])
    found = grouped_metric(metric, labels, probabilities, group_of_row, probabilities.shape[2]).without_each()
    np.testing.assert_allclose(found, expected, atol=2e-12)


@pytest.mark.parametrize(("metric", "classes", "seeds", "ties"), CASES)
def test_weights_are_repeated_rows(metric: str, classes: int, seeds: int, ties: bool) -> None:
    assert_weights_are_repeated_rows(metric, *sample(classes, seeds, ties))


@pytest.mark.parametrize(("metric", "classes", "seeds", "ties"), CASES)
def test_leaving_out_each_group(metric: str, classes: int, seeds: int, ties: bool) -> None:
    assert_leaving_out_each_group(metric, *sample(classes, seeds, ties))


@pytest.mark.parametrize(("metric", "findings", "ties"), list(product(sorted(RANKED), (1, 3), (False, True))))
def test_findings_of_which_some_rows_are_not_scored(metric: str, findings: int, ties: bool) -> None:
    assert_weights_are_repeated_rows(metric, *of_findings(findings, 2, ties))
    assert_leaving_out_each_group(metric, *of_findings(findings, 2, ties))


@pytest.mark.parametrize("metric", sorted(RANKED))
def test_only_the_chosen_classes_are_averaged(metric: str) -> None:
    assert_weights_are_repeated_rows(metric, *sample(5, 2, False), over=[3, 1])
    assert_weights_are_repeated_rows(metric, *of_findings(3, 2, False), over=[2])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranked_metrics_are_scikit_learns_with_weights(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 12))
    column = st.lists(st.integers(0, 5), min_size=rows, max_size=rows).map(np.array)
    group_of_row = np.unique(data.draw(column), return_inverse=True)[1]
    labels, scores = (data.draw(column) > 2).astype(float)[:, None], data.draw(column) / 5
    weights = data.draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows).map(np.array))[
        : group_of_row.max() + 1
    ]
    of_rows, positive = weights[group_of_row], labels[:, 0] == 1
    defined = of_rows[positive].sum() > 0 and of_rows[~positive].sum() > 0
    for metric, theirs in (("macro_average_precision", average_precision_score), ("macro_auroc", roc_auc_score)):
        measure = grouped_metric(metric, labels, scores[None, :, None], group_of_row, 1)
        expected = theirs(positive, scores, sample_weight=of_rows) if defined else np.nan
        np.testing.assert_allclose(measure.at(weights[:, None]), [[expected]], atol=2e-12)
        without = measure.at(1 - np.eye(len(weights)))
        np.testing.assert_allclose(measure.without_each(), without, atol=2e-12)


@pytest.mark.parametrize("metric", [m for m in METRICS if m not in ("accuracy", "quadratic_weighted_kappa")])
def test_leaving_out_the_only_group_of_a_class_is_undefined(metric: str) -> None:
    labels, probabilities, group_of_row = sample(5, 1, False)
    labels[labels == 3] = 0
    labels[group_of_row == 2] = 3
    found = grouped_metric(metric, labels, probabilities, group_of_row, 5).without_each()[0]
    assert np.flatnonzero(np.isnan(found)).tolist() == [2]


def test_equal_values_are_the_same_number_whatever_the_order_of_summation() -> None:
    labels, probabilities, group_of_row = sample(5, 3, False)
    weights = np.ones((group_of_row.max() + 1, 300))
    for metric in METRICS:
        measure = grouped_metric(metric, labels, probabilities, group_of_row, 5)
        values = np.concatenate([measure.at(weights), measure.at(weights[:, :1])], axis=1)
        assert all(len(np.unique(of_seed)) == 1 for of_seed in values)


@pytest.mark.parametrize("metric", sorted(RANKED))
def test_jackknife_of_forty_thousand_rows_takes_no_weights(metric: str) -> None:
    rng = np.random.default_rng(0)
    group_of_row = np.repeat(np.arange(13_000), rng.geometric(1 / 3, 13_000))
    labels = (rng.random((len(group_of_row), 1)) < 0.2).astype(np.float32)
    measure = grouped_metric(metric, labels, rng.random((1, len(labels), 1)), group_of_row, 1)
    started = time.process_time()
    measure.without_each()
    assert time.process_time() - started < 2  # about .1 s when nothing else runs
