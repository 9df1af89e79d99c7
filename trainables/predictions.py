"""Predictions of units on disk: probabilities, truth, and which units are of one group; no names of images or
patients."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    earlier: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.float32))
    """float32 [E, U, classes]: as `probabilities`, of the epochs before the last whose values count as much as the
    last one's; none where the last epoch alone counts."""

    @property
    def counted(self) -> np.ndarray:
        """float32 [E + 1, U, classes]: of all epochs that count, the last one last."""
        return (
            np.concatenate([self.earlier, self.probabilities[None]]) if len(self.earlier) else self.probabilities[None]
        )

    def save(self, path: Path) -> None:
        with replacing(path) as file:
            floats = {name: getattr(self, name).astype(np.float32) for name in ("probabilities", "earlier")}
            np.savez(file, **{**vars(self), **floats})

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """What `save` wrote.

        Raises:
            OSError: it can't be read.
            ValueError: it is damaged.
        """
        return cls(**read_arrays(path, list(cls.__dataclass_fields__)))


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a NumPy archive (.npz), by their names.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or lacks one of them.
    """
    data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            return {name: saved[name] for name in names}
    except Exception as error:  # NumPy and zipfile have many of them: BadZipFile, EOFError, KeyError, OSError, ...
        raise ValueError(f"{path.name}: damaged ({type(error).__name__})") from error


def numbers_of(groups: np.ndarray) -> np.ndarray:
    """Groups [U] as numbers, in the order of their names."""
    return np.unique(groups, return_inverse=True)[1]
