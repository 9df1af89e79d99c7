"""How far each group of the validation set moves a trial's scores, kept by epoch in the trial's folder: what the
standard error of a difference between two trials on the same groups is computed from.

A table of float32 [epochs, scores, groups], NaN where an epoch isn't done or a score isn't defined. A row is written
before its epoch is told; one that is lost with its machine is only missed in a comparison, and no result rests on it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from trainables.files import replacing

FILE = "influence.npy"
TEMPERED = "tempered_log_loss"  # among an epoch's metrics, the second score's name
METRIC, PROPER = 0, 1
"""Scores: the search's metric, and the log loss at the temperature that suits the validation set best."""


def keep(folder: Path, epoch: int, epochs: int, of_groups: np.ndarray) -> None:
    """Writes the row of an epoch, from 1, of so many; `of_groups` as `intervals.influence` gives it, [scores, G]."""
    path, row = folder / FILE, of_groups.astype(np.float32)
    if _shape(path) != (epochs, *row.shape):
        table = io.BytesIO()  # where NumPy writes into a file itself, its error doesn't say that the disk is full
        np.save(table, np.full((epochs, *row.shape), np.nan, np.float32))
        with replacing(path) as file:
            file.write(table.getbuffer())
    with path.open("r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek((epoch - 1) * row.nbytes, 1)
        file.write(row.tobytes())


def paired_error(pairs: Iterable[tuple[Path, Path]], score: int, epochs: Sequence[int]) -> float | None:
    """Standard error of the difference between two trials' scores: the means over some epochs, and over folds.

    Args:
        pairs: for each fold, the two trials' folders; different folds have no group in common.
        score: `METRIC` or `PROPER`.
        epochs: of each fold, from 1.

    Returns:
        In the score's unit; None where it can't be known: a table or a row is missing, or they are of other groups.
    """
    variances = []
    for a, b in pairs:
        mine, other = (_mean(folder / FILE, score, epochs) for folder in (a, b))
        if mine is None or other is None or mine.shape != other.shape:
            return None
        groups = len(mine)
        variances.append(float(np.square(mine - other).sum()) / (groups * (groups - 1)) if groups > 1 else math.nan)
    found = math.sqrt(sum(variances)) / len(variances)
    return found if math.isfinite(found) else None


def _mean(path: Path, score: int, epochs: Sequence[int]) -> np.ndarray | None:
    """Mean over epochs of what groups do to a score, float64 [G]."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        return table[[epoch - 1 for epoch in epochs], score].mean(axis=0, dtype=np.float64)
    except (OSError, EOFError, ValueError, IndexError):
        return None


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, EOFError, ValueError):
        return None
