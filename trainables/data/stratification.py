"""Deals groups out to folds so that each fold has its share of every class: grouped, stratified, from a seed.

The order of Sechidis et al., On the stratification of multi-label data (2011), rarest label first, with groups in place
of samples. Integers throughout, so that it gives the same on every machine.
"""

from __future__ import annotations

import numpy as np

from trainables.data.order import sample_order


def stratified_folds(groups: np.ndarray, members: np.ndarray, folds: int, seed: int, stage: int = 0) -> np.ndarray:
    """The number of each row's fold.

    A group's stratum is the rarest class that it has images of; strata are dealt rarest first. Within a stratum, groups
    with most of its images come first, and those with equally many in an order drawn from the seed; each goes to the
    fold with the fewest images of the stratum's class, then with the fewest images. Strata with fewer groups than folds
    are dealt in drawn order from the first fold on, so that one fold holds all of them.

    Args:
        groups: [N] int64; rows of a group stay together.
        members: [N, L] bool, which classes or findings each row has; none is a stratum of its own, dealt last.
        folds: how many.
        seed: 0 or more.
        stage: draws another order from the same seed.

    Returns:
        [N] int64, 0 to folds - 1.
    """
    names, group = np.unique(groups, return_inverse=True)
    classes = members.shape[1]
    row, label = np.nonzero(members)
    pairs, counts = np.unique(group[row] * classes + label, return_counts=True)
    of_pair, label_of_pair = pairs // classes, pairs % classes
    totals = members.sum(axis=0)
    rank = np.empty(classes, dtype=np.int64)
    rank[np.argsort(totals, kind="stable")] = np.arange(classes)

    stratum = np.full(len(names), classes)
    np.minimum.at(stratum, of_pair, rank[label_of_pair])
    size = np.bincount(group, minlength=len(names))
    own = rank[label_of_pair] == stratum[of_pair]
    size[of_pair[own]] = counts[own]
    few = np.bincount(stratum, minlength=classes + 1) < folds
    few[classes] = False
    drawn = np.empty(len(names), dtype=np.int64)
    drawn[sample_order(seed % 2**64, stage, len(names))] = np.arange(len(names))
    order = np.lexsort((drawn, np.where(few[stratum], 0, -size), stratum))

    starts = np.searchsorted(of_pair, np.arange(len(names) + 1)).tolist()
    ranks, amounts = rank[label_of_pair].tolist(), counts.tolist()
    images = np.bincount(group, minlength=len(names)).tolist()
    strata, is_few = stratum.tolist(), few.tolist()
    held = [[0] * (classes + 1) for _ in range(folds)]  # by the classes' ranks; the last is never counted up
    total = [0] * folds
    fold_of = np.empty(len(names), dtype=np.int64)
    for g in order.tolist():
        of = strata[g]
        fold = min(range(folds), key=[(held[f][of], not is_few[of] and total[f], f) for f in range(folds)].__getitem__)
        for i in range(starts[g], starts[g + 1]):
            held[fold][ranks[i]] += amounts[i]
        total[fold] += images[g]
        fold_of[g] = fold
    return fold_of[group]


def groups_of_classes(groups: np.ndarray, members: np.ndarray) -> np.ndarray:
    """[L] int64: in how many groups each class occurs. `groups`: [N] int64, `members`: [N, L] bool."""
    row, label = np.nonzero(members)
    pairs = np.unique(groups[row] * members.shape[1] + label)
    return np.bincount(pairs % members.shape[1], minlength=members.shape[1])
