"""Arrays on disk under a budget, built by several processes at once."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.stored import ARRAY, built, only_builder

KEYS, SIZE, ROUNDS = 8, 1 << 16, 100
BUDGET = 5 * SIZE // 2  # two arrays of eight


def _taken(home: Path) -> int:
    """Bytes of the arrays that are there, half-built ones too."""
    total = 0
    for file in list(home.glob(f"*/{ARRAY}")):
        with suppress(FileNotFoundError):  # got its own name meanwhile
            total += file.stat().st_size
    return total


def _work(home: Path, seed: int, start: Any, found: Any) -> None:
    """Asks for arrays in an order of its own, each of which holds its own number."""
    told = {"wrong": 0, "none": 0, "built": 0, "most": 0}
    start.wait()
    for number in np.random.default_rng(seed).integers(0, KEYS, ROUNDS).tolist():

        def fill(array: np.memmap, number: int = number) -> None:
            told["built"] += 1
            array[: SIZE // 2] = number
            with only_builder(home, "room"):  # nobody takes or makes room meanwhile
                told["most"] = max(told["most"], _taken(home))
            time.sleep(0.001)
            array[SIZE // 2 :] = number

        array = built(home, f"key{number}", (SIZE,), np.dtype(np.uint8), fill, BUDGET)
        told["none"] += array is None
        told["wrong"] += array is not None and bool((array != number).any())
    found.put(told)


def test_two_processes_stay_under_one_budget(tmp_path: Path) -> None:
    """They drive each other's arrays out, and neither takes more than there is room for, nor is given wrong numbers."""
    spawn = multiprocessing.get_context("spawn")
    start, found = spawn.Event(), spawn.Queue()
    both = [spawn.Process(target=_work, args=(tmp_path / "kept", seed, start, found)) for seed in range(2)]
    for process in both:
        process.start()
    start.set()
    told = [found.get(timeout=120) for _ in both]
    for process in both:
        process.join()
    assert all(one["built"] > KEYS for one in told), "what was driven out is built again"
    assert 2 * SIZE <= max(one["most"] for one in told) <= BUDGET
    assert not any(one["wrong"] or one["none"] for one in told), told
