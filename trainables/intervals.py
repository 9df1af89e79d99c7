"""How sure a metric is: standard errors and intervals over groups (patients, lesions) and over seeds.

Rows of one group aren't independent, so groups are resampled, never rows. Shapes: S seeds, N rows, G groups, C classes.
Rows are what is scored: units (images, breasts, studies) with their combined probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trainables.grouped import grouped_metric
from trainables.metrics import Over, Undefined, check_fits, checked
from trainables.ranges import within_range
from trainables.resampling import Classes, NoInterval, Resampling, numbered


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval. Plain data, fit for a record."""

    value: float
    """The metric on all rows; over several seeds the mean of theirs."""
    low: float | None
    """None where there is no interval to be trusted; the last of `warnings` then says why."""
    high: float | None
    level: float
    method: str
    resamples: int
    groups: int
    seeds: int
    warnings: tuple[str, ...] = ()
    sd_groups: float | None = None
    """Standard error of `value` from the choice of groups; of an interval over seeds the part that all seeds share."""
    sd_seeds: float | None = None
    """Standard deviation of one seed's metric; None where seeds weren't repeated or the interval isn't over them."""
    dof: float | None = None
    """Degrees of freedom of the t quantile; None for a bootstrap interval."""


def group_bootstrap(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    *,
    classes: Classes,
    over: Over = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """BCa interval of the metric of these very models: what other groups would have given.

    Of several seeds, the mean of their metrics. Balanced accuracy and AUROC are resampled within strata of the group's
    rarest label, the others over all groups; the acceleration comes from a jackknife over groups, and the quantile is
    widened for few groups (`Resampling.bca`).

    Args:
        metric: a name from `spaces.config.METRICS`.
        labels: class indices, integers [N], or findings, floats [N, L] with 0, 1 and NaN.
        probabilities: [N, C], or [S, N, C].
        groups: whom each row belongs to, [N], any type that sorts.
        classes: C, or L; or their names, which warnings then use.
        over: the classes that a ranked metric averages over, a choice made before the rows are looked at.
        resamples: of groups; at least 10,000 for a report.
        level: confidence, in (0, 1).
        seed: of the resampling.

    Raises:
        metrics.Undefined: the metric has no value on all rows.
        ValueError: shapes, labels or `over` don't fit.
    """
    sample = Resampling(metric, labels, probabilities, groups, classes, over)
    notes = sample.warnings()
    low = high = sd = None
    try:
        low, high, sd = sample.bca(level, resamples, seed, notes)
    except NoInterval as reason:
        notes.append(f"no interval: {reason}")
    return Interval(
        float(sample.values.mean()), low, high, level, f"BCa bootstrap over groups{sample.within}",
        resamples, sample.groups, len(sample.values), tuple(notes), sd_groups=sd,
    )  # fmt: skip


def share_interval(
    right: np.ndarray, groups: np.ndarray, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """`group_bootstrap` of the share of rows that are right (sensitivity, specificity, recall of a class): an accuracy
    whose only class is 1.

    Args:
        right: bool [N].
        groups: [N].
        Others: as for `group_bootstrap`.
    """
    ones, decided = np.ones(len(right), dtype=np.int64), np.eye(2)[right.astype(int)]
    return group_bootstrap("accuracy", ones, decided, groups, classes=2, resamples=resamples, level=level, seed=seed)


def seed_interval(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    *,
    classes: Classes,
    over: Over = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the expected metric of a recipe over seeds, given its training set.

    Var = Var over groups of the seeds' mean metric, by the group bootstrap, + s_seed^2 / S; a t quantile with
    Satterthwaite's (1946) degrees of freedom, symmetric in the metric's log odds (`within_range`). Seeds differ on a
    finite test set even where their expected metrics don't, and the bootstrap of their mean holds that already; so that
    it counts once, the sum is taken as Obuchowski and Rockette (1995) do for several readers of the same cases: the
    covariance of different seeds over groups + s^2 / S, with s^2 the variance between the seeds' metrics (degrees of
    freedom: Hillis 2007). Of few seeds that sum can come out too small, even 0: it is at least the variance over groups
    of the mean of these very seeds. With one seed only the first part can be known, and a warning says so.

    Args and raises: as for `group_bootstrap`, with probabilities [S, N, C].
    """
    sample = Resampling(metric, labels, probabilities, groups, classes, over)
    notes, seeds, value = sample.warnings(), len(sample.values), float(sample.values.mean())
    low = high = sd = sd_seeds = dof = None
    if seeds > 1:
        sd_seeds = float(np.std(sample.values, ddof=1))
    else:
        notes.append("seeds weren't repeated: the interval leaves out how much the metric varies between seeds")
    try:
        of_groups = np.cov(sample.draw(resamples, seed, notes)).reshape(seeds, seeds)
        factor, dof_groups = sample.of_strata(sample.without_each().mean(axis=0))
        sd = math.sqrt(factor * shared(of_groups))
        parts = [(sd**2, dof_groups)]
        if sd_seeds is not None:
            parts.append((sd_seeds**2 / seeds, seeds - 1))
        of_these = factor * float(of_groups.mean())  # variance over groups of the mean of these seeds
        if of_these > sum(variance for variance, _ in parts):
            parts = [(of_these, dof_groups)]
        error, dof = combined(parts)
        low, high = within_range(metric, value, float(stats.t.ppf((1 + level) / 2, dof)) * error)
    except NoInterval as reason:
        notes.append(f"no interval: {reason}")
    method = "t (Satterthwaite) over seeds and groups" if seeds > 1 else "t over groups"
    return Interval(
        value, low, high, level, f"{method}, bootstrap over groups{sample.within}",
        resamples, sample.groups, seeds, tuple(notes), sd_groups=sd, sd_seeds=sd_seeds, dof=dof,
    )  # fmt: skip


def standard_error(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    classes: int,
    *,
    over: Over = None,
) -> float | None:
    """Jackknife standard error of a metric over groups (Efron 1982), in the metric's unit.

    Takes milliseconds, for use after every epoch. Arguments as for `group_bootstrap`. None where it can't be known: a
    single group, an undefined metric, or one that leaving out a group makes undefined.
    """
    moved = influence(metric, labels, probabilities, groups, classes, over=over)
    return None if moved is None else error_of(moved)


def influence(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    classes: int,
    *,
    over: Over = None,
) -> np.ndarray | None:
    """How far each group moves a metric [G], in the order of their names: the jackknife's G - 1 times the difference
    that leaving it out makes, whose mean is 0.

    The influence on a difference of two metrics is the difference of theirs, so that its standard error (`error_of`)
    is paired over groups. Arguments, and None, as for `standard_error`.
    """
    try:
        labels, probabilities = checked(labels, probabilities, classes)
    except Undefined:
        return None
    check_fits(metric, labels)
    group_of_row, count = numbered(groups, len(labels))
    stacked = probabilities.reshape(-1, *probabilities.shape[-2:])
    left_out = grouped_metric(metric, labels, stacked, group_of_row, classes, over=over).without_each().mean(axis=0)
    if count < 2 or not np.isfinite(left_out).all():
        return None
    return (count - 1) * (left_out.mean() - left_out)


def error_of(influence: np.ndarray) -> float:
    """Jackknife standard error from what each group does [G]."""
    groups = len(influence)
    return math.sqrt(float(np.square(influence).sum()) / (groups * (groups - 1)))


def shared(covariance: np.ndarray) -> float:
    """Variance that S seeds have in common: the mean of their covariances over groups [S, S], or 0 where that is
    negative; of one seed its variance."""
    seeds = len(covariance)
    if seeds == 1:
        return float(covariance[0, 0])
    return max(0.0, float(covariance.sum() - covariance.trace()) / (seeds * (seeds - 1)))


def combined(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """Standard error of a sum and its degrees of freedom (Satterthwaite 1946), from each part's variance and theirs.

    Raises:
        NoInterval: none of them varies.
    """
    if not (variance := sum(part for part, _ in parts)):
        raise NoInterval("neither groups nor seeds make a difference, so that how much it varies can't be told")
    return math.sqrt(variance), variance**2 / sum(part**2 / dof for part, dof in parts)
