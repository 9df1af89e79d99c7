from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from scipy import special

from trainables.metrics import Undefined, compute
from trainables.selection import Corrected, corrected_best

OPTIMISM = {24: 1.95, 100: 2.51, 300: 2.88}  # of the best of so many equal trials, in standard errors of one


def equal_trials(trials: int, rng: np.random.Generator, groups: int = 150) -> tuple[np.ndarray, ...]:
    """Labels, predictions [T, N, 2] that are right in half of the rows, independently, and groups of 1 to 3 rows."""
    group = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    labels = np.zeros(len(group), dtype=np.int64)
    effects = rng.normal(size=(trials, groups))[:, group] + rng.normal(size=(trials, len(group)))
    right = effects < 0
    return labels, np.eye(2)[np.where(right, 0, 1)], group


@pytest.mark.parametrize("trials", OPTIMISM)
def test_the_best_of_equal_trials_is_too_good_and_is_corrected(trials: int) -> None:
    """Naive optimism as in the theory of the largest of N normal values; the corrected value within .3 of zero."""
    rng = np.random.default_rng(trials)
    found, values = [], []
    for _ in range(60):
        labels, probabilities, group = equal_trials(trials, rng)
        values.append((probabilities[:, :, 0] == 1).mean(axis=1))
        found.append(corrected_best("accuracy", labels, probabilities, group, classes=2, resamples=200))
    sigma = np.mean(np.std(values, axis=1, ddof=1))
    naive = (np.mean([one.found for one in found]) - 0.5) / sigma
    corrected = (np.mean([value_of(one) for one in found]) - 0.5) / sigma
    print(f"\nbest of {trials}: too good by {naive:.2f} standard errors, once corrected by {corrected:+.2f}")
    assert naive == pytest.approx(OPTIMISM[trials], abs=0.15)
    assert abs(corrected) < 0.3
    assert np.mean([one.low <= 0.5 <= one.high for one in found]) > 0.9


def value_of(corrected: Corrected) -> float:
    assert corrected.value is not None
    return corrected.value


def of_classes(trials: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(120), rng.integers(1, 4, 120))
    labels = (np.arange(120) % 3)[group]
    scores = rng.normal(size=(trials, len(group), 3))
    scores[:, np.arange(len(group)), labels] += 1
    return labels, special.softmax(scores, axis=-1), group


def test_one_trial_owes_nothing_to_selection() -> None:
    labels, probabilities, group = of_classes(1)
    found = corrected_best("macro_auroc", labels, probabilities, group, classes=3)
    assert found.best == 0 and found.found == pytest.approx(compute("macro_auroc", labels, probabilities[0], 3))
    assert found.value == pytest.approx(found.found, abs=0.01)


def test_a_trial_that_is_far_better_owes_little() -> None:
    labels, probabilities, group = of_classes(50)
    probabilities[7, np.arange(len(labels)), labels] += 0.6
    found = corrected_best("accuracy", labels, probabilities, group, classes=3)
    assert found.best == 7 and found.value == pytest.approx(found.found, abs=0.005)
    assert found.low < found.value < found.high


def test_scored_on_groups_that_had_no_part_in_the_selection() -> None:
    """Two trials, each right on one half of the groups: whichever half dominates a bag, the rest speaks against it."""
    labels, groups = np.zeros(40, dtype=np.int64), np.arange(40)
    right = np.stack([groups < 20, groups >= 20])
    found = corrected_best("accuracy", labels, np.eye(2)[np.where(right, 0, 1)], groups, classes=2)
    assert found.found == 0.5 and found.value < 0.48


def test_a_sequence_of_trials_and_any_order_of_rows() -> None:
    labels, probabilities, group = of_classes(5)
    order = np.random.default_rng(0).permutation(len(labels))
    found = corrected_best("accuracy", labels, list(probabilities), group, classes=3)
    assert found == corrected_best("accuracy", labels[order], probabilities[:, order], group[order], classes=3)
    assert found != corrected_best("accuracy", labels, probabilities, group, classes=3, seed=1)


def test_folds_are_scored_one_by_one() -> None:
    labels, probabilities, group = of_classes(6)
    folds = group % 2
    shifted = probabilities.copy()
    shifted[:, folds == 1] = special.softmax(np.log(probabilities[:, folds == 1]) + [3, 0, 0], axis=-1)
    found = corrected_best("macro_auroc", labels, shifted, group, classes=3, folds=folds)
    by_fold = [
        np.mean([compute("macro_auroc", labels[folds == f], trial[folds == f], 3) for f in (0, 1)]) for trial in shifted
    ]
    assert found.best == np.argmax(by_fold) and found.found == pytest.approx(max(by_fold))
    assert found.value < found.found


def test_findings() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(150), 2)
    labels = (rng.random((150, 2)) < 0.4)[group].astype(np.float32)
    probabilities = special.expit(rng.normal(size=(20, 300, 2)) + labels)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    for metric, over in product(("macro_auroc", "macro_average_precision"), (None, [1])):
        found = corrected_best(metric, labels, probabilities, group, classes=2, over=over)
        values = [compute(metric, labels, p, 2, over=over) for p in probabilities]
        assert found.best == np.argmax(values) and found.found == pytest.approx(max(values))
        assert np.mean(values) - 0.02 < found.value < found.found


def test_a_value_that_is_a_mean_over_epochs_is_corrected_as_that() -> None:
    labels, several, group = of_classes(9)
    trials = [several[:3], several[3:4], several[4], several[5:8]]  # of three epochs, of one, of one, of three
    found = corrected_best("macro_auroc", labels, trials, group, classes=3)
    values = [compute("macro_auroc", labels, p, 3) for p in several]
    means = [np.mean(values[:3]), values[3], values[4], np.mean(values[5:8])]
    assert found.trials == 4 and found.best == np.argmax(means) and found.found == pytest.approx(max(means))
    assert found.value is not None and found.low < found.value < found.found


def test_three_hundred_trials_take_seconds() -> None:
    rng = np.random.default_rng(0)
    labels, group = np.arange(1000) % 8, np.arange(1000) // 2
    probabilities = special.softmax(rng.normal(size=(300, 1000, 8)), axis=-1)
    started = time.process_time()
    corrected_best("balanced_accuracy", labels, probabilities, group, classes=8)
    assert time.process_time() - started < 5  # about .3 s when nothing else runs


def test_what_is_often_undefined_is_not_corrected() -> None:
    labels, probabilities, group = of_classes(3)
    labels[labels == 2] = 0
    labels[group < 2] = 2
    found = corrected_best("balanced_accuracy", labels, probabilities, group, classes=3)
    assert (found.value, found.low) == (None, None)
    assert found.warnings[-1].startswith("no correction: the metric is undefined in")


def test_without_any_defined_trial_it_is_undefined() -> None:
    labels, probabilities, group = of_classes(3)
    with pytest.raises(Undefined, match="no trial's metric"):
        corrected_best("macro_auroc", np.where(labels == 2, 0, labels), probabilities, group, classes=3)


def test_what_does_not_fit_is_refused() -> None:
    labels, probabilities, group = of_classes(3)
    for trials in (probabilities[0], [probabilities[0], probabilities[:0]], []):
        with pytest.raises(ValueError, match=r"expected \[N, C\] or \[E, N, C\]"):
            corrected_best("accuracy", labels, trials, group, classes=3)
    with pytest.raises(ValueError, match="folds are"):
        corrected_best("accuracy", labels, probabilities, group, classes=3, folds=np.zeros(3))
