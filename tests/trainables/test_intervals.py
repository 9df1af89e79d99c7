from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import average_precision_score

from spaces.config import METRICS
from trainables.intervals import Interval, group_bootstrap, seed_interval, standard_error
from trainables.metric_names import RANKED
from trainables.metrics import Undefined, compute


def sample(groups: int, classes: int, seeds: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], probabilities [S, N, C] and names of groups [N]: groups of 1 to 3 rows of one label."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    labels = (np.arange(groups) % classes)[group]
    logits = rng.normal(size=(seeds, len(group), classes)) + rng.normal(size=(groups, classes))[group]
    logits[:, np.arange(len(group)), labels] += 1.5
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=-1, keepdims=True), np.char.add("g", group.astype(str))


def decided(labels: np.ndarray, right: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities [..., N, C] of predictions that are right where told, else the next class."""
    return np.eye(classes)[np.where(right, labels, (labels + 1) % classes)]


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


def widened(level: float, factor: float, dof: float) -> float:
    """The level whose normal quantile is as wide as the t quantile for few groups."""
    return float(2 * stats.norm.cdf(np.sqrt(factor) * stats.t.ppf((1 + level) / 2, dof)) - 1)


class TestAgainstClosedForms:
    def test_singleton_groups_are_scipys_ordinary_bootstrap(self) -> None:
        rng = np.random.default_rng(0)
        labels, groups = np.repeat([0, 1], [20, 30]), np.arange(50)
        scores = rng.normal(size=50) + labels
        found = group_bootstrap(
            "macro_average_precision", labels, np.stack([-scores, scores], axis=1), groups, classes=2, resamples=2000
        )

        def value(rows: np.ndarray, axis: int = -1) -> np.ndarray:
            return np.apply_along_axis(lambda r: average_precision_score(labels[r], scores[r]), -1, rows).round(12)

        expected = stats.bootstrap(
            (groups,), value, n_resamples=2000, method="BCa", rng=np.random.default_rng(0), vectorized=True,
            confidence_level=widened(0.95, 50 / 49, 49),
        )  # fmt: skip
        assert ends(found) == pytest.approx(tuple(expected.confidence_interval), abs=1e-9)
        assert found.value == pytest.approx(average_precision_score(labels, scores))

    def test_strata_are_scipys_ordinary_bootstrap_of_several_samples(self) -> None:
        labels = np.repeat([0, 1, 2], [12, 30, 60])
        right = np.random.default_rng(1).random(102) < np.array([0.6, 0.7, 0.9])[labels]
        samples = [right[labels == c].astype(float) for c in range(3)]

        def mean_recall(*recalls: np.ndarray, axis: int = -1) -> np.ndarray:
            return np.mean([r.mean(axis=axis) for r in recalls], axis=0).round(12)

        found = group_bootstrap(
            "balanced_accuracy", labels, decided(labels, right, 3), np.arange(102), classes=3, resamples=2000
        )
        parts = [s.var() / (len(s) - 1) for s in samples]
        factor = sum(part * len(s) / (len(s) - 1) for part, s in zip(parts, samples, strict=True)) / sum(parts)
        dof = sum(parts) ** 2 / sum(part**2 / (len(s) - 1) for part, s in zip(parts, samples, strict=True))
        expected = stats.bootstrap(
            samples, mean_recall, n_resamples=2000, method="BCa", vectorized=True, rng=np.random.default_rng(0),
            confidence_level=widened(0.95, factor, dof),
        )  # fmt: skip
        # the jackknife's parts differ a little from the samples' own, and quantiles of a discrete value in steps
        assert ends(found) == pytest.approx(tuple(expected.confidence_interval), abs=2e-3)

    def test_accuracys_standard_error_is_the_means(self) -> None:
        right = np.random.default_rng(2).random(200) < 0.7
        labels = np.zeros(200, dtype=np.int64)
        found = standard_error("accuracy", labels, decided(labels, right, 2), np.arange(200), 2)
        assert found == pytest.approx(right.std(ddof=1) / np.sqrt(200))

    def test_balanced_accuracys_standard_error_is_that_of_independent_classes(self) -> None:
        labels = np.repeat([0, 1], [40, 160])
        right = np.random.default_rng(3).random(200) < 0.7
        probabilities = decided(labels, right, 2)
        expected = np.sqrt(sum(right[labels == c].var() / (labels == c).sum() for c in (0, 1))) / 2
        arguments = ("balanced_accuracy", labels, probabilities, np.arange(200))
        assert group_bootstrap(*arguments, classes=2).sd_groups == pytest.approx(expected, rel=0.03)
        assert standard_error(*arguments, 2) == pytest.approx(expected, rel=0.03)

    def test_aurocs_standard_error_is_delongs(self) -> None:
        rng = np.random.default_rng(4)
        labels = np.repeat([0, 1], [70, 50])
        scores = rng.normal(size=120) + labels
        probabilities = np.stack([-scores, scores], axis=1)
        above = (scores[labels == 1][:, None] > scores[labels == 0]).astype(float)  # DeLong et al. 1988
        delong = np.sqrt(above.mean(axis=1).var(ddof=1) / 50 + above.mean(axis=0).var(ddof=1) / 70)
        arguments = ("macro_auroc", labels, probabilities, np.arange(120))
        assert standard_error(*arguments, 2) == pytest.approx(delong, rel=0.02)
        assert group_bootstrap(*arguments, classes=2).sd_groups == pytest.approx(delong, rel=0.04)

    def test_copies_within_groups_add_nothing(self) -> None:
        labels, probabilities, _ = sample(60, 3)
        groups, copies = np.arange(len(labels)), np.repeat(np.arange(len(labels)), 4)
        for metric in METRICS:
            once = group_bootstrap(metric, labels, probabilities, groups, classes=3, resamples=500)
            copied = group_bootstrap(
                metric, labels[copies], probabilities[:, copies], groups[copies], classes=3, resamples=500
            )
            assert copied.sd_groups == pytest.approx(once.sd_groups, rel=0.12)  # other batches, other resamples
            assert standard_error(metric, labels[copies], probabilities[:, copies], groups[copies], 3) == pytest.approx(
                standard_error(metric, labels, probabilities, groups, 3)
            )


class TestEveryMetric:
    @pytest.mark.parametrize("metric", METRICS)
    def test_order_of_rows_does_not_matter(self, metric: str) -> None:
        labels, probabilities, groups = sample(80, 4, seeds=2)
        order = np.random.default_rng(9).permutation(len(labels))
        for interval in (group_bootstrap, seed_interval):
            found = interval(metric, labels, probabilities, groups, classes=4, resamples=500)
            other = interval(metric, labels[order], probabilities[:, order], groups[order], classes=4, resamples=500)
            assert replace(other, value=found.value) == found
            assert other.value == pytest.approx(found.value)
            assert found.warnings == ()

    @pytest.mark.parametrize("metric", METRICS)
    def test_jackknife_and_bootstrap_agree(self, metric: str) -> None:
        labels, probabilities, groups = sample(200, 4)
        found = group_bootstrap(metric, labels, probabilities[0], groups, classes=4, resamples=2000)
        low, high = ends(found)
        assert low < found.value < high
        assert found.value == pytest.approx(compute(metric, labels, probabilities[0], 4))
        assert found.sd_groups == pytest.approx(standard_error(metric, labels, probabilities[0], groups, 4), rel=0.06)
        assert high - low == pytest.approx(2 * 1.96 * found.sd_groups, rel=0.1)

    @pytest.mark.parametrize("metric", METRICS)
    def test_another_seed_is_another_bootstrap_and_the_same_seed_the_same(self, metric: str) -> None:
        labels, probabilities, groups = sample(60, 3)
        first, again, other = (
            group_bootstrap(metric, labels, probabilities, groups, classes=3, resamples=300, seed=s) for s in (0, 0, 1)
        )
        assert first == again
        assert first.sd_groups != other.sd_groups

    def test_ten_thousand_resamples_of_a_thousand_groups_are_quick(self) -> None:
        labels, probabilities, groups = sample(1000, 8)
        started = time.process_time()
        group_bootstrap("macro_auroc", labels, probabilities, groups, classes=8)
        assert time.process_time() - started < 10  # about 1.2 s when nothing else runs
        started = time.process_time()
        for _ in range(5):
            standard_error("macro_auroc", labels, probabilities, groups, 8)
        assert (time.process_time() - started) / 5 < 0.2  # about 15 ms


class TestSeeds:
    def test_variance_is_the_sum_of_its_components(self) -> None:
        labels, probabilities, groups = sample(100, 3, seeds=5)
        probabilities[0, :60] = np.roll(probabilities[0, :60], 1, axis=-1)  # one seed is worse than by chance
        found = seed_interval("accuracy", labels, probabilities, groups, classes=3, resamples=2000)
        values = [compute("accuracy", labels, p, 3) for p in probabilities]
        right = probabilities.argmax(axis=2) == labels
        excess = np.array([np.bincount(np.unique(groups, return_inverse=True)[1], r - r.mean()) for r in right])
        covariance = excess @ excess.T / len(labels) ** 2  # of ratios, by the delta method
        between = covariance[~np.eye(5, dtype=bool)].mean()
        assert found.value == pytest.approx(np.mean(values))
        assert found.sd_seeds == pytest.approx(np.std(values, ddof=1))
        assert found.sd_groups == pytest.approx(np.sqrt(between), rel=0.04)
        over_groups, over_seeds = found.sd_groups**2, found.sd_seeds**2 / 5
        assert found.dof == pytest.approx((over_groups + over_seeds) ** 2 / (over_groups**2 / 99 + over_seeds**2 / 4))
        half = stats.t.ppf(0.975, found.dof) * np.sqrt(over_groups + over_seeds)
        assert special.logit(ends(found)) == pytest.approx(
            special.logit(found.value) + np.array([-1, 1]) * half / found.value / (1 - found.value)
        )

    def test_seeds_that_differ_on_this_test_set_alone_count_once(self) -> None:
        labels, groups = np.zeros(400, dtype=np.int64), np.arange(400)
        right = np.random.default_rng(0).random((20, 400)) < 0.8  # each seed errs somewhere else, none is better
        found = seed_interval("accuracy", labels, decided(labels, right, 2), groups, classes=2, resamples=2000)
        low, high = ends(found)
        truly = 0.4 / np.sqrt(20 * 400)
        assert high - low == pytest.approx(2 * 1.96 * truly, rel=0.35)  # twice counted, 1.41 times as wide

    def test_one_seed_has_only_the_groups_part_and_says_so(self) -> None:
        labels, probabilities, groups = sample(100, 3)
        found = seed_interval("accuracy", labels, probabilities, groups, classes=3, resamples=500)
        assert found.sd_seeds is None and found.dof == pytest.approx(99)
        assert len(found.warnings) == 1 and "seeds weren't repeated" in found.warnings[0]
        width = stats.t.ppf(0.975, 99) * found.sd_groups / found.value / (1 - found.value)
        assert special.logit(ends(found)) == pytest.approx(special.logit(found.value) + np.array([-width, width]))

    def test_rare_strata_leave_few_degrees_of_freedom(self) -> None:
        labels = np.repeat([0, 1], [300, 12])
        right = np.random.default_rng(0).random(312) < 0.7
        found = seed_interval("balanced_accuracy", labels, decided(labels, right, 2), np.arange(312), classes=2)
        assert 10 < found.dof < 15

    def test_stays_in_the_metrics_range(self) -> None:
        labels = np.repeat([0, 1], 15)
        right = np.arange(30) > 0
        low, high = ends(seed_interval("accuracy", labels, decided(labels, right, 2), np.arange(30), classes=2))
        assert 0.7 < low < 29 / 30 < high < 1 and 29 / 30 - low > 5 * (high - 29 / 30)

    def test_variance_over_groups_is_not_too_small_where_groups_are_few(self) -> None:
        labels = np.repeat([0, 1], [10, 10])
        right = np.arange(20) % 5 > 0
        arguments = ("balanced_accuracy", labels, decided(labels, right, 2), np.arange(20))
        unbiased = np.sqrt(sum(right[labels == c].var(ddof=1) / 10 for c in (0, 1))) / 2
        assert seed_interval(*arguments, classes=2).sd_groups == pytest.approx(unbiased, rel=0.02)  # else 5% less


class TestFindings:
    """Labels of which a row may have several, and of which some aren't scored."""

    def sample(self, groups: int = 120, seeds: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(3)
        group = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
        labels = (rng.random((groups, 3)) < [0.5, 0.3, 0.2])[group].astype(np.float32)
        scores = rng.normal(size=(groups, 3))[group] + rng.normal(size=(seeds, len(group), 3)) + 1.5 * labels
        labels[rng.random(labels.shape) < 0.1] = np.nan
        return labels, special.expit(scores), group

    @pytest.mark.parametrize("metric", sorted(RANKED))
    def test_bootstrap_jackknife_and_seeds_agree(self, metric: str) -> None:
        labels, probabilities, groups = self.sample()
        found = group_bootstrap(metric, labels, probabilities[0], groups, classes=3, resamples=2000)
        low, high = ends(found)
        assert low < found.value < high and found.value == pytest.approx(compute(metric, labels, probabilities[0], 3))
        assert found.sd_groups == pytest.approx(standard_error(metric, labels, probabilities[0], groups, 3), rel=0.08)
        over_seeds = seed_interval(metric, labels, probabilities, groups, classes=3, resamples=1000)
        assert over_seeds.seeds == 2 and over_seeds.low is not None

    @pytest.mark.parametrize("metric", sorted(RANKED))
    def test_one_finding_is_a_problem_of_two_classes(self, metric: str) -> None:
        labels, probabilities, groups = self.sample()
        known = ~np.isnan(labels[:, 1])
        one = probabilities[0, known, 1]
        of_two = (metric, labels[known, 1].astype(np.int64), np.stack([1 - one, one], axis=1), groups[known])
        kept = np.isin(groups, groups[known])  # a group of which nothing is scored only adds to the noise
        of_finding = (metric, labels[kept], probabilities[0, kept], groups[kept])
        assert standard_error(*of_finding, 3, over=[1]) == pytest.approx(standard_error(*of_two, 2))
        expected = group_bootstrap(*of_two, classes=2, resamples=4000)
        found = group_bootstrap(*of_finding, classes=3, over=[1], resamples=4000)
        assert found.value == expected.value
        assert ends(found) == pytest.approx(ends(expected), abs=0.15 * (ends(expected)[1] - ends(expected)[0]))

    def test_findings_of_few_groups_are_counted_on_both_sides(self) -> None:
        labels, probabilities, groups = self.sample()
        labels[labels[:, 2] == 0, 2] = np.nan
        labels[groups < 4, 2] = 0
        found = group_bootstrap("macro_auroc", labels, probabilities, groups, classes=3, resamples=200)
        assert found.warnings[0] == (
            "interval unreliable: 1 of 3 findings have fewer than 10 groups with it, or without (finding 2: 4)"
        )
        chosen = group_bootstrap("macro_auroc", labels, probabilities, groups, classes=3, over=[0, 1], resamples=200)
        assert chosen.warnings == ()

    def test_metrics_of_one_class_a_row_are_refused(self) -> None:
        labels, probabilities, groups = self.sample()
        for interval in (group_bootstrap, seed_interval):
            with pytest.raises(ValueError, match="accuracy makes no sense in multi-label"):
                interval("accuracy", labels, probabilities, groups, classes=3)
        with pytest.raises(ValueError, match="makes no sense in multi-label"):
            standard_error("macro_f1", labels, probabilities, groups, 3)


class TestWhatCannotBeTrusted:
    def test_few_groups_of_a_class_are_counted(self) -> None:
        labels = np.repeat([0, 1, 2], [40, 9, 4])
        right = np.arange(53) % 3 > 0
        arguments = (labels, decided(labels, right, 3), np.arange(53))
        said = "interval unreliable: 2 of 3 classes have fewer than 10 groups (class 1: 9, class 2: 4)"
        assert group_bootstrap("balanced_accuracy", *arguments, classes=3, resamples=500).warnings == (said,)
        named = group_bootstrap("balanced_accuracy", *arguments, classes=["NV", "DF", "VASC"], resamples=500)
        assert named.warnings[0].endswith("(class DF: 9, class VASC: 4)")
        assert group_bootstrap("accuracy", *arguments, classes=3, resamples=500).warnings == ()
        few = group_bootstrap("accuracy", labels[:9], arguments[1][:9], np.arange(9), classes=3, resamples=500)
        assert few.warnings == ("interval unreliable: 9 groups, at least 10 are needed",)

    def test_a_metric_often_undefined_has_no_interval(self) -> None:
        labels = np.repeat([0, 1], [40, 3])
        right = np.arange(43) % 4 > 0
        for interval in (group_bootstrap, seed_interval):
            found = interval("macro_f1", labels, decided(labels, right, 2), np.arange(43), classes=2, resamples=2000)
            assert found.low is None and found.high is None and found.sd_groups is None
            assert "no interval: the metric is undefined in" in found.warnings[-1]
            assert found.value == pytest.approx(compute("macro_f1", labels, decided(labels, right, 2), 2))

    def test_a_few_undefined_resamples_are_left_out_and_told(self) -> None:
        labels = np.repeat([0, 1], [40, 6])
        right = np.arange(46) % 4 > 0
        found = group_bootstrap("macro_f1", labels, decided(labels, right, 2), np.arange(46), classes=2, resamples=5000)
        low, high = ends(found)
        assert low < found.value < high
        assert "they were left out" in found.warnings[-1] and "of 5000 resamples" in found.warnings[-1]

    def test_a_class_of_a_single_group_has_no_interval(self) -> None:
        labels, groups = np.repeat([0, 1, 2], [30, 30, 3]), np.append(np.arange(60), [60] * 3)
        right = np.arange(63) % 3 > 0
        for interval in (group_bootstrap, seed_interval):
            found = interval("balanced_accuracy", labels, decided(labels, right, 3), groups, classes=3, resamples=500)
            assert found.low is None and "undefined in" in found.warnings[-1]
        assert standard_error("balanced_accuracy", labels, decided(labels, right, 3), groups, 3) is None

    def test_a_perfect_model_has_no_interval(self) -> None:
        labels = np.repeat([0, 1], 20)
        for interval in (group_bootstrap, seed_interval):
            found = interval(
                "accuracy", labels, decided(labels, labels >= 0, 2), np.arange(40), classes=2, resamples=200
            )
            assert (found.value, found.low, found.high) == (1.0, None, None)
            assert "every resample gives 1" in found.warnings[-1]

    def test_a_single_group_has_neither_interval_nor_standard_error(self) -> None:
        labels = np.array([0, 0, 1, 1])
        arguments = ("accuracy", labels, decided(labels, np.arange(4) > 0, 2), np.zeros(4))
        assert "all rows are of one group" in group_bootstrap(*arguments, classes=2).warnings[-1]
        assert standard_error(*arguments, 2) is None

    def test_an_undefined_metric_is_raised(self) -> None:
        labels = np.array([0, 0, 1, 1])
        for interval in (group_bootstrap, seed_interval):
            with pytest.raises(Undefined, match="class 2"):
                interval("balanced_accuracy", labels, np.eye(3)[labels], np.arange(4), classes=3)
        assert standard_error("balanced_accuracy", labels, np.eye(3)[labels], np.arange(4), 3) is None

    def test_groups_that_do_not_fit_are_refused(self) -> None:
        labels = np.array([0, 0, 1, 1])
        with pytest.raises(ValueError, match=r"groups are \[3\], expected \[4\]"):
            group_bootstrap("accuracy", labels, np.eye(2)[labels], np.arange(3), classes=2)


REPLICATES = 400  # 95% coverage then has a standard error of 1.1 points
ENOUGH, TOO_MUCH = 0.915, 0.985


def coverage(truth: float, draw: Callable[[np.random.Generator], Interval]) -> float:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(REPLICATES):
        low, high = ends(draw(rng))
        inside += low <= truth <= high
    return inside / REPLICATES


class TestCoverage:
    """Grouped test sets whose true metric is known: 25 groups a class, 1 to 5 rows a group that are right or wrong
    together more often than not."""

    RECALLS = np.array([0.6, 0.7, 0.8])

    def draw(self, rng: np.random.Generator, seeds: int = 1, between_seeds: float = 0.0) -> tuple[np.ndarray, ...]:
        group = np.repeat(np.arange(75), rng.integers(1, 6, 75))
        labels = group % 3
        wanted = self.RECALLS[labels] + between_seeds * rng.normal(size=(seeds, 1))
        ease = np.where(rng.random(len(group)) < 0.8, rng.random(75)[group], rng.random(len(group)))
        return labels, decided(labels, ease < wanted, 3), group

    @pytest.mark.parametrize(("metric", "truth"), [("balanced_accuracy", 0.7), ("accuracy", 0.7)])
    def test_over_groups_covers_and_over_images_does_not(self, metric: str, truth: float) -> None:
        def over_groups(rng: np.random.Generator) -> Interval:
            labels, probabilities, group = self.draw(rng)
            return group_bootstrap(metric, labels, probabilities, group, classes=3, resamples=500)

        def over_images(rng: np.random.Generator) -> Interval:
            labels, probabilities, group = self.draw(rng)
            return group_bootstrap(metric, labels, probabilities, np.arange(len(group)), classes=3, resamples=500)

        assert ENOUGH < coverage(truth, over_groups) < TOO_MUCH
        assert coverage(truth, over_images) < ENOUGH - 0.04

    def test_auroc_over_groups_covers_and_over_images_does_not(self) -> None:
        truth = float(stats.norm.cdf(1 / np.sqrt(2)))  # scores N(0, 1) and N(1, 1)

        def draw(rng: np.random.Generator, grouped: bool) -> Interval:
            group = np.repeat(np.arange(60), rng.integers(1, 6, 60))
            labels = group % 2
            scores = labels + np.sqrt(0.8) * rng.normal(size=60)[group] + np.sqrt(0.2) * rng.normal(size=len(group))
            groups = group if grouped else np.arange(len(group))
            return group_bootstrap(
                "macro_auroc", labels, np.stack([-scores, scores], axis=1), groups, classes=2, resamples=500
            )

        assert ENOUGH < coverage(truth, lambda rng: draw(rng, True)) < TOO_MUCH
        assert coverage(truth, lambda rng: draw(rng, False)) < ENOUGH - 0.04

    def test_over_seeds_covers_the_expected_metric_and_over_groups_alone_does_not(self) -> None:
        def over_seeds(rng: np.random.Generator) -> Interval:
            labels, probabilities, group = self.draw(rng, seeds=5, between_seeds=0.1)
            return seed_interval("balanced_accuracy", labels, probabilities, group, classes=3, resamples=300)

        def over_groups(rng: np.random.Generator) -> Interval:
            labels, probabilities, group = self.draw(rng, seeds=5, between_seeds=0.1)
            return group_bootstrap("balanced_accuracy", labels, probabilities, group, classes=3, resamples=300)

        assert ENOUGH < coverage(0.7, over_seeds) < TOO_MUCH + 0.01
        assert coverage(0.7, over_groups) < ENOUGH - 0.04


def test_an_interval_of_two_seeds_is_no_narrower_than_their_means_own() -> None:
    """Where two seeds happen to err on different groups, their covariance is negative, and only as wide as chance
    made their values differ would the interval be."""
    rng = np.random.default_rng(5)
    labels, groups = np.arange(48) % 4, np.arange(48)
    for _ in range(40):
        right = rng.random((2, 48)) < 0.6
        stacked = np.stack([decided(labels, one, 4) for one in right])
        found = seed_interval("accuracy", labels, stacked, groups, classes=4, resamples=400)
        of_these = math.sqrt(right.mean(axis=0).var(ddof=1) / 48)
        assert found.low is not None and found.high is not None, found.warnings
        assert found.high - found.low > 1.9 * 2 * 0.9 * of_these  # 400 resamples
