"""Components of near hashes: exactly those of all pairs, without looking at all of them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data import hamming
from trainables.data.hamming import near_components

SOME = settings(max_examples=60, deadline=None, database=None)  # no folder beside the tests


def packed(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits, axis=1).view("<u8")


def by_all_pairs(hashes: np.ndarray, limit: int) -> np.ndarray:
    count = len(hashes)
    component = np.arange(count)
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2) <= limit
    for _ in range(count):
        spread = np.where(near, component[None], count).min(axis=1)
        if np.array_equal(spread, component):
            break
        component = spread
    return component


def assert_exact(hashes: np.ndarray, limit: int) -> None:
    found, expected = near_components(hashes, limit), by_all_pairs(hashes, limit)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found[:, None] == found[None], expected[:, None] == expected[None])


@SOME
@given(
    count=st.integers(0, 400),
    seed=st.integers(0, 10_000),
    limit=st.sampled_from([0, 1, 3, 12, 20, 60, 300]),
    noise=st.sampled_from([0.0, 0.01, 0.05]),
    uneven=st.booleans(),
    words=st.sampled_from([1, 4]),
)
def test_components_are_those_of_all_pairs(
    count: int, seed: int, limit: int, noise: float, uneven: bool, words: int
) -> None:
    drawn = np.random.default_rng(seed)
    bits = drawn.random((max(1, count // 5), 64 * words)) < (drawn.random(64 * words) if uneven else 0.5)
    bits = bits[drawn.integers(0, len(bits), count)] ^ (drawn.random((count, 64 * words)) < noise)
    assert_exact(packed(bits), limit)


@pytest.mark.parametrize("apart", [20, 21])
def test_a_pair_at_the_limit_is_found_wherever_its_bits_differ(apart: int) -> None:
    drawn = np.random.default_rng(0)
    bits = drawn.random((2000, 256)) < 0.5
    for i in range(1000):
        bits[1000 + i] = bits[i]
        bits[1000 + i, drawn.permutation(256)[:apart]] ^= True
    hashes = packed(bits)
    assert len(hamming._keys(hashes, 20)) == 21, "by bands, not by all pairs"
    found = near_components(hashes, 20)
    assert ((found[:1000] == found[1000:]).all()) == (apart == 20)
    assert len(np.unique(found)) == (1000 if apart == 20 else 2000)


def test_merging_on_the_way_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large sets of near hashes, and some that are near none, in the smallest steps."""
    monkeypatch.setattr(hamming, "_NEAR_AT_ONCE", 50)
    monkeypatch.setattr(hamming, "_PAIRS_AT_ONCE", 700)
    drawn = np.random.default_rng(1)
    for share in (0.0, 0.1, 0.5):
        bits = (drawn.random((3, 256)) < 0.5)[drawn.integers(0, 3, 300)] ^ (drawn.random((300, 256)) < 0.04)
        alone = drawn.random(300) < share
        bits[alone] = drawn.random((int(alone.sum()), 256)) < 0.5
        for limit in (12, 20):
            assert_exact(packed(bits), limit)


def test_25000_images_in_seconds() -> None:
    bits = np.random.default_rng(0).random((25_331, 256)) < np.repeat([0.05, 0.5], [64, 192])
    bits[1000:2000] = bits[:1000]
    bits[1000:2000, 100:110] ^= True
    start = time.process_time()
    found = near_components(packed(bits), 20)
    assert time.process_time() - start < 10
    np.testing.assert_array_equal(found[1000:2000], found[:1000])
    assert len(np.unique(found)) == 24_331


def test_20000_of_one_component_are_not_compared_pair_by_pair() -> None:
    drawn = np.random.default_rng(0)
    bits = np.broadcast_to(drawn.random(256) < 0.5, (20_000, 256)) ^ (drawn.random((20_000, 256)) < 0.03)
    start = time.process_time()
    assert len(np.unique(near_components(packed(bits), 20))) == 1
    assert time.process_time() - start < 5
