from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from spaces.config import METRICS
from trainables.metric_names import RANKED, metrics_for
from trainables.metrics import (
    RANGES,
    Undefined,
    by_class,
    compute,
    predicted,
    sensitivity_at_specificity,
    summary,
    undefined_reasons,
)

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]]
)  # predicted 0 0 1 1 0 2
CORNERS = np.eye(3)


def test_values_by_hand() -> None:
    assert compute("accuracy", LABELS, PROBABILITIES, 3) == pytest.approx(4 / 6)
    assert compute("balanced_accuracy", LABELS, PROBABILITIES, 3) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert compute("macro_f1", LABELS, PROBABILITIES, 3) == pytest.approx((4 / 6 + 2 / 4 + 1) / 3)
    # class 0 against the rest: .7 and .6 beat .1 .5 .1, .2 beats two of them; class 1: .8 beats all, .4 three of four
    assert compute("macro_auroc", LABELS, PROBABILITIES, 3) == pytest.approx((8 / 9 + 7 / 8 + 1) / 3)
    # observed penalty 2; expected from margins (3, 2, 1) and (3, 2, 1): (3*2 + 2*3 + 2*1 + 1*2 + 4*(3 + 3)) / 6
    assert compute("quadratic_weighted_kappa", LABELS, PROBABILITIES, 3) == pytest.approx(1 - 2 / (40 / 6))


def test_agrees_with_scikit_learns_own_macro_auroc() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 4, 200), rng.dirichlet(np.ones(4), 200)
    expected = sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert compute("macro_auroc", labels, probabilities, 4) == pytest.approx(expected)


def test_two_classes_have_one_area_even_where_float32_saturates() -> None:
    labels = np.array([0, 1, 0, 1])
    positive = np.array([1e-12, 1e-11, 1e-10, 1e-9], np.float32)
    probabilities = np.stack([1 - positive, positive], axis=1)
    assert (probabilities[:, 0] == 1).all()
    assert compute("macro_auroc", labels, probabilities, 2) == pytest.approx(3 / 4)


def test_kappa_is_over_all_grades_and_may_be_negative() -> None:
    labels, probabilities = np.array([0, 0, 1, 1]), np.eye(5)[[1, 1, 0, 0]]
    assert compute("quadratic_weighted_kappa", labels, probabilities, 5) == pytest.approx(-1)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_auroc", "macro_average_precision", "macro_f1"])
def test_a_class_without_rows_is_undefined(metric: str) -> None:
    with pytest.raises(Undefined, match=r"1 of 4 classes have no rows \(class 3, counted from 0\)"):
        compute(metric, LABELS, np.pad(PROBABILITIES, ((0, 0), (0, 1))), 4)


def test_kappa_of_a_constant_predictor_or_a_single_grade_is_undefined() -> None:
    with pytest.raises(Undefined, match="predicted as class 1"):
        compute("quadratic_weighted_kappa", LABELS, CORNERS[[1] * 6], 3)
    with pytest.raises(Undefined, match="of class 2"):
        compute("quadratic_weighted_kappa", np.full(6, 2), PROBABILITIES, 3)


@pytest.mark.parametrize("metric", METRICS)
def test_no_rows_and_broken_probabilities_are_undefined(metric: str) -> None:
    with pytest.raises(Undefined, match="no rows"):
        compute(metric, LABELS[:0], PROBABILITIES[:0], 3)
    broken = PROBABILITIES.copy()
    broken[1, 2] = np.nan
    with pytest.raises(Undefined, match="1 rows aren't finite"):
        compute(metric, LABELS, broken, 3)


@pytest.mark.parametrize(
    ("labels", "probabilities", "said"),
    [
        (LABELS.astype(float), PROBABILITIES, "labels are float64"),
        (LABELS[:, None], PROBABILITIES, r"labels are int64 \[6, 1\]"),
        (np.zeros((6, 2)), PROBABILITIES, r"labels are \[6, 2\], expected \[N, 3\]"),
        (np.full((6, 3), 0.5), PROBABILITIES, "should be 0, 1 or NaN"),
        (LABELS, PROBABILITIES[:, :2], r"expected \[..., 6, 3\]"),
        (LABELS + 1, PROBABILITIES, "labels run from 1 to 3, expected 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(labels: np.ndarray, probabilities: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compute("accuracy", labels, probabilities, 3)


def test_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match='Did you mean "macro_auroc"'):
        compute("macro_auc", LABELS, PROBABILITIES, 3)


def test_summary_has_every_metric_and_how_good_the_probabilities_are() -> None:
    found = summary(LABELS, PROBABILITIES, 3, "ordinal")
    assert set(found) == {*METRICS, "log_loss", "brier", "ece"}
    assert found["log_loss"] == pytest.approx(-np.log([0.7, 0.6, 0.2, 0.8, 0.4, 0.7]).mean())
    assert all(found[name] == compute(name, LABELS, PROBABILITIES, 3) for name in METRICS)
    assert all(type(value) is float for value in found.values())
    assert undefined_reasons(LABELS, PROBABILITIES, 3, "ordinal") == {}
    assert "quadratic_weighted_kappa" not in summary(LABELS, PROBABILITIES, 3, "classification")


def test_summary_keeps_what_is_defined_beside_what_is_not() -> None:
    labels, probabilities = LABELS[:5], PROBABILITIES[:5]
    found, reasons = (
        summary(labels, probabilities, 3, "ordinal"),
        undefined_reasons(labels, probabilities, 3, "ordinal"),
    )
    assert {name for name, value in found.items() if value is None} == set(reasons)
    assert set(reasons) == {"balanced_accuracy", "macro_auroc", "macro_average_precision", "macro_f1"}
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_the_first_of_equal_classes_is_predicted() -> None:
    assert predicted(np.array([[[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]])).tolist() == [[0, 1]]


def test_every_metric_has_a_range() -> None:
    assert set(RANGES) == set(METRICS)


NAN = np.nan
FINDINGS = np.array([[1, 0, NAN], [0, 0, NAN], [1, 1, 1], [0, NAN, 0], [0, 1, 0]], np.float32)
LIKELY = np.array([[0.9, 0.2, 0.5], [0.3, 0.4, 0.1], [0.2, 0.8, 0.6], [0.1, 0.9, 0.7], [0.1, 0.3, 0.2]])


def test_findings_by_hand_leave_out_what_is_not_scored() -> None:
    # finding 0: .9 beats all three, .2 beats two; finding 1: .8 beats both, .3 one; finding 2: .6 beats one of two
    assert compute("macro_auroc", FINDINGS, LIKELY, 3) == pytest.approx((5 / 6 + 3 / 4 + 1 / 2) / 3)
    # precision at each positive: 1/1 and 2/3; 1/1 and 2/3; 1/2
    assert compute("macro_average_precision", FINDINGS, LIKELY, 3) == pytest.approx((5 / 6 + 5 / 6 + 1 / 2) / 3)


def test_precision_at_ties_counts_all_of_them() -> None:
    labels = np.array([[1.0], [0.0], [0.0], [1.0]])
    assert compute("macro_average_precision", labels, np.full((4, 1), 0.5), 1) == pytest.approx(1 / 2)


def test_average_precision_of_classes_is_against_the_rest_and_of_two_that_of_class_1() -> None:
    expected = [sklearn_metrics.average_precision_score(c == LABELS, PROBABILITIES[:, c]) for c in range(3)]
    assert compute("macro_average_precision", LABELS, PROBABILITIES, 3) == pytest.approx(np.mean(expected))
    two, positive = (LABELS > 0).astype(np.int64), 1 - PROBABILITIES[:, 0]
    found = compute("macro_average_precision", two, np.stack([1 - positive, positive], axis=1), 2)
    assert found == pytest.approx(sklearn_metrics.average_precision_score(two, positive))


def test_a_finding_without_positives_or_negatives_is_undefined_and_never_a_half() -> None:
    labels = FINDINGS.copy()
    labels[2, 2] = NAN
    for metric in sorted(RANKED):
        with pytest.raises(Undefined, match=r"1 of 3 findings lack positives or negatives \(finding 2, counted from 0"):
            compute(metric, labels, LIKELY, 3)
        assert compute(metric, labels, LIKELY, 3, over=[1, 0]) == compute(metric, labels[:, :2], LIKELY[:, :2], 2)
    assert summary(labels, LIKELY, 3, "multilabel")["macro_auroc"] is None
    assert summary(labels, LIKELY, 3, "multilabel", over=[0, 1])["macro_auroc"] == pytest.approx(19 / 24)


def test_classes_averaged_over_are_chosen_for_ranked_metrics_alone() -> None:
    expected = np.mean([sklearn_metrics.roc_auc_score(c == LABELS, PROBABILITIES[:, c]) for c in (0, 2)])
    assert compute("macro_auroc", LABELS, PROBABILITIES, 3, over=[2, 0]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="balanced_accuracy is over all classes"):
        compute("balanced_accuracy", LABELS, PROBABILITIES, 3, over=[0])
    for wrong in ([], [0, 0], [3]):
        with pytest.raises(ValueError, match="expected some of 0 to 2, each once"):
            compute("macro_auroc", LABELS, PROBABILITIES, 3, over=wrong)


def test_a_class_that_all_rows_have_is_undefined() -> None:
    with pytest.raises(Undefined, match=r"1 of 1 classes have all rows \(class 0"):
        compute("macro_auroc", LABELS[:3], PROBABILITIES[:3], 3, over=[0])


def test_metrics_of_each_task() -> None:
    assert metrics_for("ordinal") == tuple(METRICS)
    assert "quadratic_weighted_kappa" not in metrics_for("classification")
    assert set(metrics_for("multilabel")) == RANKED
    for metric in set(METRICS) - RANKED:
        with pytest.raises(ValueError, match=f"{metric} makes no sense in multi-label"):
            compute(metric, FINDINGS, LIKELY, 3)


def test_summary_of_findings() -> None:
    found = summary(FINDINGS, LIKELY, 3, "multilabel")
    assert set(found) == {*RANKED, "log_loss", "brier", "ece"}
    known = ~np.isnan(FINDINGS)
    squared = [np.square(FINDINGS[known[:, c], c] - LIKELY[known[:, c], c]).mean() for c in range(3)]
    assert found["brier"] == pytest.approx(np.mean(squared))
    right = np.where(FINDINGS == 1, LIKELY, 1 - LIKELY)
    nll = [-np.log(right[known[:, c], c]).mean() for c in range(3)]
    assert found["log_loss"] == pytest.approx(np.mean(nll))
    unscored = FINDINGS.copy()
    unscored[:, 1] = NAN
    assert "scored in no row (finding 1" in undefined_reasons(unscored, LIKELY, 3, "multilabel")["brier"]


def test_each_class_by_itself() -> None:
    found = by_class(FINDINGS, LIKELY, 3)
    assert [(one.positive, one.negative) for one in found] == [(2, 3), (2, 2), (1, 2)]
    assert [one.auroc for one in found] == pytest.approx([5 / 6, 3 / 4, 1 / 2])
    assert [one.average_precision for one in found] == pytest.approx([5 / 6, 5 / 6, 1 / 2])
    assert all(one.recall is None for one in found)
    of_classes = by_class(LABELS, np.pad(PROBABILITIES, ((0, 0), (0, 1))), 4)
    assert [one.recall for one in of_classes] == pytest.approx([2 / 3, 1 / 2, 1, None])
    assert (of_classes[3].positive, of_classes[3].auroc, of_classes[3].average_precision) == (0, None, None)


def test_brier_is_the_squared_distance_from_the_truth() -> None:
    expected = np.square(PROBABILITIES - np.eye(3)[LABELS]).sum(axis=1).mean()
    assert compute("brier", LABELS, PROBABILITIES, 3) == pytest.approx(expected)
    two = np.array([0, 1]), np.array([[0.8, 0.2], [0.3, 0.7]])
    assert compute("brier", *two, 2) == pytest.approx((0.04 + 0.09) / 2)


def test_scores_of_probabilities_need_probabilities() -> None:
    for name in ("brier", "log_loss"):
        with pytest.raises(Undefined, match="sum to one"):
            compute(name, LABELS, PROBABILITIES * 2, 3)
        assert compute(name, LABELS, PROBABILITIES.astype(np.float32), 3) == pytest.approx(
            compute(name, LABELS, PROBABILITIES, 3), rel=1e-5
        )


def test_calibration_error_by_bins_of_equal_mass() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(30_000)
    labels = (rng.random(30_000) < confidence**2).astype(np.float32)[:, None]
    # the chance is p^2 instead of p, so that the error is the integral of p - p^2
    assert compute("ece", labels, confidence[:, None], 1) == pytest.approx(1 / 6, abs=0.01)
    honest = (rng.random(30_000) < confidence).astype(np.float32)[:, None]
    assert compute("ece", honest, confidence[:, None], 1) < 0.02


def test_calibration_error_of_classes_is_that_of_the_predicted_one() -> None:
    labels = np.array([0, 1] * 50)
    sure = np.tile([0.9, 0.1], (100, 1))
    assert compute("ece", labels, sure, 2) == pytest.approx(0.4)
    order = np.random.default_rng(0).permutation(100)
    mixed = np.where(np.arange(100)[:, None] < 60, sure, [0.3, 0.7])
    assert compute("ece", labels, mixed, 2) == pytest.approx(compute("ece", labels[order], mixed[order], 2))


def test_sensitivity_at_a_specificity() -> None:
    positive, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1]) == 1, np.array([0.1, 0.2, 0.3, 0.6, 0.2, 0.5, 0.7, 0.9])
    assert sensitivity_at_specificity(positive, scores, 1.0) == pytest.approx(2 / 4)
    assert sensitivity_at_specificity(positive, scores, 0.75) == pytest.approx(3 / 4)
    assert sensitivity_at_specificity(positive, scores, 0.5) == pytest.approx(3 / 4)
    assert sensitivity_at_specificity(positive, scores, 0.25) == pytest.approx(1)
    with pytest.raises(Undefined, match="0 of 8 rows are positive"):
        sensitivity_at_specificity(positive & False, scores, 0.9)
