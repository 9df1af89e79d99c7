"""How well scores rank positive rows above negative ones. Computed for every class after every epoch, where
scikit-learn's functions spend twenty times as long on checks; tests hold these to its values."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def area_under_roc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs (a positive row, a negative one) in the right order, ties half (Mann and Whitney 1947).

    Args:
        positive: bool [N], some of each kind.
        scores: [N].
    """
    count = int(positive.sum())
    above = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Mean over positive rows of the precision at their score, rows of equal scores taken together. Args as above."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # row of each distinct score
    gained = np.diff(found[last], prepend=0)
    return float((gained * found[last] / (last + 1)).sum() / found[-1])
