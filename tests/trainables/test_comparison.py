from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from spaces.config import METRICS
from trainables.comparison import comparison_with_best, paired_difference
from trainables.metric_names import RANKED
from trainables.metrics import compute

GROUPS = 80


def sample(
    seeds: int, better: np.ndarray, seed: int = 0, findings: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities [K, S, N, C] of recipes that are so much better, groups of 1 to 3 rows [N]."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(GROUPS), rng.integers(1, 4, GROUPS))
    shape = (len(better), seeds, len(group), 3)
    scores = rng.normal(size=(GROUPS, 3))[group] + 0.7 * rng.normal(size=shape)
    if findings:
        labels = (rng.random((GROUPS, 3)) < 0.4)[group].astype(np.float32)
        labels[rng.random(labels.shape) < 0.1] = np.nan
        return labels, special.expit(scores + np.nan_to_num(labels) * better[:, None, None, None]), group
    labels = (np.arange(GROUPS) % 3)[group]
    scores[..., np.arange(len(group)), labels] += better[:, None, None]
    return labels, special.softmax(scores, axis=-1), group


class TestPairedDifference:
    def test_of_accuracy_with_one_seed_is_a_paired_t_test(self) -> None:
        rng = np.random.default_rng(0)
        labels, groups = np.zeros(200, dtype=np.int64), np.arange(200)
        right = np.stack([rng.random(200) < 0.8, rng.random(200) < 0.6])
        a, b = np.eye(2)[np.where(right, 0, 1)][:, None]
        found = paired_difference("accuracy", labels, a, b, groups, classes=2, resamples=20_000)
        expected = stats.ttest_rel(*right.astype(float))
        ends = expected.confidence_interval()
        assert found.value == pytest.approx(right[0].mean() - right[1].mean())
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=2e-3)
        assert found.p == pytest.approx(expected.pvalue, rel=0.2)
        assert found.dof == pytest.approx(199)
        assert found.warnings == tuple(
            f"{name} has one seed: the interval leaves out how much its metric varies between seeds" for name in "ab"
        )

    def test_what_is_hard_for_both_cancels_out(self) -> None:
        labels, probabilities, groups = sample(1, np.array([1.0, 1.0]))
        a, b = probabilities
        together = paired_difference("accuracy", labels, a, b, groups, classes=3, resamples=2000)
        shuffled = np.random.default_rng(1).permutation(np.flatnonzero(labels == labels))
        order = shuffled[np.argsort(labels[shuffled], kind="stable")]
        home = np.argsort(labels, kind="stable")
        elsewhere = np.empty_like(b)
        elsewhere[:, home] = b[:, order]  # the same predictions of each class, of other images
        apart = paired_difference("accuracy", labels, a, elsewhere, groups, classes=3, resamples=2000)
        assert apart.value == pytest.approx(together.value)
        assert together.standard_error < 0.9 * apart.standard_error

    def test_variance_between_seeds_enters_with_few_degrees_of_freedom(self) -> None:
        rng = np.random.default_rng(0)
        labels, groups = np.zeros(5000, dtype=np.int64), np.arange(5000)
        rates = np.array([[0.7, 0.8, 0.9], [0.5, 0.6, 0.7]])
        a, b = np.eye(2)[np.where(rng.random((2, 3, 5000)) < rates[..., None], 0, 1)]
        found = paired_difference("accuracy", labels, a, b, groups, classes=2, resamples=1000)
        assert found.standard_error == pytest.approx(np.sqrt(0.01 / 3 * 2), rel=0.1)
        assert 3.5 < found.dof < 4.5 and found.low < 0 < found.high and found.p > 0.05
        assert found.warnings == () and found.seeds == (3, 3)

    def test_the_same_number_of_a_seed_is_no_pair(self) -> None:
        labels, probabilities, groups = sample(4, np.array([1.5, 1.0]))
        a, b = probabilities
        found = paired_difference("macro_auroc", labels, a, b, groups, classes=3, resamples=1000)
        other = paired_difference("macro_auroc", labels, a, b[[2, 0, 3, 1]], groups, classes=3, resamples=1000)
        assert (other.value, other.low, other.p) == pytest.approx((found.value, found.low, found.p))

    @pytest.mark.parametrize("metric", METRICS)
    def test_every_metric_and_its_opposite(self, metric: str) -> None:
        labels, probabilities, groups = sample(3, np.array([2.5, 0.5]))
        a, b = probabilities
        found = paired_difference(metric, labels, a, b[:2], groups, classes=3, resamples=1000)
        back = paired_difference(metric, labels, b[:2], a, groups, classes=3, resamples=1000)
        assert found.low > 0 and found.p < 0.05 and found.seeds == (3, 2)
        assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low), rel=1e-6)

    @pytest.mark.parametrize("metric", sorted(RANKED))
    def test_findings(self, metric: str) -> None:
        labels, probabilities, groups = sample(3, np.array([2.0, 0.5]), findings=True)
        found = paired_difference(metric, labels, *probabilities, groups, classes=3, over=[0, 2], resamples=500)
        means = [np.mean([compute(metric, labels, p, 3, over=[0, 2]) for p in seeds]) for seeds in probabilities]
        assert found.value == pytest.approx(means[0] - means[1]) and found.low > 0

    def test_equal_predictions_have_no_interval(self) -> None:
        labels, probabilities, groups = sample(1, np.array([1.0]))
        found = paired_difference("accuracy", labels, probabilities[0], probabilities[0], groups, classes=3)
        assert (found.value, found.low, found.p) == (0, None, None)
        assert found.warnings[-1].startswith("no interval: neither groups nor seeds make a difference")


class TestComparisonWithTheBest:
    def test_who_is_worse_is_out_and_who_equals_the_best_is_not(self) -> None:
        labels, probabilities, groups = sample(3, np.array([0.3, 2.5, 2.5, 0.8]), seed=1)
        found = comparison_with_best(
            "balanced_accuracy", labels, dict(zip("abcd", probabilities, strict=True)), groups, classes=3,
            resamples=2000,
        )  # fmt: skip
        assert {one.name: one.in_question for one in found.recipes} == {"a": False, "b": True, "c": True, "d": False}
        values = [one.value for one in found.recipes]
        assert values == sorted(values, reverse=True)
        for one in found.recipes:
            others = max(value for value in values if value != one.value)
            assert one.difference == pytest.approx(one.value - others)
            assert one.low <= min(0, one.difference) and max(0, one.difference) <= one.high
            assert one.in_question == (one.high > 0) and one.within_margin is None

    def test_the_only_one_in_question_is_the_best(self) -> None:
        labels, probabilities, groups = sample(5, np.array([4.0, 0.3]))
        best, other = comparison_with_best(
            "macro_auroc", labels, {"a": probabilities[0], "b": probabilities[1]}, groups, classes=3, resamples=1000
        ).recipes
        assert (best.low, other.high) == (0, 0) and other.low < other.difference < 0 < best.difference < best.high

    def test_two_recipes_are_a_one_sided_paired_comparison(self) -> None:
        labels, probabilities, groups = sample(1, np.array([1.2, 0.9]))
        a, b = probabilities
        arguments = {"classes": 3, "resamples": 20_000}
        pair = paired_difference("accuracy", labels, a, b, groups, level=0.9, **arguments)  # 5% on each side
        found = comparison_with_best("accuracy", labels, {"a": a, "b": b}, groups, **arguments)
        assert found.recipes[0].name == "a"
        assert found.recipes[0].high == pytest.approx(pair.high, rel=0.05)
        assert found.recipes[1].low == pytest.approx(-pair.high, rel=0.05)

    def test_more_recipes_ask_for_more(self) -> None:
        labels, probabilities, groups = sample(2, np.full(8, 1.0))
        few, many = (
            comparison_with_best(
                "accuracy", labels, {str(i): p for i, p in enumerate(probabilities[:count])}, groups, classes=3,
                resamples=2000,
            )
            for count in (2, 8)
        )  # fmt: skip
        widths = [next(one.high - one.difference for one in found.recipes if one.name == "0") for found in (few, many)]
        assert widths[1] > widths[0]

    def test_copies_of_the_best_stay_in_question(self) -> None:
        labels, probabilities, groups = sample(1, np.array([3.0, 0.1]))
        found = comparison_with_best(
            "accuracy", labels, {"a": probabilities[0], "copy": probabilities[0], "b": probabilities[1]}, groups,
            classes=3, resamples=500,
        )  # fmt: skip
        assert [(one.name, one.in_question) for one in found.recipes] == [("a", True), ("copy", True), ("b", False)]

    def test_margin(self) -> None:
        labels, probabilities, groups = sample(3, np.array([2.0, 1.9, 0.2]))
        recipes = dict(zip("abc", probabilities, strict=True))
        found = comparison_with_best("accuracy", labels, recipes, groups, classes=3, margin=0.15, resamples=1000)
        assert {one.name: one.within_margin for one in found.recipes} == {"a": True, "b": True, "c": False}

    def test_without_intervals_everyone_is_in_question(self) -> None:
        labels, probabilities, _ = sample(2, np.array([2.0, 0.1]))
        found = comparison_with_best(
            "accuracy", labels, dict(zip("ab", probabilities, strict=True)), np.zeros(len(labels)), classes=3
        )
        assert [(one.low, one.in_question) for one in found.recipes] == [(None, True)] * 2
        assert found.warnings[-1] == "no interval: all rows are of one group"

    def test_one_recipe_is_no_comparison(self) -> None:
        labels, probabilities, groups = sample(1, np.array([1.0]))
        with pytest.raises(ValueError, match="1 recipes, expected at least 2"):
            comparison_with_best("accuracy", labels, {"a": probabilities[0]}, groups, classes=3)
