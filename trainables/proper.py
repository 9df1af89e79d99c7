"""Proper scores as sums over rows, so that they can be resampled over groups.

`trainables.metrics` says what each of them means. The calibration error isn't among them: of few rows it mostly lies
above its true value (always, where probabilities are right), so that a bootstrap's interval would often miss that.
Shapes: S seeds, N rows, C classes, L findings, T terms that a score is the mean of: the findings that are averaged
over, or one.
"""

from __future__ import annotations

import numpy as np

from trainables.metrics import summing_to_one

Sums = tuple[np.ndarray, np.ndarray]
"""What a row adds to the sums that a score is made of: those of each seed [S, F, N], and those of all seeds [T, N]."""


def row_losses(metric: str, labels: np.ndarray, probabilities: np.ndarray, over: list[int]) -> Sums:
    """Losses [S, T, N] of rows, and whether they count [T, N]; a row's loss is 0 where it doesn't.

    Args:
        metric: `log_loss` or `brier`.
        labels: [N], or findings [N, L] with 0, 1 and NaN.
        probabilities: [S, N, C], or [S, N, L].
        over: findings that are averaged over; of classes, all.

    Raises:
        metrics.Undefined: rows of classes whose numbers don't sum to one.
    """
    if labels.ndim == 1:
        own = np.stack([summing_to_one(of_seed) for of_seed in probabilities])
        if metric == "log_loss":
            losses = -np.log(_inside(own[:, np.arange(len(labels)), labels]))
        else:
            losses = np.square(own - np.eye(own.shape[2])[labels]).sum(axis=2) / (2 if own.shape[2] == 2 else 1)
        return losses[:, None], np.ones((1, len(labels)))
    truth = labels[:, over].T  # [T, N]
    known, present = ~np.isnan(truth), truth == 1
    of_present = np.moveaxis(probabilities[:, :, over], 1, 2)
    if metric == "log_loss":
        losses = -np.log(_inside(np.where(present, of_present, 1 - of_present)).astype(float))
    else:
        losses = np.square(present - of_present.astype(float))
    return losses * known, known.astype(float)


def mean_of_terms(losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A proper score [S, B] from sums of losses [S, T, B] and of rows [T, B]."""
    return (losses / rows).mean(axis=1)


def _inside(probabilities: np.ndarray) -> np.ndarray:
    """Clipped as scikit-learn's log_loss does: a probability of 0 has no logarithm."""
    smallest = np.finfo(probabilities.dtype).eps
    return probabilities.clip(smallest, 1 - smallest)
