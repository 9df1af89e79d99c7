"""Predictions of units on disk: probabilities, truth, and which units are of one group; no names of images or
patients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.files import replacing


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of U units, in the order of the prepared dataset's rows, fold by fold."""

    probabilities: np.ndarray
    """float32 [U, classes]."""
    truth: np.ndarray
    """int64 [U]; of findings float32 [U, classes] with 0, 1 and NaN (not scored)."""
    groups: np.ndarray
    """int64 [U], numbers of groups."""
    fold: np.ndarray
    """int64 [U], in which fold a unit was validated."""

    def save(self, path: Path) -> None:
        with replacing(path) as file:
            np.savez(file, **{**vars(self), "probabilities": self.probabilities.astype(np.float32)})

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """What `save` wrote.

        Raises:
            OSError, ValueError, KeyError: not there, or damaged.
        """
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{name: saved[name] for name in cls.__dataclass_fields__})


def numbers_of(groups: np.ndarray) -> np.ndarray:
    """Groups [U] as numbers, in the order of their names."""
    return np.unique(groups, return_inverse=True)[1]
