"""Thresholds that turn a regressed score into a grade: those with the best quadratic weighted kappa."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

FOLDS = 5
PLACES = 200  # that a threshold may take
SPREAD = 0.5  # grades, of the probabilities around a score


def natural_thresholds(classes: int) -> np.ndarray:
    """float64 [C - 1]: halfway between grades."""
    return np.arange(classes - 1) + 0.5


def fit_thresholds(scores: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Rising thresholds float64 [C - 1] that make scores [N] the grades with the best quadratic weighted kappa.

    One threshold after the other takes the best place between its neighbours, until none moves; from halfway between
    grades, and from where each grade is given as often as it occurs. Where one grade alone occurs there is nothing to
    fit.
    """
    natural = natural_thresholds(classes)
    distinct = np.unique(scores)
    if len(np.unique(truth)) < 2 or len(distinct) < 2:
        return natural
    places = (distinct[1:] + distinct[:-1]) / 2
    if len(places) > PLACES:
        places = np.quantile(places, np.linspace(0, 1, PLACES))
    places = np.concatenate([[distinct[0] - 1], places, [distinct[-1] + 1]])
    below = np.stack([np.searchsorted(np.sort(scores[truth == c]), places) for c in range(classes)])  # [C, places]
    matched = np.quantile(scores, np.cumsum(np.bincount(truth, minlength=classes))[:-1] / len(truth))
    fits = [_climb(np.searchsorted(places[:-1], np.sort(start)), below) for start in (natural, matched)]
    return places[min(fits, key=lambda fit: _disagreement(fit[:, None], below)[0])]


def _climb(chosen: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Places of thresholds [C - 1] that no single move improves."""
    last = below.shape[1] - 1
    moved = True
    while moved:
        moved = False
        for k in range(len(chosen)):
            low, high = chosen[k - 1] if k else 0, chosen[k + 1] if k + 1 < len(chosen) else last
            tried = np.repeat(chosen[:, None], high - low + 1, axis=1)
            tried[k] = np.arange(low, high + 1)
            values = _disagreement(np.concatenate([chosen[:, None], tried], axis=1), below)
            best = int(values.argmin())
            if values[best] < values[0] - 1e-12:
                chosen = np.concatenate([chosen[:, None], tried], axis=1)[:, best]
                moved = True
    return chosen


def _disagreement(chosen: np.ndarray, below: np.ndarray) -> np.ndarray:
    """1 - kappa of several choices of places [C - 1, T], from how many of each class lie below each place."""
    ends = np.zeros((1, chosen.shape[1]), np.int64), np.full((1, chosen.shape[1]), below.shape[1] - 1)
    table = np.diff(below[:, np.concatenate([ends[0], chosen, ends[1]])], axis=1)  # [actual, given, T]
    grades = np.arange(len(below))
    penalty = np.subtract.outer(grades, grades) ** 2.0
    observed = np.einsum("ij,ijt->t", penalty, table)
    expected = np.einsum("i,ij,jt->t", below[:, -1], penalty, table.sum(axis=0)) / below[:, -1].sum()
    return np.divide(observed, expected, out=np.full(len(observed), np.inf), where=expected > 0)


def cross_fitted_grades(scores: np.ndarray, truth: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities [N, C] of rows, each by thresholds fitted on groups other than its own, in five folds; where there
    is but one group, by the natural thresholds."""
    names, number = np.unique(groups, return_inverse=True)
    drawn = np.random.Philox(key=np.array([0, 4 << 32], dtype=np.uint64)).random_raw(len(names))
    fold = (np.argsort(np.argsort(drawn)) % FOLDS)[number]
    probabilities = np.empty((len(scores), classes), np.float32)
    for one in range(FOLDS):
        own = fold == one
        if own.any():
            fitted = natural_thresholds(classes) if own.all() else fit_thresholds(scores[~own], truth[~own], classes)
            probabilities[own] = probabilities_of_scores(scores[own], fitted)
    return probabilities


def probabilities_of_scores(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """float32 [N, C] of scores [N]: highest at the grade between whose thresholds a score lies.

    The scale of scores is bent so that thresholds fall halfway between grades; probabilities then fall off around the
    bent score like a normal density. They rank rightly, but are calibrated only as far as that shape holds.
    """
    middle = natural_thresholds(len(thresholds) + 1)
    low, high = scores < thresholds[0], scores > thresholds[-1]
    bent = np.interp(scores, thresholds, middle)
    bent[low], bent[high] = scores[low] - thresholds[0] + middle[0], scores[high] - thresholds[-1] + middle[-1]
    distance = bent[:, None] - np.arange(len(thresholds) + 1)
    return softmax(-(distance**2) / (2 * SPREAD**2), axis=1).astype(np.float32)
