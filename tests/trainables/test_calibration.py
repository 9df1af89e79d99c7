from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import special

from trainables.calibration import calibration, operating_point, temperature, tempered
from trainables.metrics import Undefined, compute


def honest(rows: int, seed: int, findings: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the very probabilities [N, 4]."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, 4))
    if findings:
        return (rng.random((rows, 4)) < special.expit(logits)).astype(np.float32), special.expit(logits)
    probabilities = special.softmax(logits, axis=1)
    return (rng.random((rows, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 3), probabilities


@pytest.mark.parametrize("findings", [False, True])
class TestTemperature:
    @pytest.mark.parametrize("hot", [0.4, 1.0, 3.0])
    def test_what_was_done_to_honest_probabilities_is_found(self, findings: bool, hot: float) -> None:
        labels, probabilities = honest(20_000, 0, findings)
        sharpened = tempered(probabilities, 1 / hot, several=findings)
        assert temperature(labels, sharpened) == pytest.approx(hot, rel=0.03)
        np.testing.assert_allclose(tempered(sharpened, hot, several=findings), probabilities, atol=1e-9)

    def test_saturated_probabilities_have_one_too(self, findings: bool) -> None:
        labels, probabilities = honest(2000, 0, findings)
        saturated = (probabilities == probabilities.max(axis=1, keepdims=True)).astype(np.float32)
        found = temperature(labels, saturated)
        assert 1 < found < math.inf
        assert np.isfinite(tempered(saturated, found, several=findings)).all()

    def test_crosswise_on_validation_and_frozen_on_the_test(self, findings: bool) -> None:
        labels, probabilities = honest(2000, 1, findings)
        test_labels, test_probabilities = honest(4000, 2, findings)
        sharp, test_sharp = (tempered(p, 1 / 3, several=findings) for p in (probabilities, test_probabilities))
        groups = np.arange(2000) // 3
        found = calibration(labels, sharp, groups, test_labels, test_sharp, classes=4)
        assert found.temperature == pytest.approx(3, rel=0.1)
        assert len(found.by_fold) == 5 and len(set(found.by_fold)) == 5
        assert found.temperature == pytest.approx(math.prod(found.by_fold) ** (1 / 5))
        for before, after in (
            (found.validation_before, found.validation_after),
            (found.test_before, found.test_after),
        ):
            assert all(a < b for a, b in zip(astuple(after), astuple(before), strict=True))
        assert found.test_after.ece < 0.03 < found.test_before.ece
        cooled = tempered(test_sharp, found.temperature, several=findings)
        assert found.test_after.brier == pytest.approx(compute("brier", test_labels, cooled, 4))

    def test_the_test_has_no_say(self, findings: bool) -> None:
        labels, probabilities = honest(500, 1, findings)
        test_labels, test_probabilities = honest(300, 2, findings)
        arguments = (labels, probabilities, np.arange(500))
        found = calibration(*arguments, test_labels, test_probabilities, classes=4)
        other = calibration(*arguments, test_labels[::-1], test_probabilities, classes=4)
        assert (other.temperature, other.by_fold) == (found.temperature, found.by_fold)
        assert other.test_after != found.test_after


def test_a_row_is_tempered_by_other_groups_alone() -> None:
    """Two groups, one of which would ask for heat and the other for cold: each gets what the other asks for."""
    labels = np.array([0, 1] * 100)
    sure = np.array([[0.99, 0.01], [0.01, 0.99]] * 50 + [[0.6, 0.4], [0.4, 0.6]] * 50)
    labels[:100:4] = 1  # a quarter of the sure rows are wrong
    groups = np.arange(200) // 100
    found = calibration(labels, sure, groups, labels, sure, classes=2)
    assert len(found.by_fold) == 2 and min(found.by_fold) < 0.2 and max(found.by_fold) > 2
    assert found.validation_after.log_loss > found.validation_before.log_loss
    with pytest.raises(ValueError, match="of one group"):
        calibration(labels, sure, np.zeros(200), labels, sure, classes=2)


def test_findings_that_are_not_scored_have_no_say() -> None:
    labels, probabilities = honest(2000, 0, findings=True)
    holes = labels.copy()
    holes[::2, 1] = np.nan
    nonsense = probabilities.copy()
    nonsense[::2, 1] = 1 - nonsense[::2, 1]
    assert temperature(holes, nonsense) == pytest.approx(temperature(holes, probabilities))
    with pytest.raises(Undefined, match="no row is scored"):
        temperature(np.full_like(labels, np.nan), probabilities)


class TestOperatingPoint:
    LABELS = np.repeat([0, 1], [10, 10])
    SCORES = np.concatenate([np.arange(10) / 20, 0.225 + np.arange(10) / 20])

    def both(self, scores: np.ndarray) -> np.ndarray:
        return np.stack([1 - scores, scores], axis=1)

    def test_threshold_by_hand(self) -> None:
        arguments = (self.LABELS, self.both(self.SCORES)) * 2
        found = operating_point(*arguments, np.arange(20), of_class=1, wanted=0.8, resamples=500)
        # of the negatives 0 to .45 the two highest may be called; the lowest positive above .35 is .375
        assert found.threshold == pytest.approx(0.375)
        assert (found.validation_specificity, found.validation_sensitivity) == pytest.approx((0.8, 0.7))
        assert (found.specificity.value, found.sensitivity.value) == pytest.approx((0.8, 0.7))
        other = operating_point(*arguments, np.arange(20), of_class=1, wanted=0.9, target="sensitivity", resamples=500)
        assert other.threshold == pytest.approx(0.275)
        assert (other.validation_sensitivity, other.validation_specificity) == pytest.approx((0.9, 0.6))

    def test_frozen_on_the_test_with_intervals_over_groups(self) -> None:
        rng = np.random.default_rng(0)
        validation, labels = np.arange(4000) % 2, np.arange(300) // 3 % 2
        ease = rng.normal(size=100)[np.arange(300) // 3]
        scores = [special.expit(rng.normal(size=4000) + 2 * validation), special.expit(ease + 2 * labels)]
        shown = (validation, self.both(scores[0]), labels, self.both(scores[1]))
        found = operating_point(*shown, np.arange(300) // 3, of_class=1, wanted=0.9, resamples=2000)
        assert found.validation_specificity == pytest.approx(0.9, abs=1e-3)
        assert found.specificity.value == (scores[1][labels == 0] < found.threshold).mean()
        assert found.sensitivity.value == (scores[1][labels == 1] >= found.threshold).mean()
        assert found.sensitivity.low < 0.76 < found.sensitivity.high  # 1 - ndtr(ndtri(.9) - 2)
        assert found.sensitivity.groups == 50
        over_rows = operating_point(*shown, np.arange(300), of_class=1, wanted=0.9, resamples=2000)
        assert found.sensitivity.sd_groups > 1.5 * over_rows.sensitivity.sd_groups
        flipped = (validation, self.both(scores[0]), 1 - labels, self.both(scores[1]))
        assert operating_point(*flipped, np.arange(300), of_class=1, wanted=0.9).threshold == found.threshold

    def test_findings_leave_out_what_is_not_scored(self) -> None:
        labels = np.stack([self.LABELS, self.LABELS], axis=1).astype(np.float32)
        labels[[0, 19], 1] = np.nan
        scores = np.stack([self.SCORES, self.SCORES], axis=1)
        found = operating_point(labels, scores, labels, scores, np.arange(20), of_class=1, wanted=0.8, resamples=500)
        assert found.sensitivity.groups == found.specificity.groups == 9
        with pytest.raises(Undefined, match="0 of 9 rows of test are positive"):
            test = labels.copy()
            test[test == 1] = np.nan
            operating_point(labels, scores, test, scores, np.arange(20), of_class=1, wanted=0.8)

    def test_a_target_that_only_calling_none_reaches(self) -> None:
        arguments = (self.LABELS, self.both(1 - self.SCORES)) * 2
        found = operating_point(*arguments, np.arange(20), of_class=1, wanted=1.0, resamples=200)
        assert found.threshold == math.inf
        assert (found.sensitivity.value, found.specificity.value) == (0, 1)
