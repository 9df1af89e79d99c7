"""Predictions on disk: read back as they were, and damaged ones known as such, whatever NumPy and zipfile say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainables.predictions import Predictions, read_arrays


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """In the first array."""
    return data[:300] + bytes([data[300] ^ 0xFF]) + data[301:]


def empty(data: bytes) -> bytes:
    return b""


DAMAGES = [truncated, flipped, empty]


def some() -> Predictions:
    random = np.random.default_rng(0)
    p = random.random((40, 3)).astype(np.float32)
    return Predictions(p, random.integers(0, 3, 40), np.arange(40), np.zeros(40, np.int64), np.stack([p, p]))


def test_read_back(tmp_path: Path) -> None:
    some().save(tmp_path / "a.npz")
    for name, values in vars(Predictions.load(tmp_path / "a.npz")).items():
        np.testing.assert_array_equal(values, getattr(some(), name))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "a.npz"
    some().save(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"^a\.npz: damaged"):
        Predictions.load(file)


def test_a_byte_flipped_anywhere_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    """Bytes that nothing is read from (times, permissions) may change."""
    file, before = tmp_path / "a.npz", some()
    before.save(file)
    data, refused = file.read_bytes(), 0
    for at in range(0, len(data), 3):
        file.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            after = Predictions.load(file)
        except ValueError:
            refused += 1
            continue
        for name, values in vars(after).items():
            np.testing.assert_array_equal(values, getattr(before, name))
    assert refused > len(data) / 6


def test_what_is_missing_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "a.npz")
    some().save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz: damaged \(KeyError\)"):
        read_arrays(tmp_path / "a.npz", ["labels"])
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy: damaged"):
        read_arrays(tmp_path / "one.npy", ["truth"])
