"""Groups of rows (patients, lesions) drawn again and again: how much metrics vary with the choice of groups.

Rows of one group aren't independent, so groups are resampled, never rows. Shapes: S seeds, N rows, G groups, C classes,
B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from trainables.grouped import grouped_metric
from trainables.metric_names import PROPER
from trainables.metrics import Over, averaged, check_fits, checked, compute

STRATIFIED = frozenset({"balanced_accuracy", "macro_auroc"})
"""Metrics that condition on the label: resampled within strata of the group's rarest label."""
OF_ALL_ROWS = frozenset({"accuracy", *PROPER})
"""Means over rows of whatever class, which no class' number of groups makes unreliable."""
FEW_GROUPS = 10
"""A class with fewer makes an interval unreliable."""
MOST_UNDEFINED = 0.01
"""Share of resamples that may be undefined before there is no interval."""
NUMBERS_AT_ONCE = 800_000  # rows times resamples at once: few megabytes, which fit the processor's caches


class NoInterval(Exception):
    """Why no interval can be given."""


Classes = int | Sequence[str]
"""How many there are, or what they are called, in warnings too."""


class Resampling:
    """A metric of some models on the same rows, ready to be resampled over groups."""

    def __init__(
        self,
        metric: str,
        labels: np.ndarray,
        probabilities: np.ndarray,
        groups: np.ndarray,
        classes: Classes,
        over: Over = None,
    ) -> None:
        """Arguments as for `intervals.group_bootstrap`, with probabilities [S, N, C] or [N, C].

        Raises:
            metrics.Undefined: the metric of a model has no value on all rows.
            ValueError: shapes, labels or `over` don't fit.
        """
        names, classes = (None, classes) if isinstance(classes, int) else (list(classes), len(classes))
        labels, probabilities = checked(labels, probabilities, classes)
        if probabilities.ndim not in (2, 3):
            raise ValueError(f"probabilities are {list(probabilities.shape)}, expected [S, N, C] or [N, C]")
        stacked = probabilities.reshape(-1, *probabilities.shape[-2:])
        check_fits(metric, labels)
        group_of_row, self.groups = numbered(groups, len(labels))
        self.metric = grouped_metric(metric, labels, stacked, group_of_row, classes, over=over)
        self.values = self.metric.at(np.ones((self.groups, 1)))[:, 0]
        """[S], those of `metrics.compute` but for rounding."""
        for of_seed in stacked[np.isnan(self.values)]:
            compute(metric, labels, of_seed, classes, over=over)  # which says why it isn't defined
        self.several = labels.ndim == 2
        self.chosen = averaged(metric, labels, classes, over) if over or self.several else list(range(classes))
        self.names = names or [str(number) for number in range(classes)]
        occurs = occurring(labels, group_of_row, self.groups, self.chosen)
        self.groups_of_class = occurs.sum(axis=0)
        self.by_class = self.several or metric not in OF_ALL_ROWS
        self.stratified = metric in STRATIFIED
        self.strata = strata(occurs) if self.stratified else [np.arange(self.groups)]
        self.within = ", within strata of the label" if self.stratified else ""
        self.batch = max(1, NUMBERS_AT_ONCE // len(labels))

    def warnings(self) -> list[str]:
        """Which classes have too few groups; nothing where all have enough."""
        if not self.by_class:
            if self.groups >= FEW_GROUPS:
                return []
            return [f"interval unreliable: {self.groups} groups, at least {FEW_GROUPS} are needed"]
        counts, what = self.groups_of_class, "class"
        if self.several:  # findings need both
            counts, what = counts.reshape(2, -1).min(axis=0), "finding"
        few = [(c, n) for c, n in zip(self.chosen, counts, strict=True) if n < FEW_GROUPS]
        if not few:
            return []
        which, all_of = (
            ", ".join(f"{what} {self.names[c]}: {n}" for c, n in few),
            "classes" if what == "class" else "findings",
        )
        lack = f"{len(few)} of {len(counts)} {all_of} have fewer than {FEW_GROUPS} groups"
        return [f"interval unreliable: {lack}{' with it, or without' if self.several else ''} ({which})"]

    def draw(self, resamples: int, seed: int, notes: list[str]) -> np.ndarray:
        """Each model's metric in resamples [S, B], without undefined ones: a few are noted, many are a reason for no
        interval.

        Raises:
            NoInterval: with the reason.
        """
        if self.groups < 2:
            raise NoInterval("all rows are of one group")
        rng = np.random.default_rng(seed)
        values = np.concatenate([self.metric.at(w) for w in weights(self.strata, resamples, self.batch, rng)], axis=1)
        defined = values[:, np.isfinite(values).all(axis=0)]
        lost = resamples - defined.shape[1]
        undefined = f"the metric is undefined in {lost} of {resamples} resamples"
        if lost > MOST_UNDEFINED * resamples:
            raise NoInterval(undefined)
        if lost:
            notes.append(f"{undefined}; they were left out")
        if (np.ptp(defined, axis=1) == 0).all():
            same = ", ".join(f"{value:.6g}" for value in np.unique(self.values.round(12)))
            raise NoInterval(f"every resample gives {same}, so that how much it varies can't be told")
        return defined

    def without_each(self) -> np.ndarray:
        """Each model's metric with one group left out [S, G].

        Raises:
            NoInterval: one isn't defined.
        """
        left_out = self.metric.without_each()
        if not np.isfinite(left_out).all():
            raise NoInterval("leaving out one group makes the metric undefined")
        return left_out

    def of_strata(self, left_out: np.ndarray) -> tuple[float, float]:
        """What a variance over groups needs, from the jackknife's [G] part of each stratum of n groups: the factor that
        makes up for a bootstrap's variance being too small by (n - 1) / n, and Satterthwaite's degrees of freedom.

        Raises:
            NoInterval: the jackknife doesn't vary.
        """
        parts = [(len(s) - 1) * float(left_out[s].var()) for s in self.strata]
        if not (total := sum(parts)):
            raise NoInterval("leaving out any one group makes no difference, so that how much it varies can't be told")
        sizes = [(part, len(s)) for part, s in zip(parts, self.strata, strict=True)]
        factor = sum(part * n / (n - 1) for part, n in sizes) / total
        return factor, total**2 / sum(part**2 / (n - 1) for part, n in sizes)

    def bca(self, level: float, resamples: int, seed: int, notes: list[str]) -> tuple[float, float, float]:
        """Ends of the BCa interval (Efron 1987) of the models' mean metric, and the bootstrap's standard error.

        A bootstrap's spread is too small for few groups, by (n - 1) / n in variance and as a normal quantile is smaller
        than a t quantile; the normal quantile of the level is widened by both (Hesterberg 2015, "expanded").

        Raises:
            NoInterval: with the reason.
        """
        drawn = self.draw(resamples, seed, notes).mean(axis=0).round(12)
        left_out = self.without_each().mean(axis=0)
        factor, dof = self.of_strata(left_out)
        value = self.values.mean().round(12)
        below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
        # the acceleration of several samples, as scipy.stats.bootstrap has it, whose jackknife takes G^2 numbers
        influence = [(len(s) - 1) * (left_out[s].mean() - left_out[s]) / len(s) for s in self.strata]
        skew, spread = (sum(float((i**power).sum()) for i in influence) for power in (3, 2))
        bias, acceleration = stats.norm.ppf(below), skew / (6 * spread**1.5)
        shifted = bias + math.sqrt(factor) * stats.t.ppf([(1 - level) / 2, (1 + level) / 2], dof)
        shares = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
        if not np.isfinite(shares).all():
            raise NoInterval("the BCa correction isn't finite, as nearly all resamples lie on one side of the value")
        low, high = np.quantile(drawn, shares)
        return float(low), float(high), float(drawn.std(ddof=1))


def numbered(groups: np.ndarray, rows: int) -> tuple[np.ndarray, int]:
    """Groups [N] as numbers from 0 in the order of their names, which rows' order doesn't change, and their count.

    Raises:
        ValueError: not one for each row.
    """
    if np.shape(groups) != (rows,):
        raise ValueError(f"groups are {list(np.shape(groups))}, expected [{rows}]")
    names, numbers = np.unique(groups, return_inverse=True)
    return numbers, len(names)


def occurring(labels: np.ndarray, group_of_row: np.ndarray, groups: int, classes: list[int]) -> np.ndarray:
    """Which of these classes occur in which group, bool [G, C]; of findings which are there and, in as many more
    columns, which are known not to be, [G, 2L]."""
    if labels.ndim == 1:
        of_row = labels[:, None] == classes
    else:
        of_row = np.concatenate([labels[:, classes] == 1, labels[:, classes] == 0], axis=1)
    found = np.zeros((groups, of_row.shape[1]), dtype=bool)
    row, column = np.nonzero(of_row)
    found[group_of_row[row], column] = True
    return found


def strata(occurs: np.ndarray) -> list[np.ndarray]:
    """Numbers of the groups whose rarest label is the same, from which labels occur in which group, bool [G, C].

    A group alone in its stratum would never vary, so it joins the smallest other one.
    """
    order = np.argsort(occurs.sum(axis=0), kind="stable")
    rarest = np.where(occurs.any(axis=1), order[occurs[:, order].argmax(axis=1)], -1)  # -1: none of them
    found = sorted((np.flatnonzero(rarest == c) for c in np.unique(rarest)), key=len)
    while len(found) > 1 and len(found[0]) == 1:
        found = sorted([np.concatenate(found[:2]), *found[2:]], key=len)
    return found


def weights(strata: list[np.ndarray], resamples: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each group is drawn, int [G, at most batch] at a time: as many as there are, from each stratum."""
    groups = sum(map(len, strata))
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        drawn = np.concatenate([s[rng.integers(0, len(s), (count, len(s)))] for s in strata], axis=1)
        drawn += groups * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * groups).reshape(count, groups).T
