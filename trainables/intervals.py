"""How sure a metric is: standard errors and intervals over groups (patients, lesions) and over seeds.

Rows of one group aren't independent, so groups are resampled, never rows. Shapes: S seeds, N rows, G groups, C classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from trainables.grouped import grouped_metric
from trainables.metrics import RANGES, Undefined, checked, compute

STRATIFIED = frozenset({"balanced_accuracy", "macro_auroc"})
"""Metrics that condition on the label: resampled within strata of the group's rarest label."""
FEW_GROUPS = 10
"""A class with fewer makes an interval unreliable."""
MOST_UNDEFINED = 0.01
"""Share of resamples that may be undefined before there is no interval."""
NUMBERS_AT_ONCE = 800_000  # rows times resamples at once: few megabytes, which fit the processor's caches


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
    """Standard error of `value` from the choice of groups."""
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
    classes: int,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """BCa interval (Efron 1987) of the metric of these very models: what other groups would have given.

    Of several seeds, the mean of their metrics. Balanced accuracy and AUROC are resampled within strata of the group's
    rarest label, the others over all groups; the acceleration comes from a jackknife over groups.

    Args:
        metric: a name from `spaces.config.METRICS`.
        labels: class indices, integers [N].
        probabilities: [N, C], or [S, N, C].
        groups: whom each row belongs to, [N], any type that sorts.
        classes: C.
        resamples: of groups; at least 10,000 for a report.
        level: confidence, in (0, 1).
        seed: of the resampling.

    Raises:
        metrics.Undefined: the metric has no value on all rows.
        ValueError: shapes or labels don't fit.
    """
    sample = _Sample(metric, labels, probabilities, groups, classes)
    notes = sample.warnings()
    low = high = sd = None
    try:
        drawn = sample.resampled(resamples, seed, notes)
        sd = float(drawn.standard_error)
        low, high = sample.bca(drawn, level)
    except _NoInterval as reason:
        notes.append(f"no interval: {reason}")
    return Interval(
        sample.value, low, high, level, f"BCa bootstrap over groups{sample.within}",
        resamples, sample.groups, sample.seeds, tuple(notes), sd_groups=sd,
    )  # fmt: skip


def seed_interval(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    *,
    classes: int,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the expected metric of a recipe over seeds, given its training set.

    Var = (variance over groups of the seeds' mean metric, by the group bootstrap) + s^2 / S, with s^2 the variance
    between the S seeds; a t quantile with Satterthwaite's (1946) degrees of freedom, cut at the metric's range. With
    one seed only the first part can be known, and a warning says so.

    Args and raises: as for `group_bootstrap`, with probabilities [S, N, C].
    """
    sample = _Sample(metric, labels, probabilities, groups, classes)
    notes = sample.warnings()
    low = high = sd = sd_seeds = dof = None
    if sample.seeds > 1:
        sd_seeds = float(np.std(sample.seed_values, ddof=1))
    else:
        notes.append("seeds weren't repeated: the interval leaves out how much the metric varies between seeds")
    try:
        drawn = sample.resampled(resamples, seed, notes)
        correction, dof_groups = sample.of_strata()
        sd = float(drawn.standard_error) * math.sqrt(correction)
        parts = [(sd**2, dof_groups)]
        if sd_seeds is not None:
            parts.append((sd_seeds**2 / sample.seeds, sample.seeds - 1))
        variance = sum(part for part, _ in parts)
        dof = variance**2 / sum(part**2 / d for part, d in parts)
        half = float(stats.t.ppf((1 + level) / 2, dof)) * math.sqrt(variance)
        lowest, highest = RANGES[metric]
        low, high = max(lowest, sample.value - half), min(highest, sample.value + half)
    except _NoInterval as reason:
        notes.append(f"no interval: {reason}")
    method = "t (Satterthwaite) over seeds and groups" if sample.seeds > 1 else "t over groups"
    return Interval(
        sample.value, low, high, level, f"{method}, bootstrap over groups{sample.within}",
        resamples, sample.groups, sample.seeds, tuple(notes), sd_groups=sd, sd_seeds=sd_seeds, dof=dof,
    )  # fmt: skip


def standard_error(
    metric: str, labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, classes: int
) -> float | None:
    """Jackknife standard error of a metric over groups (Efron 1982), in the metric's unit.

    Takes milliseconds, for use after every epoch. Arguments as for `group_bootstrap`. None where it can't be known: a
    single group, an undefined metric, or one that leaving out a group makes undefined.
    """
    try:
        labels, probabilities = checked(labels, probabilities, classes)
    except Undefined:
        return None
    group_of_row, count = _numbered(groups, len(labels))
    stacked = probabilities.reshape(-1, *probabilities.shape[-2:])
    left_out = grouped_metric(metric, labels, stacked, group_of_row, classes).without_each()
    if count < 2 or not np.isfinite(left_out).all():
        return None
    return math.sqrt((count - 1) * float(left_out.var()))


class _NoInterval(Exception):
    """Why no interval can be given."""


class _Sample:
    """One metric's predictions, ready to be resampled: strata hold numbers of groups."""

    def __init__(
        self, metric: str, labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, classes: int
    ) -> None:
        labels, probabilities = checked(labels, probabilities, classes)
        if probabilities.ndim not in (2, 3):
            raise ValueError(f"probabilities are {list(probabilities.shape)}, expected [S, N, C] or [N, C]")
        stacked = probabilities.reshape(-1, *probabilities.shape[-2:])
        self.seed_values = [compute(metric, labels, of_seed, classes) for of_seed in stacked]
        self.value, self.seeds = float(np.mean(self.seed_values)), len(stacked)
        group_of_row, self.groups = _numbered(groups, len(labels))
        self.metric = grouped_metric(metric, labels, stacked, group_of_row, classes)
        occurs = np.zeros((self.groups, classes), dtype=bool)
        occurs[group_of_row, labels] = True
        self.groups_of_class = occurs.sum(axis=0)
        self.by_class = metric != "accuracy"
        stratified = metric in STRATIFIED
        self.strata = _strata(occurs) if stratified else [np.arange(self.groups)]
        self.within = ", within strata of the label" if stratified else ""
        self.batch = max(1, NUMBERS_AT_ONCE // len(labels))

    def warnings(self) -> list[str]:
        counts = self.groups_of_class if self.by_class else np.array([self.groups])
        few = np.flatnonzero(counts < FEW_GROUPS)
        if not len(few):
            return []
        if not self.by_class:
            return [f"interval unreliable: {self.groups} groups, at least {FEW_GROUPS} are needed"]
        which = ", ".join(f"class {c}: {counts[c]}" for c in few)
        return [
            f"interval unreliable: {len(few)} of {len(counts)} classes have fewer than {FEW_GROUPS} groups ({which})"
        ]

    def statistic(self, *resampled: np.ndarray, axis: int = -1) -> np.ndarray:
        """The metric [...] of resamples, given as the numbers of the groups drawn from each stratum [..., n]."""
        drawn = np.concatenate(resampled, axis=axis)
        shape, drawn = drawn.shape[:-1], drawn.reshape(-1, drawn.shape[-1])
        times = np.bincount(
            (drawn + self.groups * np.arange(len(drawn))[:, None]).ravel(), minlength=len(drawn) * self.groups
        )
        return self.metric.at(times.reshape(len(drawn), self.groups).T).reshape(shape)

    def resampled(self, resamples: int, seed: int, notes: list[str]) -> Any:
        """scipy's BootstrapResult without undefined resamples: a few are noted, many are a reason for no interval."""
        if self.groups < 2:
            raise _NoInterval("all rows are of one group")
        with _quiet():
            drawn = stats.bootstrap(
                self.strata, self.statistic, vectorized=True, n_resamples=resamples, batch=self.batch,
                method="percentile", rng=np.random.default_rng(seed),
            )  # fmt: skip
        values = drawn.bootstrap_distribution
        defined = values[np.isfinite(values)]
        undefined = f"the metric is undefined in {len(values) - len(defined)} of {len(values)} resamples"
        if len(values) - len(defined) > MOST_UNDEFINED * len(values):
            raise _NoInterval(undefined)
        if len(defined) < len(values):
            notes.append(f"{undefined}; they were left out")
        if np.ptp(defined) == 0:
            raise _NoInterval(f"every resample gives {self.value:.6g}, so that how much it varies can't be told")
        return replace(drawn, bootstrap_distribution=defined, standard_error=float(defined.std(ddof=1)))

    def bca(self, drawn: Any, level: float) -> tuple[float, float]:
        """Ends of the BCa interval from what `resampled` gave."""
        with _quiet():
            ends = stats.bootstrap(
                self.strata, self.statistic, vectorized=True, n_resamples=0, bootstrap_result=drawn, batch=self.batch,
                method="BCa", confidence_level=level,
            ).confidence_interval  # fmt: skip
        if not np.isfinite([ends.low, ends.high]).all():
            raise _NoInterval(
                "the BCa correction isn't finite, as when leaving out one group makes the metric undefined"
            )
        return float(ends.low), float(ends.high)

    def of_strata(self) -> tuple[float, float]:
        """What a variance over groups needs, from the jackknife's part of each stratum of n groups: the factor that
        makes up for a bootstrap's variance being too small by (n - 1) / n, and Satterthwaite's degrees of freedom."""
        left_out = self.metric.without_each()
        if not np.isfinite(left_out).all():
            raise _NoInterval("leaving out one group makes the metric undefined")
        parts = [(len(s) - 1) * float(left_out[s].var()) for s in self.strata]
        if not (total := sum(parts)):
            raise _NoInterval("leaving out any one group makes no difference, so that how much it varies can't be told")
        sizes = [(part, len(s)) for part, s in zip(parts, self.strata, strict=True)]
        factor = sum(part * n / (n - 1) for part, n in sizes) / total
        return factor, total**2 / sum(part**2 / (n - 1) for part, n in sizes)


def _numbered(groups: np.ndarray, rows: int) -> tuple[np.ndarray, int]:
    """Groups [N] as numbers from 0 in the order of their names, which rows' order doesn't change, and their count."""
    if np.shape(groups) != (rows,):
        raise ValueError(f"groups are {list(np.shape(groups))}, expected [{rows}]")
    names, numbers = np.unique(groups, return_inverse=True)
    return numbers, len(names)


def _strata(occurs: np.ndarray) -> list[np.ndarray]:
    """Numbers of the groups whose rarest label is the same, from which labels occur in which group, bool [G, C].

    A group alone in its stratum would never vary, so it joins the smallest other one.
    """
    order = np.argsort(occurs.sum(axis=0), kind="stable")
    rarest = order[occurs[:, order].argmax(axis=1)]
    strata = sorted((np.flatnonzero(rarest == c) for c in np.unique(rarest)), key=len)
    while len(strata) > 1 and len(strata[0]) == 1:
        strata = sorted([np.concatenate(strata[:2]), *strata[2:]], key=len)
    return strata


@contextmanager
def _quiet() -> Iterator[None]:
    """Undefined and degenerate resamples are told in our words instead."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        yield
