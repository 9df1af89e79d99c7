"""The order of samples: a function of (seed, epoch), so that a continued trial sees what it would have seen."""

from __future__ import annotations

import numpy as np

from spaces.config import Sampling


def sample_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0 .. n-1 as [n] int64, from the counter-based generator Philox keyed by (seed, epoch).

    Sorted raw bits, since NumPy promises the same bits in every version, but not the same shuffles.
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    bits = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def balanced_order(seed: int, epoch: int, strata: np.ndarray) -> np.ndarray:
    """As many rows as there are, drawn with replacement so that each stratum is equally likely, [n] int64.

    Args:
        strata: [n] int64, of each row.
    """
    generator = np.random.Philox(key=np.array([seed, epoch + (5 << 32)], dtype=np.uint64))
    _, of_row, counts = np.unique(strata, return_inverse=True, return_counts=True)
    ends = np.cumsum(1 / (len(counts) * counts[of_row]))
    drawn = (generator.random_raw(len(strata)) >> np.uint64(11)) * 2.0**-53  # as NumPy makes numbers in [0, 1)
    return np.minimum(np.searchsorted(ends, drawn, side="right"), len(strata) - 1).astype(np.int64)


def epoch_order(seed: int, epoch: int, strata: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The order of an epoch's samples, [n] int64: every row once, or drawn in balance."""
    if sampling == "balanced":
        return balanced_order(seed, epoch, strata)
    return sample_order(seed, epoch, len(strata))


def global_batches(order: np.ndarray, batch_size: int, drop_last: bool = True) -> list[np.ndarray]:
    """Cuts an order into batches over all ranks.

    Args:
        order: [N] int64.
        batch_size: over all ranks.
        drop_last: leave a smaller last batch out, but never the only one.
    """
    whole = len(order) // batch_size * batch_size
    if drop_last and whole:
        order = order[:whole]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def rank_share(batch: np.ndarray, rank: int, world: int) -> np.ndarray:
    """One rank's part of a global batch: every `world`-th of it. The ranks' parts are disjoint and make the batch."""
    if not 0 <= rank < world:
        raise ValueError(f"rank: expected 0 to {world - 1}, found {rank}")
    return batch[rank::world]
