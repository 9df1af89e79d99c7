"""Proper scores as sums over rows: the same values as scikit-learn's, and intervals that rest on groups."""

import numpy as np
import pytest
from scipy import special

from trainables.grouped import grouped_metric
from trainables.intervals import group_bootstrap, standard_error
from trainables.metric_names import PROPER
from trainables.metrics import Undefined, compute

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(60), 5)
ONES = np.ones((60, 1), np.int64)


def classes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [300] and probabilities float32 [2, 300, C], a few of them 0."""
    labels = RNG.integers(0, count, 300)
    scores = RNG.normal(size=(2, 300, count)) + 2 * np.eye(count)[labels]
    probabilities = special.softmax(scores, axis=2).astype(np.float32)
    probabilities[:, :5] = np.eye(count)[0]
    return labels, probabilities


def findings() -> tuple[np.ndarray, np.ndarray]:
    labels = RNG.choice([0, 1, np.nan], size=(300, 4), p=[0.6, 0.3, 0.1]).astype(np.float32)
    probabilities = special.expit(RNG.normal(size=(2, 300, 4)) + np.nan_to_num(labels)).astype(np.float32)
    probabilities[:, 0] = 1
    return labels, probabilities


@pytest.mark.parametrize("metric", PROPER)
@pytest.mark.parametrize("count", [2, 5])
def test_the_values_of_classes_are_scikit_learns(metric: str, count: int) -> None:
    labels, probabilities = classes(count)
    found = grouped_metric(metric, labels, probabilities, GROUPS, count).at(ONES)[:, 0]
    assert found == pytest.approx([compute(metric, labels, p, count) for p in probabilities], rel=1e-9)


@pytest.mark.parametrize("metric", PROPER)
@pytest.mark.parametrize("over", [None, [1, 3]])
def test_the_values_of_findings_are_scikit_learns(metric: str, over: list[int] | None) -> None:
    labels, probabilities = findings()
    found = grouped_metric(metric, labels, probabilities, GROUPS, 4, over=over).at(ONES)[:, 0]
    assert found == pytest.approx([compute(metric, labels, p, 4, over=over) for p in probabilities], rel=1e-6)


@pytest.mark.parametrize("metric", PROPER)
def test_leaving_a_group_out_is_computing_without_it(metric: str) -> None:
    labels, probabilities = findings()
    left_out = grouped_metric(metric, labels, probabilities, GROUPS, 4).without_each()
    rest = GROUPS != 7
    assert left_out[1, 7] == pytest.approx(compute(metric, labels[rest], probabilities[1, rest], 4), rel=1e-6)


def test_an_interval_rests_on_groups_not_on_rows() -> None:
    labels, probabilities = classes(3)
    alone = group_bootstrap("brier", labels, probabilities[0], np.arange(300), classes=3, resamples=2000)
    copied = [np.repeat(a, 4, axis=0) for a in (labels, probabilities[0], np.arange(300))]
    again = group_bootstrap("brier", *copied, classes=3, resamples=2000)
    assert alone.low is not None and alone.low < alone.value < alone.high  # type: ignore[operator]
    assert (again.low, again.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert alone.warnings == ()
    error = standard_error("brier", labels, probabilities[0], np.arange(300), 3)
    assert alone.high - alone.low == pytest.approx(3.92 * error, rel=0.15)  # type: ignore[operator]


def test_numbers_that_are_no_probabilities_have_no_score() -> None:
    labels, probabilities = classes(3)
    with pytest.raises(Undefined, match="sum to one"):
        group_bootstrap("log_loss", labels, probabilities[0] * 2, GROUPS, classes=3)
