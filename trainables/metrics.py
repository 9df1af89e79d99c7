"""Metrics of predicted class probabilities. scikit-learn computes; here stands what each one means and when it isn't
defined. A metric that isn't defined says so (`Undefined`) and is never replaced by a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    roc_auc_score,
)

from spaces.config import METRICS
from spaces.mistakes import nearest
from trainables.data.manifest import Task

RANGES = {
    "accuracy": (0.0, 1.0),
    "balanced_accuracy": (0.0, 1.0),
    "macro_auroc": (0.0, 1.0),
    "quadratic_weighted_kappa": (-1.0, 1.0),
    "macro_f1": (0.0, 1.0),
}
"""Lowest and highest value of each metric."""


class Undefined(Exception):
    """A metric has no value on these rows; the message is the reason."""


def predicted(probabilities: np.ndarray) -> np.ndarray:
    """Predicted class int64 [..., N] of probabilities [..., N, C]: the likeliest, the first of equals."""
    return probabilities.argmax(axis=-1)


def compute(metric: str, labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    """The value of a metric.

    - `accuracy`: share of rows predicted rightly.
    - `balanced_accuracy`: mean recall over all classes. Undefined where a class has no rows.
    - `macro_auroc`: mean over classes of the area under the ROC curve of that class against the rest; with two classes
      the area of class 1. Undefined where a class has no rows, or all.
    - `quadratic_weighted_kappa`: Cohen 1968, over all `classes` grades whether they occur or not. Undefined where all
      rows have the same grade, or get the same prediction (the formula would say 0 whatever the rows are).
    - `macro_f1`: mean F1 over all classes. Undefined where a class has no rows.

    Args:
        metric: a name from `spaces.config.METRICS`.
        labels: class indices, integers [N] in 0..classes-1.
        probabilities: [N, classes].
        classes: number of classes, at least 2, whether they occur or not.

    Raises:
        Undefined: with the reason.
        ValueError: an unknown metric, or shapes and labels that don't fit.
    """
    if metric not in _COMPUTE:
        raise ValueError(f'unknown metric "{metric}".{nearest(metric, _COMPUTE)}')
    labels, probabilities = checked(labels, probabilities, classes)
    return float(_COMPUTE[metric](labels, probabilities, classes))


def summary(labels: np.ndarray, probabilities: np.ndarray, classes: int, task: Task) -> dict[str, float | None]:
    """Every metric that makes sense for the task, and `log_loss`, a proper score (mean negative log-likelihood in nats,
    0 is best). None where one isn't defined; `undefined_reasons` says why. Arguments as for `compute`."""
    return {
        name: value if isinstance(value, float) else None for name, value in _all(labels, probabilities, classes, task)
    }


def undefined_reasons(labels: np.ndarray, probabilities: np.ndarray, classes: int, task: Task) -> dict[str, str]:
    """Why the metrics that `summary` gives as None aren't defined, by name."""
    return {
        name: str(value) for name, value in _all(labels, probabilities, classes, task) if isinstance(value, Undefined)
    }


def checked(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and probabilities [..., N, classes] as they came, once they fit each other.

    Raises:
        ValueError: shapes or labels don't fit.
        Undefined: no rows, or probabilities that aren't finite.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if classes < 2:
        raise ValueError(f"classes is {classes}, expected at least 2")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}, expected integers [N]")
    if probabilities.shape[-2:] != (len(labels), classes):
        raise ValueError(f"probabilities are {list(probabilities.shape)}, expected [..., {len(labels)}, {classes}]")
    if not len(labels):
        raise Undefined("there are no rows")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    if broken := int((~np.isfinite(probabilities)).any(axis=-1).sum()):
        raise Undefined(f"the probabilities of {broken} rows aren't finite")
    return labels, probabilities


def _all(
    labels: np.ndarray, probabilities: np.ndarray, classes: int, task: Task
) -> list[tuple[str, float | Undefined]]:
    names = [name for name in METRICS if name != "quadratic_weighted_kappa" or task == "ordinal"]
    found: list[tuple[str, float | Undefined]] = []
    for name in [*names, "log_loss"]:
        try:
            found.append((name, compute(name, labels, probabilities, classes)))
        except Undefined as undefined:
            found.append((name, undefined))
    return found


def _accuracy(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    return accuracy_score(labels, predicted(probabilities))


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    _need_every_class(labels, classes)
    return balanced_accuracy_score(labels, predicted(probabilities))


def _macro_auroc(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    _need_every_class(labels, classes)
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in auroc_classes(classes)]))


def auroc_classes(classes: int) -> range:
    """Classes whose AUROC is averaged: with two, class 1 alone, since rounding in a saturated softmax gives class 0
    ties that class 1 hasn't."""
    return range(1, 2) if classes == 2 else range(classes)


def _quadratic_weighted_kappa(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    grades = predicted(probabilities)
    if (grades == grades[0]).all():
        raise Undefined(f"every row is predicted as class {grades[0]}")
    if (labels == labels[0]).all():
        raise Undefined(f"every row is of class {labels[0]}")
    return cohen_kappa_score(labels, grades, labels=np.arange(classes), weights="quadratic")


def _macro_f1(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    _need_every_class(labels, classes)
    return f1_score(labels, predicted(probabilities), labels=np.arange(classes), average="macro", zero_division=np.nan)


def _log_loss(labels: np.ndarray, probabilities: np.ndarray, classes: int) -> float:
    return log_loss(labels, probabilities, labels=np.arange(classes))


def _need_every_class(labels: np.ndarray, classes: int) -> None:
    missing = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(missing):
        which = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise Undefined(f"{len(missing)} of {classes} classes have no rows (class {which}, counted from 0)")


_COMPUTE: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_auroc": _macro_auroc,
    "quadratic_weighted_kappa": _quadratic_weighted_kappa,
    "macro_f1": _macro_f1,
    "log_loss": _log_loss,
}
