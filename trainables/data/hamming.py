"""Which of many hashes are near one another, found without comparing all pairs."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_KEY_BITS = 62  # of a band that are compared, for a key to be a positive int64
_LEAST = 256  # hashes compared at once: hashes of fewer keys cost less to compare than to tell apart
_ROWS_AT_ONCE = 1 << 16  # whose bits are unpacked
_PAIRS_AT_ONCE = 1 << 18  # compared: what fits into a processor's cache
_NEAR_AT_ONCE = 1 << 20  # near pairs that are kept before they are merged into components
_FEW = 1 / 16  # share of pairs below which those left are looked at one by one


def near_components(hashes: np.ndarray, limit: int) -> np.ndarray:
    """Numbers of the connected components of hashes that differ in at most `limit` bits: exactly those that comparing
    all pairs would give.

    The bits are dealt out to `limit + 1` bands. Two hashes that differ in at most `limit` bits have a band in which
    they don't differ at all (Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing, 2012),
    so that only hashes of the same band are compared. Where the hashes are so much alike that this makes more pairs
    than there are, all are compared once. Memory grows with N, not with the number of pairs.

    Args:
        hashes: [N, W] uint64.

    Returns:
        [N] int64, 0 to the number of components - 1.
    """
    if not len(hashes):
        return np.zeros(0, dtype=np.int64)
    distinct, of_hash = np.unique(hashes, axis=0, return_inverse=True)
    distinct = _most_even_bits_first(distinct)
    components = _Components(np.ascontiguousarray(distinct.T), limit)
    for key in _keys(distinct, limit):
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order])) + 1
        for members in np.split(order, starts[np.diff(starts // _LEAST, prepend=0) > 0]):
            components.join_near(members)
    return np.unique(components.of_hash(), return_inverse=True)[1][of_hash.reshape(-1)].astype(np.int64)


class _Components:
    """Joins near hashes, some at a time."""

    def __init__(self, words: np.ndarray, limit: int) -> None:
        """`words`: [W, N] uint64."""
        self.words = words
        self.limit = limit
        self._component = np.arange(words.shape[1])
        self._pending: list[np.ndarray] = []  # [2, .] int64 each, pairs that aren't merged yet
        self._waiting = 0

    def of_hash(self) -> np.ndarray:
        """[N] int64."""
        self._merge()
        return self._component

    def join_near(self, members: np.ndarray) -> None:
        """Compares all pairs of some hashes, but for those that are known to be of one component.

        Args:
            members: [M] int64.
        """
        while len(members) > 1:
            members, others = self._largest_last(members)
            start, merged = 0, False
            while start < others and not merged:
                rows = max(1, _PAIRS_AT_ONCE // (len(members) - start))
                merged = self._keep(self._near(members[start : min(start + rows, others)], members[start:]))
                start += rows
            if start >= others:
                return
            members = members[start:]  # more may be of one component now

    def _largest_last(self, members: np.ndarray) -> tuple[np.ndarray, int]:
        """The members with those of their largest component last, and how many others there are."""
        names, component, counts = np.unique(self._component[members], return_inverse=True, return_counts=True)
        if len(names) == len(members):
            return members, len(members)
        largest = component == counts.argmax()
        return np.concatenate([members[~largest], members[largest]]), int(len(members) - counts.max())

    def _near(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """[2, .] int64: pairs at most `limit` bits apart. Words are looked at for as long as they matter."""
        apart = np.bitwise_count(self.words[0, rows, None] ^ self.words[0, columns])
        near, done = apart <= self.limit, 1
        while done < len(self.words) and np.count_nonzero(near) > _FEW * near.size:
            word = self.words[done]
            apart = apart.astype(np.uint16) + np.bitwise_count(word[rows, None] ^ word[columns])
            near, done = apart <= self.limit, done + 1
        row, column = np.nonzero(near)
        left, first, second = apart[row, column].astype(np.uint16), rows[row], columns[column]
        for word in self.words[done:]:
            left += np.bitwise_count(word[first] ^ word[second])
            near = left <= self.limit
            left, first, second = left[near], first[near], second[near]
        return np.stack([first, second])

    def _keep(self, pairs: np.ndarray) -> bool:
        """Whether it was time to merge them."""
        first, second = self._component[pairs]
        new = first != second
        if new.any():
            self._pending.append(pairs[:, new])
            self._waiting += int(new.sum())
        if self._waiting < _NEAR_AT_ONCE:
            return False
        self._merge()
        return True

    def _merge(self) -> None:
        if not self._pending:
            return
        first, second = self._component[np.concatenate(self._pending, axis=1)]
        shape = (len(self._component), len(self._component))
        graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=shape)
        self._component = connected_components(graph, directed=False)[1].astype(np.int64)[self._component]
        self._pending, self._waiting = [], 0


def _most_even_bits_first(hashes: np.ndarray) -> np.ndarray:
    """[N, W] uint64: the same hashes with their bits in another order, those first that divide them most evenly, so
    that the first word tells most pairs apart."""
    ones = np.zeros(64 * hashes.shape[1], dtype=np.int64)
    for start in range(0, len(hashes), _ROWS_AT_ONCE):
        ones += _bits(hashes[start : start + _ROWS_AT_ONCE]).sum(axis=0, dtype=np.int64)
    order = np.argsort(np.abs(2 * ones - len(hashes)), kind="stable")
    found = np.empty_like(hashes)
    for start in range(0, len(hashes), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        found[some] = np.packbits(np.ascontiguousarray(_bits(hashes[some])[:, order]), axis=1).view(np.uint64)
    return found


def _bits(hashes: np.ndarray) -> np.ndarray:
    """[N, 64 W] uint8 of [N, W] uint64."""
    return np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1)


def _keys(hashes: np.ndarray, limit: int) -> list[np.ndarray]:
    """Each [N] int64: hashes are compared where they have the same key. Each band has its share of the even bits."""
    width, count = 64 * hashes.shape[1], len(hashes)
    bands = [range(band, width, limit + 1)[:_KEY_BITS] for band in range(limit + 1)]
    keys = [np.zeros(count, dtype=np.int64) for _ in bands]
    for start in range(0, count, _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        bits = np.ascontiguousarray(_bits(hashes[some]).T)
        for key, band in zip(keys, bands, strict=True):
            for bit in band:
                key[some] = 2 * key[some] + bits[bit]
    pairs = sum(int((np.unique(key, return_counts=True)[1] ** 2).sum()) for key in keys)
    return keys if pairs < count * count else [np.zeros(count, dtype=np.int64)]
