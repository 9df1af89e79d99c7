"""Metrics of predicted probabilities. scikit-learn computes; here stands what each one means and when it isn't defined.
A metric that isn't defined says so (`Undefined`) and is never replaced by a number.

Labels are class indices, integers [N], or findings of which a row may have several (multi-label), floats [N, L] with
0, 1, and NaN where a row isn't scored. Probabilities are [N, C]: they sum to one over classes, and are each finding's
own in multi-label. C and L are one argument, `classes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    log_loss,
    roc_curve,
)

from spaces.mistakes import nearest
from trainables.data.manifest import Task
from trainables.metric_names import PROPER, RANKED, metrics_for
from trainables.ranges import RANGES
from trainables.ranking import area_under_roc, average_precision

ECE_BINS = 15

Over = Sequence[int] | None
"""Numbers of the classes that are averaged over; None is all."""


class Undefined(Exception):
    """A metric has no value on these rows; the message is the reason."""


@dataclass(frozen=True)
class ClassScores:
    """One class against the rest, or one finding. None where it isn't defined."""

    positive: int
    """Rows that have it."""
    negative: int
    """Rows that don't."""
    auroc: float | None
    average_precision: float | None
    recall: float | None
    """Share of the positive rows predicted as this class; None in multi-label, which has no prediction yet."""


def predicted(probabilities: np.ndarray) -> np.ndarray:
    """Predicted class int64 [..., N] of probabilities [..., N, C]: the likeliest, the first of equals."""
    return probabilities.argmax(axis=-1)


def compute(metric: str, labels: np.ndarray, probabilities: np.ndarray, classes: int, *, over: Over = None) -> float:
    """The value of a metric.

    - `accuracy`: share of rows predicted rightly.
    - `balanced_accuracy`: mean recall over all classes. Undefined where a class has no rows.
    - `macro_auroc`: mean over classes (findings) of the area under the ROC curve of that class against the rest; with
      two classes the area of class 1. Undefined where one lacks positives or negatives.
    - `macro_average_precision`: the same with the average precision: precision at each threshold, weighted by the
      recall it adds, without interpolation.
    - `quadratic_weighted_kappa`: Cohen 1968, over all `classes` grades whether they occur or not. Undefined where all
      rows have the same grade, or get the same prediction (the formula would say 0 whatever the rows are).
    - `macro_f1`: mean F1 over all classes. Undefined where a class has no rows.

    Findings (multi-label) have the two ranked ones alone (`metrics_for`).

    Args:
        metric: a name from `spaces.config.METRICS`, or `log_loss`, `brier`, `ece` (see `summary`).
        labels: [N] or [N, L].
        probabilities: [N, classes].
        classes: number of classes, at least 2, or findings, whether they occur or not.
        over: the classes that a ranked metric averages over, a choice made before the rows are looked at.

    Raises:
        Undefined: with the reason.
        ValueError: an unknown metric, one that the labels or `over` don't fit, or shapes and labels that don't fit.
    """
    if metric not in _COMPUTE:
        raise ValueError(f'unknown metric "{metric}".{nearest(metric, _COMPUTE)}')
    labels, probabilities = checked(labels, probabilities, classes)
    check_fits(metric, labels)
    return float(_COMPUTE[metric](labels, probabilities, averaged(metric, labels, classes, over)))


def summary(
    labels: np.ndarray, probabilities: np.ndarray, classes: int, task: Task, *, over: Over = None
) -> dict[str, float | None]:
    """Every metric that makes sense for the task, and how good the probabilities are. None where one isn't defined;
    `undefined_reasons` says why. Arguments as for `compute`.

    - `log_loss`: mean negative log-likelihood in nats, of multi-label the mean over findings.
    - `brier`: mean squared distance from the truth (Brier 1950), 0 to 2; of two classes and of findings that of the
      one probability, 0 to 1, the mean over findings.
    - `ece`: expected calibration error (Guo et al. 2017) of the predicted class' probability, 15 bins of equal mass;
      of multi-label that of each finding's probability, the mean over findings. Above 0 for few rows even where the
      probabilities are right.
    """
    found = _all(labels, probabilities, classes, task, over)
    return {name: value if isinstance(value, float) else None for name, value in found}


def undefined_reasons(
    labels: np.ndarray, probabilities: np.ndarray, classes: int, task: Task, *, over: Over = None
) -> dict[str, str]:
    """Why the metrics that `summary` gives as None aren't defined, by name."""
    found = _all(labels, probabilities, classes, task, over)
    return {name: str(value) for name, value in found if isinstance(value, Undefined)}


def by_class(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> list[ClassScores]:
    """Each class, or finding, by itself. Arguments and raises as for `compute`."""
    labels, probabilities = checked(labels, probabilities, classes)
    right = predicted(probabilities)
    found = []
    for c in range(classes):
        positive, scores = against_rest(labels, probabilities, c)
        count, both = int(positive.sum()), 0 < positive.sum() < len(positive)
        recall = float((right[positive] == c).mean()) if labels.ndim == 1 and count else None
        found.append(
            ClassScores(
                positive=count,
                negative=len(positive) - count,
                auroc=area_under_roc(positive, scores) if both else None,
                average_precision=average_precision(positive, scores) if both else None,
                recall=recall,
            )
        )
    return found


def sensitivity_at_specificity(positive: np.ndarray, scores: np.ndarray, specificity: float) -> float:
    """The highest sensitivity of any threshold whose specificity is at least this.

    The threshold is chosen on these very rows; `calibration.operating_point` chooses it on others.

    Args:
        positive: bool [N].
        scores: [N], higher is likelier positive.
        specificity: in [0, 1].

    Raises:
        Undefined: no positive or no negative rows.
    """
    if not 0 < positive.sum() < len(positive):
        raise Undefined(f"{int(positive.sum())} of {len(positive)} rows are positive")
    false_positive, true_positive, _ = roc_curve(positive, scores, drop_intermediate=False)
    return float(true_positive[1 - false_positive >= specificity - 1e-12].max())  # 1 - fpr is off by rounding


def checked(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] or [N, L] and probabilities [..., N, classes] as they came, once they fit each other.

    Raises:
        ValueError: shapes or labels don't fit.
        Undefined: no rows, or probabilities that aren't finite.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    several = labels.ndim == 2 and np.issubdtype(labels.dtype, np.floating)
    if classes < (1 if several else 2):
        raise ValueError(f"classes is {classes}, expected at least {1 if several else 2}")
    if not several and (labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}, expected integers [N] or floats [N, L]")
    if several and labels.shape[1] != classes:
        raise ValueError(f"labels are {list(labels.shape)}, expected [N, {classes}]")
    if probabilities.shape[-2:] != (len(labels), classes):
        raise ValueError(f"probabilities are {list(probabilities.shape)}, expected [..., {len(labels)}, {classes}]")
    if not len(labels):
        raise Undefined("there are no rows")
    if several:
        if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
            raise ValueError("labels of findings should be 0, 1 or NaN")
    elif labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    if broken := int((~np.isfinite(probabilities)).any(axis=-1).sum()):
        raise Undefined(f"the probabilities of {broken} rows aren't finite")
    return labels, probabilities


def check_fits(metric: str, labels: np.ndarray) -> None:
    """Raises ValueError where a metric makes no sense for such labels."""
    if labels.ndim == 2 and metric in RANGES and metric not in RANKED:
        raise ValueError(f"{metric} makes no sense in multi-label; expected one of {', '.join(sorted(RANKED))}")


def averaged(metric: str, labels: np.ndarray, classes: int, over: Over) -> list[int]:
    """Numbers of the classes that a metric is averaged over.

    Of two classes a ranked metric is that of class 1 alone, since rounding in a saturated softmax gives class 0 ties
    that class 1 hasn't.

    Raises:
        ValueError: `over` given for a metric that is of all classes, or not some of the classes, each once.
    """
    if over is None:
        return [1] if labels.ndim == 1 and classes == 2 and metric in RANKED else list(range(classes))
    if labels.ndim == 1 and metric not in RANKED:
        raise ValueError(f"{metric} is over all classes")
    chosen = list(over)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(classes)):
        raise ValueError(f"over is {chosen}, expected some of 0 to {classes - 1}, each once")
    return chosen


def classes_numbered(averaged: Sequence[str] | None, names: Sequence[str]) -> Over:
    """Numbers, among all `names`, of the classes that are averaged over; None where that is all of them."""
    return None if averaged is None else [list(names).index(name) for name in averaged]


def against_rest(labels: np.ndarray, probabilities: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether a row is of class c, bool [n], and its score for it [..., n], of the n rows that are scored for it."""
    if labels.ndim == 1:
        return labels == c, probabilities[..., c]
    known = ~np.isnan(labels[:, c])
    return labels[known, c] == 1, probabilities[..., known, c]


def _all(
    labels: np.ndarray, probabilities: np.ndarray, classes: int, task: Task, over: Over
) -> list[tuple[str, float | Undefined]]:
    found: list[tuple[str, float | Undefined]] = []
    for name in [*metrics_for(task), *PROPER, "ece"]:
        chosen = over if task == "multilabel" or name in RANKED else None
        try:
            found.append((name, compute(name, labels, probabilities, classes, over=chosen)))
        except Undefined as undefined:
            found.append((name, undefined))
    return found


def _accuracy(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    return accuracy_score(labels, predicted(probabilities))


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    _need_every_class(labels, over)
    return balanced_accuracy_score(labels, predicted(probabilities))


def _macro_f1(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    _need_every_class(labels, over)
    return f1_score(labels, predicted(probabilities), labels=over, average="macro", zero_division=np.nan)


def _macro_auroc(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    return float(np.mean([area_under_roc(*pair) for pair in _ranked(labels, probabilities, over)]))


def _macro_average_precision(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    return float(np.mean([average_precision(*pair) for pair in _ranked(labels, probabilities, over)]))


def _quadratic_weighted_kappa(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    grades = predicted(probabilities)
    if (grades == grades[0]).all():
        raise Undefined(f"every row is predicted as class {grades[0]}")
    if (labels == labels[0]).all():
        raise Undefined(f"every row is of class {labels[0]}")
    return cohen_kappa_score(labels, grades, labels=over, weights="quadratic")


def _log_loss(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    if labels.ndim == 1:
        return log_loss(labels, summing_to_one(probabilities), labels=over)
    return float(np.mean([log_loss(*pair, labels=[False, True]) for pair in _scored(labels, probabilities, over)]))


def _brier(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    if labels.ndim == 1:
        return brier_score_loss(labels, summing_to_one(probabilities), labels=over)
    pairs = _scored(labels, probabilities, over)
    return float(np.mean([np.square(positive - scores.astype(float)).mean() for positive, scores in pairs]))


def _ece(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> float:
    if labels.ndim == 1:
        return _calibration_error(predicted(probabilities) == labels, probabilities.max(axis=1))
    return float(np.mean([_calibration_error(*pair) for pair in _scored(labels, probabilities, over)]))


def _calibration_error(true: np.ndarray, confidence: np.ndarray) -> float:
    """Mean distance, over rows, between a bin's mean confidence [n] and its share of what is true, bool [n]."""
    bins = binned(true, confidence)
    return float((bins.rows * np.abs(bins.confidence - bins.share)).sum() / bins.rows.sum())


class Reliability(NamedTuple):
    """What probabilities come to, by bins of about equally many rows. Each [B], the least sure bin first."""

    confidence: np.ndarray
    """Mean of the probabilities given."""
    share: np.ndarray
    """Of rows in which what they were given to is so."""
    rows: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """Of the predicted class of each row, in the bins of `ece`; of findings, all scored ones of all rows together.

    Args:
        labels: [N] int64, or [N, L] float32 with NaN where a finding isn't scored.
        probabilities: [N, C or L].
    """
    if labels.ndim == 1:
        return binned(predicted(probabilities) == labels, probabilities.max(axis=1))
    scored = ~np.isnan(labels)
    return binned(labels[scored] == 1, probabilities[scored])


def binned(true: np.ndarray, confidence: np.ndarray) -> Reliability:
    """Bins of equal mass of `confidence` [N] without the empty ones; `true`: [N] bool. Rows of equal confidence share a
    bin, so that their order doesn't matter."""
    confidence = confidence.astype(float)
    edges = np.quantile(confidence, np.arange(1, ECE_BINS) / ECE_BINS)
    number = np.searchsorted(edges, confidence, side="right")
    rows = np.bincount(number, minlength=ECE_BINS)
    filled = rows > 0
    mean, share = (np.bincount(number, of, minlength=ECE_BINS)[filled] / rows[filled] for of in (confidence, true))
    return Reliability(mean, share, rows[filled])


def _ranked(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    pairs = [against_rest(labels, probabilities, c) for c in over]
    lacking = [c for c, (positive, _) in zip(over, pairs, strict=True) if not 0 < positive.sum() < len(positive)]
    if lacking and labels.ndim == 1:
        _need_every_class(labels, over)
    if lacking:
        what = "findings lack positives or negatives (finding" if labels.ndim == 2 else "classes have all rows (class"
        raise Undefined(f"{len(lacking)} of {len(over)} {what} {_named(lacking)}, counted from 0)")
    yield from pairs


def _scored(labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    lacking = [c for c in over if np.isnan(labels[:, c]).all()]
    if lacking:
        raise Undefined(
            f"{len(lacking)} of {len(over)} findings are scored in no row (finding {_named(lacking)}, counted from 0)"
        )
    yield from (against_rest(labels, probabilities, c) for c in over)


def _need_every_class(labels: np.ndarray, over: list[int]) -> None:
    missing = [c for c in over if not (labels == c).any()]
    if missing:
        raise Undefined(f"{len(missing)} of {len(over)} classes have no rows (class {_named(missing)}, counted from 0)")


def _named(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def summing_to_one(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities [N, C] that sum to one exactly, from such that do but for rounding.

    Raises:
        Undefined: they don't.
    """
    sums = probabilities.sum(axis=1, dtype=float)
    if np.abs(sums - 1).max() > 1e-3 or probabilities.min() < 0:
        raise Undefined("the rows' numbers aren't probabilities that sum to one")
    return probabilities / sums[:, None]  # of float32 they do to 1e-6, about which scikit-learn warns


_COMPUTE: dict[str, Callable[[np.ndarray, np.ndarray, list[int]], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_auroc": _macro_auroc,
    "macro_average_precision": _macro_average_precision,
    "quadratic_weighted_kappa": _quadratic_weighted_kappa,
    "macro_f1": _macro_f1,
    "log_loss": _log_loss,
    "brier": _brier,
    "ece": _ece,
}
