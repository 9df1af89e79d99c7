from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from spaces.config import METRICS
from trainables.metrics import RANGES, Undefined, compute, predicted, summary, undefined_reasons

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


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_auroc", "macro_f1"])
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


def test_summary_has_every_metric_and_log_loss() -> None:
    found = summary(LABELS, PROBABILITIES, 3, "ordinal")
    assert set(found) == {*METRICS, "log_loss"}
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
    assert set(reasons) == {"balanced_accuracy", "macro_auroc", "macro_f1"}
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_the_first_of_equal_classes_is_predicted() -> None:
    assert predicted(np.array([[[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]])).tolist() == [[0, 1]]


def test_every_metric_has_a_range() -> None:
    assert set(RANGES) == set(METRICS)
