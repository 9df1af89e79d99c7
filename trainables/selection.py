"""What the best of many trials is worth: its value less what it owes to having been selected on the same rows.

Bootstrap bias-corrected selection (BBC-CV; Tsamardinos, Greasidou and Borboudakis 2018): groups are resampled, the
best trial is selected anew on the groups in the bag and scored on those left out, which had no part in the selection.
Nothing is trained. Shapes: T trials, N rows, G groups, C classes, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from spaces.config import METRICS
from trainables.grouped import GroupedMetric, grouped_metric
from trainables.metrics import Over, Undefined, check_fits, checked
from trainables.resampling import (
    FEW_GROUPS,
    MOST_UNDEFINED,
    NUMBERS_AT_ONCE,
    STRATIFIED,
    numbered,
    occurring,
    strata,
    weights,
)


@dataclass(frozen=True)
class Corrected:
    """The best trial's value, as found and corrected. Plain data, fit for a record."""

    best: int
    """Which trial has the best value."""
    found: float
    """Its value on all rows, which is too good: the luckiest of the trials was taken."""
    value: float | None
    """What a search like this one gives on rows that it didn't select on; None where it can't be had, and the last of
    `warnings` says why."""
    low: float | None
    """Interval from the quantiles of what was left out; wide, since that is about a third of the groups."""
    high: float | None
    level: float
    trials: int
    groups: int
    resamples: int
    warnings: tuple[str, ...] = ()


def corrected_best(
    metric: str,
    labels: np.ndarray,
    trials: np.ndarray | Sequence[np.ndarray],
    groups: np.ndarray,
    *,
    classes: int,
    over: Over = None,
    folds: np.ndarray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Corrected:
    """BBC-CV over the validation predictions of all complete trials.

    Args:
        metric: a name from `spaces.config.METRICS`.
        labels: [N], or of findings [N, L] with 0, 1 and NaN.
        trials: probabilities of each trial, [N, C]; or [E, N, C] where its value is the mean over E epochs. All on the
            same rows; trials stopped early don't take part.
        groups: whom each row belongs to, [N].
        classes: C.
        over: as for `metrics.compute`.
        folds: [N] number of the fold whose model predicted the row, where a trial's value is the mean over folds.
        resamples: of groups.
        level: confidence, in (0, 1).
        seed: of the resampling.

    Raises:
        metrics.Undefined: no trial's metric has a value on all rows.
        ValueError: shapes, labels or `over` don't fit.
    """
    by_trial = [of_trial[None] if of_trial.ndim == 2 else of_trial for of_trial in map(np.asarray, trials)]
    if not by_trial or any(of_trial.ndim != 3 or not len(of_trial) for of_trial in by_trial):
        raise ValueError(f"trials are {[list(t.shape) for t in by_trial]}, expected [N, C] or [E, N, C] of each")
    labels, probabilities = checked(labels, np.concatenate(by_trial), classes)
    check_fits(metric, labels)
    group_of_row, count = numbered(groups, len(labels))
    ends = np.cumsum([len(of_trial) for of_trial in by_trial])
    epochs = [slice(end - len(of_trial), end) for end, of_trial in zip(ends, by_trial, strict=True)]
    measure = _Folds(metric, labels, probabilities, epochs, group_of_row, classes, over, folds)
    found = measure.at(np.ones((count, 1), dtype=np.int64))[:, 0]
    best = _best(metric, found[:, None])[0]
    if best < 0:
        raise Undefined("no trial's metric is defined on all rows")
    chosen = list(range(classes)) if over is None else list(over)
    within = strata(occurring(labels, group_of_row, count, chosen)) if metric in STRATIFIED else [np.arange(count)]
    batches = weights(within, resamples, max(1, NUMBERS_AT_ONCE // len(labels)), np.random.default_rng(seed))
    left_out = np.concatenate([_scored_left_out(metric, measure, times) for times in batches])
    defined, notes = left_out[np.isfinite(left_out)], []
    value = low = high = None
    if count < FEW_GROUPS:
        notes.append(f"interval unreliable: {count} groups, at least {FEW_GROUPS} are needed")
    if resamples - len(defined) > MOST_UNDEFINED * resamples:
        notes.append(f"no correction: the metric is undefined in {resamples - len(defined)} of {resamples} resamples")
    else:
        value = float(defined.mean())
        low, high = (float(end) for end in np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]))
    return Corrected(
        int(best), float(found[best]), value, low, high, level, len(by_trial), count, resamples, tuple(notes)
    )


class _Folds:
    """The mean of a metric over a trial's epochs and over folds, of each trial or of one."""

    def __init__(
        self,
        metric: str,
        labels: np.ndarray,
        probabilities: np.ndarray,
        epochs: Sequence[slice],
        group_of_row: np.ndarray,
        classes: int,
        over: Over,
        folds: np.ndarray | None,
    ) -> None:
        """
        Args:
            probabilities: of all trials' epochs, one trial after the other.
            epochs: which of them are of which trial.
        """
        if folds is not None and np.shape(folds) != (len(labels),):
            raise ValueError(f"folds are {list(np.shape(folds))}, expected [{len(labels)}]")
        self.parts: list[tuple[np.ndarray, Callable[[slice], GroupedMetric]]] = []
        for rows in (
            [np.arange(len(labels))] if folds is None else [np.flatnonzero(folds == f) for f in np.unique(folds)]
        ):
            of_fold, number = np.unique(group_of_row[rows], return_inverse=True)
            make = partial(_of_some, metric, labels[rows], probabilities[:, rows], number, classes, over)
            self.parts.append((of_fold, make))
        self.every = [make(slice(None)) for _, make in self.parts]
        self.epochs = epochs
        self.starts, self.counts = [one.start for one in epochs], np.array([[one.stop - one.start] for one in epochs])

    def at(self, weights: np.ndarray) -> np.ndarray:
        """Values [T, B] of all trials for weights [G, B]."""
        pairs = zip(self.every, self.parts, strict=True)
        of_epochs = np.mean([measure.at(weights[of_fold]) for measure, (of_fold, _) in pairs], axis=0)
        return np.add.reduceat(of_epochs, self.starts, axis=0) / self.counts

    def of_one(self, trial: int, weights: np.ndarray) -> np.ndarray:
        """Values [B] of one trial."""
        of_folds = [make(self.epochs[trial]).at(weights[of_fold]).mean(axis=0) for of_fold, make in self.parts]
        return np.mean(of_folds, axis=0)


def _of_some(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    group_of_row: np.ndarray,
    classes: int,
    over: Over,
    trials: slice,
) -> GroupedMetric:
    return grouped_metric(metric, labels, probabilities[trials], group_of_row, classes, over=over)


def _scored_left_out(metric: str, measure: _Folds, times: np.ndarray) -> np.ndarray:
    """What the best trial in each bag [G, B] gives on the groups that aren't in it, [B]; NaN where undefined."""
    best = _best(metric, measure.at(times))
    found = np.full(len(best), np.nan)
    for trial in np.unique(best[best >= 0]):
        won = best == trial
        found[won] = measure.of_one(int(trial), (times[:, won] == 0).astype(np.int64))
    return found


def _best(metric: str, values: np.ndarray) -> np.ndarray:
    """The best of the trials' values [T, B], int [B]: the first of equals, -1 where none is defined."""
    sign = 1 if METRICS[metric] == "maximize" else -1
    best = np.where(np.isnan(values), -np.inf, sign * values).argmax(axis=0)
    return np.where(np.isnan(values).all(axis=0), -1, best)
