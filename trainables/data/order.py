"""The order of samples: a function of (seed, epoch), so that a continued trial sees what it would have seen."""

from __future__ import annotations

import numpy as np


def sample_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of 0 .. n-1 as [n] int64, from the counter-based generator Philox keyed by (seed, epoch).

    Sorted raw bits, since NumPy promises the same bits in every version, but not the same shuffles.
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    bits = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


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
