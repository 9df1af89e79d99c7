"""Probabilities that mean what they say, and thresholds: fitted on validation, frozen, reported on the test.

Nothing here looks at test labels but to report. Shapes: N rows, C classes or L findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_curve
from sklearn.model_selection import GroupKFold

from spaces.config import Target
from trainables.intervals import Interval, share_interval
from trainables.metric_names import PROPER
from trainables.metrics import Over, Undefined, against_rest, checked, compute

COLDEST, HOTTEST = 0.02, 50.0
"""Temperatures that are searched: of a perfect validation set the likeliest would be 0."""
FOLDS = 5


@dataclass(frozen=True)
class Quality:
    """How good probabilities are. None where one isn't defined on these rows."""

    log_loss: float | None
    brier: float | None
    ece: float | None


@dataclass(frozen=True)
class Calibration:
    """What a temperature fitted on validation does on the test. Plain data, fit for a record."""

    temperature: float
    """Applied to the test: the geometric mean of those of the folds."""
    by_fold: tuple[float, ...]
    """Each fitted on the validation groups outside of a fold."""
    validation_before: Quality
    validation_after: Quality
    """Each row with the temperature of the others' groups. A check; what is reported is the test."""
    test_before: Quality
    test_after: Quality


@dataclass(frozen=True)
class OperatingPoint:
    """One class or finding at a threshold fixed on validation. Plain data, fit for a record."""

    target: Target
    wanted: float
    """What the threshold was to reach on validation."""
    threshold: float
    """A row counts as positive from this probability up; infinite where only that reaches the target."""
    validation_sensitivity: float
    validation_specificity: float
    sensitivity: Interval
    """On the test, over groups."""
    specificity: Interval


def temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The number that logits are divided by so that the labels become likeliest (Guo et al. 2017).

    Args:
        labels: [N], or of findings [N, L] with 0, 1 and NaN; all findings share one temperature.
        probabilities: [N, C] or [N, L]. Their logarithms stand for the logits.

    Returns:
        Between COLDEST and HOTTEST.

    Raises:
        metrics.Undefined: no rows, or none that is scored.
    """
    labels, probabilities = checked(labels, probabilities, probabilities.shape[-1])
    several = labels.ndim == 2
    logits = _logits(probabilities, several)
    if several and np.isnan(labels).all():
        raise Undefined("no row is scored")
    if several:
        known = ~np.isnan(labels)
        above = np.where(labels[known] == 1, -logits[known], logits[known])
    else:
        above = logits - logits[np.arange(len(labels)), labels][:, None]
        most = above.max(axis=1, keepdims=True)
        above -= most

    def loss(log_temperature: float) -> float:
        """Of what is true, by how far the logits of what isn't lie above its own."""
        scale = math.exp(log_temperature)
        if several:
            return float(np.logaddexp(0, above / scale).mean())
        return float((most[:, 0] / scale + np.log(np.exp(above / scale).sum(axis=1))).mean())

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return math.exp(float(found.x))


def tempered(probabilities: np.ndarray, temperature: float, *, several: bool) -> np.ndarray:
    """Probabilities [..., N, C] at this temperature; `several`: of findings, each by itself."""
    scaled = _logits(probabilities, several) / temperature
    return special.expit(scaled) if several else special.softmax(scaled, axis=-1)


def calibration(
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    test_labels: np.ndarray,
    test_probabilities: np.ndarray,
    *,
    classes: int,
    over: Over = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> Calibration:
    """Fits a temperature over validation groups, crosswise, and tells what it does there and on the test.

    Args:
        labels, probabilities, groups: of validation, as for `intervals.group_bootstrap`, of one model.
        test_labels, test_probabilities: of the test.
        classes: C, or L.
        over: findings that the scores are means over.
        folds: parts of the validation groups, fewer where there are fewer groups.
        seed: of the division into folds.

    Raises:
        metrics.Undefined: no rows, or probabilities that aren't finite.
        ValueError: shapes or labels don't fit, or fewer than two validation groups.
    """
    labels, probabilities = checked(labels, probabilities, classes)
    test_labels, test_probabilities = checked(test_labels, test_probabilities, classes)
    several, after, by_fold = labels.ndim == 2, np.empty(probabilities.shape), []
    for others, fold in _crosswise(groups, len(labels), folds, seed):
        by_fold.append(temperature(labels[others], probabilities[others]))
        after[fold] = tempered(probabilities[fold], by_fold[-1], several=several)
    middle = math.exp(float(np.mean(np.log(by_fold))))
    test_after = tempered(test_probabilities, middle, several=several)
    return Calibration(
        temperature=middle,
        by_fold=tuple(by_fold),
        validation_before=quality(labels, probabilities, classes, over=over),
        validation_after=quality(labels, after, classes, over=over),
        test_before=quality(test_labels, test_probabilities, classes, over=over),
        test_after=quality(test_labels, test_after, classes, over=over),
    )


def quality(labels: np.ndarray, probabilities: np.ndarray, classes: int, *, over: Over = None) -> Quality:
    """`log_loss`, `brier` and `ece` as `metrics.summary` defines them; `over` only with findings."""

    def score(name: str) -> float | None:
        try:
            return compute(name, labels, probabilities, classes, over=over if labels.ndim == 2 else None)
        except Undefined:
            return None

    return Quality(**{name: score(name) for name in (*PROPER, "ece")})


def operating_point(
    labels: np.ndarray,
    probabilities: np.ndarray,
    test_labels: np.ndarray,
    test_probabilities: np.ndarray,
    test_groups: np.ndarray,
    *,
    of_class: int,
    wanted: float,
    target: Target = "specificity",
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> OperatingPoint:
    """Fixes the threshold of one class, or finding, on validation and applies it to the test.

    Of the thresholds that reach the target on validation, the one that is best on the other side is taken.

    Args:
        labels, probabilities: of validation, [N] and [N, C], or [N, L] both.
        test_labels, test_probabilities, test_groups: of the test; groups [N].
        of_class: its number; the others are the rest.
        wanted: the least specificity (or sensitivity), in (0, 1].

    Raises:
        metrics.Undefined: validation or test has no rows of the class, or only such.
    """
    classes = probabilities.shape[-1]
    positive, scores = against_rest(*checked(labels, probabilities, classes), of_class)
    _need_both("validation", positive)
    threshold, sensitivity, specificity = _threshold(positive, scores, target, wanted)
    found = at_threshold(
        test_labels, test_probabilities, test_groups, of_class=of_class, threshold=threshold, resamples=resamples,
        level=level, seed=seed,
    )  # fmt: skip
    return OperatingPoint(target, wanted, threshold, sensitivity, specificity, *found)


def at_threshold(
    test_labels: np.ndarray,
    test_probabilities: np.ndarray,
    test_groups: np.ndarray,
    *,
    of_class: int,
    threshold: float,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, Interval]:
    """Sensitivity and specificity of one class, or finding, at a threshold that was fixed elsewhere.

    Args and raises: as for `operating_point`.
    """
    test_labels, test_probabilities = checked(test_labels, test_probabilities, test_probabilities.shape[-1])
    truth, test_scores = against_rest(test_labels, test_probabilities, of_class)
    scored = slice(None) if test_labels.ndim == 1 else ~np.isnan(test_labels[:, of_class])
    _need_both("test", truth)
    called = test_scores >= threshold

    def share(rows: np.ndarray, right: np.ndarray) -> Interval:
        """Of these rows those that are called rightly."""
        groups = np.asarray(test_groups)[scored][rows]
        return share_interval(right[rows], groups, resamples=resamples, level=level, seed=seed)

    return share(truth, called), share(~truth, ~called)


def _threshold(positive: np.ndarray, scores: np.ndarray, target: Target, wanted: float) -> tuple[float, float, float]:
    """The threshold, and the sensitivity and specificity that it has here."""
    false_positive, sensitivity, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    specificity = 1 - false_positive
    reached, other = (specificity, sensitivity) if target == "specificity" else (sensitivity, specificity)
    enough = np.flatnonzero(reached >= wanted - 1e-12)  # 1 - false_positive is off by rounding
    best = enough[np.lexsort((thresholds[enough], other[enough]))[-1]]  # of equals the highest threshold
    return float(thresholds[best]), float(sensitivity[best]), float(specificity[best])


def _need_both(part: str, positive: np.ndarray) -> None:
    if not 0 < positive.sum() < len(positive):
        raise Undefined(f"{int(positive.sum())} of {len(positive)} rows of {part} are positive")


def _crosswise(groups: np.ndarray, rows: int, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows outside of each fold and in it; a group lies in one."""
    if np.shape(groups) != (rows,):
        raise ValueError(f"groups are {list(np.shape(groups))}, expected [{rows}]")
    count = len(np.unique(groups))
    if count < 2:
        raise ValueError("all validation rows are of one group, so that nothing can be fitted on others")
    return GroupKFold(min(folds, count), shuffle=True, random_state=seed).split(np.zeros(rows), groups=groups)


def _logits(probabilities: np.ndarray, several: bool) -> np.ndarray:
    most = 1 - np.finfo(probabilities.dtype).epsneg if several else 1.0  # neither 0 nor 1 has a logit
    inside = probabilities.astype(float).clip(np.finfo(np.float32).tiny, most)
    return special.logit(inside) if several else np.log(inside)
