"""A metric as a function of how often each group of rows counts: what bootstraps and jackknives over groups evaluate.

`trainables.metrics` says what the metrics mean; here the same values are computed for thousands of weightings at once,
from what each group adds to the metric. Shapes: S seeds, N rows, G groups, C classes, B weightings.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import rankdata

from trainables.metrics import auroc_classes, predicted

CELLS_AT_ONCE = 4_000_000  # numbers held by one step over groups


class GroupedMetric(Protocol):
    """The mean of a metric over seeds, where it can be had for any weights of the groups."""

    def at(self, weights: np.ndarray) -> np.ndarray:
        """Values [B] with group g counted weights[g, b] times, whole numbers [G, B]; NaN where undefined."""
        ...

    def without_each(self) -> np.ndarray:
        """Values [G] with one group left out, each in turn; NaN where undefined."""
        ...


def grouped_metric(
    metric: str, labels: np.ndarray, probabilities: np.ndarray, group_of_row: np.ndarray, classes: int
) -> GroupedMetric:
    """Arguments as for `metrics.compute`, checked by the caller, but probabilities [S, N, C], and for each row the
    number of its group, int [N], every number from 0 up occurring."""
    if metric == "macro_auroc":
        return _Auroc(labels, probabilities, group_of_row, classes)
    return _Thresholded(metric, labels, predicted(probabilities), group_of_row, classes)


class _Thresholded:
    """Metrics of the confusion matrix, to which every group adds its own."""

    def __init__(
        self, metric: str, labels: np.ndarray, predictions: np.ndarray, group_of_row: np.ndarray, classes: int
    ) -> None:
        self.value = _OF_CONFUSION[metric]
        self.classes = classes
        self.seeds, rows = predictions.shape
        cells = (np.arange(self.seeds)[:, None] * classes + labels) * classes + predictions  # [S, N]
        shape = (self.seeds * classes * classes, int(group_of_row.max()) + 1)
        ones = np.ones(self.seeds * rows)
        self.counts = csr_array((ones, (cells.ravel(), np.tile(group_of_row, self.seeds))), shape=shape)

    def at(self, weights: np.ndarray) -> np.ndarray:
        return self._of_cells(self.counts @ weights.astype(float))

    def without_each(self) -> np.ndarray:
        cells, groups = self.counts.shape
        total, by_group = self.counts.sum(axis=1)[:, None], self.counts.tocsc()
        step = max(1, CELLS_AT_ONCE // cells)
        parts = [self._of_cells(total - by_group[:, i : i + step].toarray()) for i in range(0, groups, step)]
        return np.concatenate(parts)

    def _of_cells(self, cells: np.ndarray) -> np.ndarray:
        confusion = cells.reshape(self.seeds, self.classes, self.classes, -1)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0/0 is what makes an undefined value NaN
            return _rounded(self.value(confusion).mean(axis=0))


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return _diagonal(confusion).sum(axis=1) / confusion.sum(axis=(1, 2))


def _balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    return (_diagonal(confusion) / confusion.sum(axis=2)).mean(axis=1)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    rows = confusion.sum(axis=2)
    f1 = 2 * _diagonal(confusion) / (rows + confusion.sum(axis=1))
    return np.where(rows > 0, f1, np.nan).mean(axis=1)


def _quadratic_weighted_kappa(confusion: np.ndarray) -> np.ndarray:
    grades = np.arange(confusion.shape[1])
    penalty = (grades[:, None] - grades) ** 2.0
    actual, given = confusion.sum(axis=2), confusion.sum(axis=1)  # [S, C, B]
    observed = np.einsum("ij,sijb->sb", penalty, confusion)
    expected = np.einsum("sib,ij,sjb->sb", actual, penalty, given, optimize=True) / confusion.sum(axis=(1, 2))
    constant = ((actual > 0).sum(axis=1) < 2) | ((given > 0).sum(axis=1) < 2)
    return np.where(constant, np.nan, 1 - observed / expected)


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.diagonal(confusion, axis1=1, axis2=2), -1, 1)


_OF_CONFUSION = {  # of confusion matrices [S, actual, predicted, B], as [S, B]
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "quadratic_weighted_kappa": _quadratic_weighted_kappa,
}


class _Auroc:
    """Macro AUROC as the share of pairs (a row of the class, a row of the rest) in the right order, ties half.

    Counts are float32 for speed, which is exact below 2^24 rows; what is summed over pairs is float64.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, group_of_row: np.ndarray, classes: int) -> None:
        self.group_of_row = group_of_row
        self.groups = int(group_of_row.max()) + 1
        self.terms = [(labels == c, scores[:, c]) for scores in probabilities for c in auroc_classes(classes)]
        self.slots = [self._slots(of_class, scores) for of_class, scores in self.terms]

    def _slots(self, of_class: np.ndarray, scores: np.ndarray) -> tuple[csr_array, csr_array]:
        """Matrices that turn weights [G, B] into the weight at each distinct score of the rarer side, [U, B], and of
        the other side below, at, between and above these scores, [2U + 1, B]."""
        rare = of_class if 2 * of_class.sum() <= len(of_class) else ~of_class
        scores = scores if rare is of_class else -scores
        levels, level = np.unique(scores[rare], return_inverse=True)
        below = np.searchsorted(levels, scores[~rare], side="left")
        slot = below + np.searchsorted(levels, scores[~rare], side="right")  # odd where it ties with a level
        return (
            self._adding_up(level, self.group_of_row[rare], len(levels)),
            self._adding_up(slot, self.group_of_row[~rare], 2 * len(levels) + 1),
        )

    def _adding_up(self, to: np.ndarray, group: np.ndarray, count: int) -> csr_array:
        return csr_array((np.ones(len(to), np.float32), (to, group)), shape=(count, self.groups))

    def at(self, weights: np.ndarray) -> np.ndarray:
        weights, total = weights.astype(np.float32), np.zeros(weights.shape[1])
        for to_levels, to_slots in self.slots:
            rare, other = to_levels @ weights, to_slots @ weights
            other.cumsum(axis=0, out=other)
            below, up_to = other[:-1:2], other[1::2]  # each level: strictly below it, and with its ties
            right = np.einsum("ub,ub->b", rare, below + up_to, dtype=np.float64) / 2
            total += _share(right, rare.sum(axis=0, dtype=np.float64) * other[-1])
        return _rounded(total / len(self.slots))

    def without_each(self) -> np.ndarray:
        total = np.zeros(self.groups)
        for of_class, scores in self.terms:
            level = np.unique(scores, return_inverse=True)[1]
            positives, negatives = self._by_group(of_class), self._by_group(~of_class)
            everywhere, within = rankdata(level), self._ranks_within_groups(level)
            # a row's pairs with the other side = its rank among all rows less its rank among its own side
            own_side = np.where(of_class, self._ranks_of(level, of_class), self._ranks_of(level, ~of_class))
            pairs = everywhere - own_side  # rows of the other side below this row, ties half
            of_group = self._by_group(of_class, pairs) + self._by_group(~of_class, of_class.sum() - pairs)
            inside = self._by_group(of_class, within) - positives * (positives + 1) / 2  # counted twice above
            right = pairs[of_class].sum() - of_group + inside
            total += _share(right, (positives.sum() - positives) * (negatives.sum() - negatives))
        return _rounded(total / len(self.terms))

    def _by_group(self, chosen: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        weights = None if values is None else values[chosen]
        return np.bincount(self.group_of_row[chosen], weights, minlength=self.groups).astype(float)

    def _ranks_within_groups(self, level: np.ndarray) -> np.ndarray:
        sizes = np.bincount(self.group_of_row, minlength=self.groups)
        before = np.concatenate([[0], sizes.cumsum()[:-1]])
        return rankdata(self.group_of_row * (int(level.max()) + 1) + level) - before[self.group_of_row]

    @staticmethod
    def _ranks_of(level: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        ranks = np.zeros(len(level))
        ranks[chosen] = rankdata(level[chosen])
        return ranks


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Values that are equal but for the order of summation become the same number: BCa counts ties."""
    return values.round(12)
