from __future__ import annotations

import numpy as np
import pytest

from trainables.data.order import global_batches, rank_share, sample_order


def test_is_a_permutation_that_follows_from_seed_and_epoch() -> None:
    orders = {(seed, epoch): sample_order(seed, epoch, 50) for seed in (0, 1, 2**31) for epoch in (0, 1, 7)}
    for (seed, epoch), order in orders.items():
        assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(50))
        np.testing.assert_array_equal(order, sample_order(seed, epoch, 50))
    assert len({tuple(order) for order in orders.values()}) == len(orders)


def test_pinned() -> None:
    """Another order would change every result and break the continuation of trials."""
    assert sample_order(3, 5, 8).tolist() == [0, 6, 2, 1, 3, 4, 7, 5]


def test_batches_and_ranks_cover_the_order_once() -> None:
    order = sample_order(0, 0, 23)
    kept = global_batches(order, 5)
    assert [len(batch) for batch in kept] == [5, 5, 5, 5]
    np.testing.assert_array_equal(np.concatenate(global_batches(order, 5, drop_last=False)), order)
    assert [len(batch) for batch in global_batches(order, 32)] == [23], "the only batch is kept"
    shares = [rank_share(kept[0], rank, 2) for rank in range(2)]
    assert sorted(np.concatenate(shares)) == sorted(kept[0]) and [len(s) for s in shares] == [3, 2]
    with pytest.raises(ValueError, match="rank"):
        rank_share(kept[0], 2, 2)
