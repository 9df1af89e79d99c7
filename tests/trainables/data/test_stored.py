"""Stored arrays where things go wrong: a full disk, and other processes that make room meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainables.data import stored
from trainables.data.stored import built, make_room


def numbers(array: np.memmap) -> None:
    array[:] = np.arange(len(array))


def test_a_disk_that_is_full_before_anything_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            built(tmp_path, "key", (10,), np.dtype(np.float32), numbers, budget=1000)
    assert {entry.suffix for entry in tmp_path.iterdir()} == {".lock"}
    array = built(tmp_path, "key", (10,), np.dtype(np.float32), numbers, budget=1000)
    assert array is not None and array.tolist() == list(range(10))


def test_what_another_process_removes_meanwhile_makes_room_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b"):
        built(tmp_path, key, (10,), np.dtype(np.float32), numbers)
    size_of = stored._size

    def removed_then(folder: Path) -> int:
        size = size_of(folder)
        if folder.name == "a":
            shutil.rmtree(folder)
        return size

    monkeypatch.setattr(stored, "_size", removed_then)
    assert make_room(tmp_path, needed=500, budget=1000)
    assert not (tmp_path / "a").exists()
