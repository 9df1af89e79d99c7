"""A metric as a function of how often each group of rows counts: what bootstraps and jackknives over groups evaluate.

`trainables.metrics` says what the metrics mean; here the same values are computed for thousands of weightings at once,
from what each group adds to the metric. Shapes: S seeds, N rows, G groups, C classes, B weightings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from trainables.metric_names import PROPER, RANKED
from trainables.metrics import Over, against_rest, averaged, predicted
from trainables.proper import Sums, mean_of_terms, row_losses

CELLS_AT_ONCE = 4_000_000  # numbers held by one step over groups


class GroupedMetric(Protocol):
    """A metric of each seed, where it can be had for any weights of the groups."""

    def at(self, weights: np.ndarray) -> np.ndarray:
        """Values [S, B] with group g counted weights[g, b] times, whole numbers [G, B]; NaN where undefined."""
        ...

    def without_each(self) -> np.ndarray:
        """Values [S, G] with one group left out, each in turn; NaN where undefined."""
        ...


def grouped_metric(
    metric: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    group_of_row: np.ndarray,
    classes: int,
    *,
    over: Over = None,
) -> GroupedMetric:
    """Arguments as for `metrics.compute`, checked by the caller, but probabilities [S, N, C], and for each row the
    number of its group, int [N], every number from 0 up occurring."""
    chosen = averaged(metric, labels, classes, over)
    if metric in RANKED:
        return _Ranked(metric, labels, probabilities, group_of_row, chosen)
    if metric in PROPER:
        return _Additive(row_losses(metric, labels, probabilities, chosen), mean_of_terms, group_of_row)
    addends, value = _OF_SUMS[metric]
    return _Additive(addends(labels, predicted(probabilities), classes), value, group_of_row)


class _Additive:
    """Metrics that are functions of sums over rows, to which every group adds its own."""

    def __init__(
        self, sums: Sums, value: Callable[[np.ndarray, np.ndarray], np.ndarray], group_of_row: np.ndarray
    ) -> None:
        """
        Args:
            sums: what a row adds to those of each seed [S, F, N], and to those of all seeds [F', N].
            value: the metric [S, B] from the sums [S, F, B] and [F', B].
        """
        of_seed, of_rows = sums
        self.value = value
        self.seeds, _, rows = of_seed.shape
        by_group = _adding_up(np.arange(rows), group_of_row, (rows, int(group_of_row.max()) + 1), np.float64)
        self.sums = csr_array(np.concatenate([of_seed.reshape(-1, rows), of_rows]).astype(float)) @ by_group
        self.own = of_seed.shape[0] * of_seed.shape[1]
        self.step = max(1, CELLS_AT_ONCE // self.sums.shape[0])

    def at(self, weights: np.ndarray) -> np.ndarray:
        starts = range(0, weights.shape[1], self.step)
        parts = [self._of_sums(self.sums @ weights[:, i : i + self.step].astype(float)) for i in starts]
        return np.concatenate(parts, axis=1)

    def without_each(self) -> np.ndarray:
        total, by_group = self.sums.sum(axis=1)[:, None], self.sums.tocsc()
        starts = range(0, by_group.shape[1], self.step)
        parts = [self._of_sums(total - by_group[:, i : i + self.step].toarray()) for i in starts]
        return np.concatenate(parts, axis=1)

    def _of_sums(self, sums: np.ndarray) -> np.ndarray:
        of_seed = sums[: self.own].reshape(self.seeds, -1, sums.shape[1])
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is what makes an undefined value NaN
            return _rounded(self.value(of_seed, sums[self.own :]))


# What a row adds to the sums that a metric is made of, those of each seed [S, F, N] and those of all seeds [F', N]; and
# the metric [S, B] from the sums [S, F, B] and [F', B].


def _right(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    return (predictions == labels)[:, None], np.ones((1, len(labels)))


def _accuracy(of_seed: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return of_seed[:, 0] / rows[0]


def _right_by_class(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    actual = labels == np.arange(classes)[:, None]
    return (predictions == labels)[:, None] & actual, actual


def _balanced_accuracy(right: np.ndarray, actual: np.ndarray) -> np.ndarray:
    return (right / actual).mean(axis=1)


def _right_and_given(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    right, actual = _right_by_class(labels, predictions, classes)
    return np.concatenate([right, predictions[:, None] == np.arange(classes)[:, None]], axis=1), actual


def _macro_f1(of_seed: np.ndarray, actual: np.ndarray) -> np.ndarray:
    right, given = np.split(of_seed, 2, axis=1)
    return np.where(actual > 0, 2 * right / (actual + given), np.nan).mean(axis=1)


def _moments(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    of_seed = np.stack([predictions, predictions**2, predictions * labels], axis=1)
    return of_seed, np.stack([np.ones(len(labels)), labels, labels**2])


def _quadratic_weighted_kappa(of_seed: np.ndarray, of_rows: np.ndarray) -> np.ndarray:
    """1 - n * sum (i - j)^2 / (sum over all pairs of an actual grade i and a predicted one j of (i - j)^2)."""
    (given, given_squared, product), (rows, actual, actual_squared) = np.moveaxis(of_seed, 1, 0), of_rows
    squares = actual_squared + given_squared
    kappa = 1 - rows * (squares - 2 * product) / (rows * squares - 2 * actual * given)
    constant = (rows * given_squared == given**2) | (rows * actual_squared == actual**2)  # whole numbers: exactly
    return np.where(constant, np.nan, kappa)


_OF_SUMS = {
    "accuracy": (_right, _accuracy),
    "balanced_accuracy": (_right_by_class, _balanced_accuracy),
    "macro_f1": (_right_and_given, _macro_f1),
    "quadratic_weighted_kappa": (_moments, _quadratic_weighted_kappa),
}


class _Term(Protocol):
    """One class against the rest, of one seed."""

    def at(self, weights: np.ndarray) -> np.ndarray:
        """Values [B] for weights [G, B]."""
        ...

    def without_each(self) -> np.ndarray:
        """Values [G]."""
        ...


class _Ranked:
    """Means over classes of what the order of the rows' scores gives for each against the rest."""

    def __init__(
        self, metric: str, labels: np.ndarray, probabilities: np.ndarray, group_of_row: np.ndarray, over: list[int]
    ) -> None:
        of_one = _Auroc if metric == "macro_auroc" else _AveragePrecision
        groups = int(group_of_row.max()) + 1
        self.terms: list[list[_Term]] = [[] for _ in probabilities]  # by seed
        for c in over:
            positive, scores = against_rest(labels, probabilities, c)
            group = group_of_row if labels.ndim == 1 else group_of_row[~np.isnan(labels[:, c])]
            for of_seed, terms in zip(scores, self.terms, strict=True):
                terms.append(of_one(positive, of_seed, group, groups))

    def at(self, weights: np.ndarray) -> np.ndarray:
        return _rounded(np.stack([np.mean([term.at(weights) for term in terms], axis=0) for terms in self.terms]))

    def without_each(self) -> np.ndarray:
        return _rounded(np.stack([np.mean([term.without_each() for term in terms], axis=0) for terms in self.terms]))


class _Auroc:
    """AUROC as the share of pairs (a row of the class, a row of the rest) in the right order, ties half.

    Counts are float32 for speed, which is exact below 2^24 rows; what is summed over pairs is float64.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, group_of_row: np.ndarray, groups: int) -> None:
        self.positive, self.scores, self.group_of_row, self.groups = positive, scores, group_of_row, groups

    @cached_property
    def slots(self) -> tuple[csr_array, csr_array]:
        """Matrices that turn weights [G, B] into the weight at each distinct score of the rarer side, [U, B], and of
        the other side below, at, between and above these scores, [2U + 1, B]."""
        flip = 2 * self.positive.sum() > len(self.positive)
        rare, scores = (~self.positive, -self.scores) if flip else (self.positive, self.scores)
        levels, level = np.unique(scores[rare], return_inverse=True)
        below = np.searchsorted(levels, scores[~rare], side="left")
        slot = below + np.searchsorted(levels, scores[~rare], side="right")  # odd where it ties with a level
        return (
            _adding_up(level, self.group_of_row[rare], (len(levels), self.groups), np.float32),
            _adding_up(slot, self.group_of_row[~rare], (2 * len(levels) + 1, self.groups), np.float32),
        )

    def at(self, weights: np.ndarray) -> np.ndarray:
        to_levels, to_slots = self.slots
        weights = weights.astype(np.float32, copy=False)
        rare, other = to_levels @ weights, to_slots @ weights
        other.cumsum(axis=0, out=other)
        below, up_to = other[:-1:2], other[1::2]  # each level: strictly below it, and with its ties
        right = np.einsum("ub,ub->b", rare, below + up_to, dtype=np.float64) / 2
        return _share(right, rare.sum(axis=0, dtype=np.float64) * other[-1])

    def without_each(self) -> np.ndarray:
        level = np.unique(self.scores, return_inverse=True)[1]
        positives, negatives = self._by_group(self.positive), self._by_group(~self.positive)
        everywhere, within = rankdata(level), self._ranks_within_groups(level)
        # a row's pairs with the other side = its rank among all rows less its rank among its own side
        own_side = self._ranks_of(level, self.positive) + self._ranks_of(level, ~self.positive)
        pairs = everywhere - own_side  # rows of the other side below this row, ties half
        of_group = self._by_group(self.positive, pairs) + self._by_group(~self.positive, self.positive.sum() - pairs)
        inside = self._by_group(self.positive, within) - positives * (positives + 1) / 2  # counted twice above
        right = pairs[self.positive].sum() - of_group + inside
        return _share(right, (positives.sum() - positives) * (negatives.sum() - negatives))

    def _by_group(self, chosen: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        weights = None if values is None else values[chosen]
        return np.bincount(self.group_of_row[chosen], weights, minlength=self.groups).astype(float)

    def _ranks_within_groups(self, level: np.ndarray) -> np.ndarray:
        sizes = np.bincount(self.group_of_row, minlength=self.groups)
        before = np.concatenate([[0], sizes.cumsum()[:-1]])
        return rankdata(self.group_of_row * (int(level.max(initial=0)) + 1) + level) - before[self.group_of_row]

    @staticmethod
    def _ranks_of(level: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        ranks = np.zeros(len(level))
        ranks[chosen] = rankdata(level[chosen])
        return ranks


class _AveragePrecision:
    """Average precision as the mean, over rows of the class, of the precision at that row's score.

    A row's slot is the highest of the class' distinct scores that isn't above its own; U is below all of them.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, group_of_row: np.ndarray, groups: int) -> None:
        self.positive, self.group_of_row, self.groups = positive, group_of_row, groups
        levels = np.unique(-scores[positive])
        self.slot, self.slots = np.searchsorted(levels, -scores), len(levels) + 1

    @cached_property
    def to_slots(self) -> tuple[csr_array, csr_array]:
        """Matrices that turn weights [G, B] into those of the class' rows and of all rows in each slot, [U + 1, B]."""
        shape, positive = (self.slots, self.groups), self.positive
        return (
            _adding_up(self.slot[positive], self.group_of_row[positive], shape, np.float64),
            _adding_up(self.slot, self.group_of_row, shape, np.float64),
        )

    def at(self, weights: np.ndarray) -> np.ndarray:
        weights = weights.astype(np.float64, copy=False)
        positive, every = (matrix @ weights for matrix in self.to_slots)
        found = positive.cumsum(axis=0)
        every.cumsum(axis=0, out=every)
        total, rows = found[-1].copy(), every[-1].copy()
        found *= positive
        found /= np.maximum(every, 1, out=every)  # no rows so far: nothing was found either
        return _share(np.where(rows > total, found.sum(axis=0), np.nan), total)

    def without_each(self) -> np.ndarray:
        positive, every = (np.bincount(self.slot[rows], minlength=self.slots) for rows in (self.positive, slice(None)))
        found, so_far = positive.cumsum(), every.cumsum()
        # within a group: its slots from the highest score down, and how many of its rows lie there or above
        key, entry = np.unique(self.group_of_row * self.slots + self.slot, return_inverse=True)
        group, start = np.divmod(key, self.slots)
        own = np.bincount(entry[self.positive], minlength=len(key))
        own_found, own_so_far = _within(group, own), _within(group, np.bincount(entry))
        last = np.append(group[1:] != group[:-1], True)[: len(group)]
        end = np.where(last, self.slots, np.append(start[1:], 0))
        # the sum over the class' rows of the precision at them, less the group's rows, in pieces between its slots
        first = np.full(self.groups, self.slots)
        np.minimum.at(first, group, start)
        total = _running(positive, found, so_far, 0, 0)[first]
        pairs, which = np.unique(np.stack([own_found, own_so_far]), axis=1, return_inverse=True)
        for i, (a, m) in enumerate(pairs.T):
            of_pair = np.flatnonzero(which == i)
            sums = _running(positive, found, so_far, a, m)
            np.add.at(total, group[of_pair], sums[end[of_pair]] - sums[start[of_pair]])
        left = np.maximum(so_far[start] - own_so_far, 1)
        np.subtract.at(total, group, own * (found[start] - own_found) / left)
        positives = found[-1] - np.bincount(self.group_of_row[self.positive], minlength=self.groups)
        rows = so_far[-1] - np.bincount(self.group_of_row, minlength=self.groups)
        return _share(np.where(rows > positives, total, np.nan), positives.astype(float))


def _running(positive: np.ndarray, found: np.ndarray, so_far: np.ndarray, a: int, m: int) -> np.ndarray:
    """Sums [U + 2] up to each slot of the class' rows times precision, were there `a` rows of the class and `m` rows
    fewer."""
    rows = so_far - m
    terms = np.divide(positive * (found - a), rows, out=np.zeros(len(rows)), where=rows > 0)
    return np.concatenate([[0.0], terms.cumsum()])


def _within(group: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Cumulative sums [n] that begin anew with each group, int [n] and sorted."""
    sums = counts.cumsum()
    first = np.searchsorted(group, group)
    return sums - (sums - counts)[first]


def _adding_up(to: np.ndarray, group: np.ndarray, shape: tuple[int, int], dtype: type[np.floating]) -> csr_array:
    return csr_array((np.ones(len(to), dtype), (to, group)), shape=shape)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Values that are equal but for the order of summation become the same number: BCa counts ties."""
    return values.round(12)
