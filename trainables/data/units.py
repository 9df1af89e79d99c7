"""What is reported on: predictions of several images (the views of a breast or a study) become one before scoring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spaces.strict import digest
from trainables.data.manifest import Combine, Manifest


@dataclass(frozen=True, eq=False)
class Units:
    """Units of some rows, in the order in which they first occur. N rows, U units, L classes."""

    of_row: np.ndarray
    """[N] int64, number of the row's unit."""
    truth: np.ndarray
    """[U] int64 class, or [U, L] float32 with 0, 1 and NaN (not scored)."""
    groups: np.ndarray
    """[U] str, whom each unit belongs to."""
    combine: Combine
    attributes: dict[str, np.ndarray]
    """Each [U] str: that of the unit's rows, "" where they differ."""

    def __len__(self) -> int:
        return len(self.groups)

    def combined(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [..., U, L] of units from those of rows [..., N, L]: their mean or their maximum."""
        if len(self) == len(self.of_row):  # each row is a unit, in the same order
            return probabilities
        rows = np.moveaxis(probabilities, -2, 0)
        order = np.argsort(self.of_row, kind="stable")
        starts = np.searchsorted(self.of_row[order], np.arange(len(self)))
        if self.combine == "max":
            units = np.maximum.reduceat(rows[order], starts, axis=0)
        else:
            counts = np.bincount(self.of_row).reshape(-1, *[1] * (rows.ndim - 1))
            units = np.add.reduceat(rows[order], starts, axis=0) / counts
        return np.moveaxis(units, 0, -2).astype(probabilities.dtype)

    def digest(self) -> str:
        """SHA-256 of what is scored: which rows make a unit, how, and its truth."""
        truth = np.where(np.isnan(self.truth), -1, self.truth) if self.truth.ndim == 2 else self.truth
        return digest([self.of_row.tolist(), truth.tolist(), self.combine])


@dataclass(frozen=True)
class Scored:
    """What there is to score of one class or finding."""

    positive: int
    """Units that have it."""
    negative: int
    """Units that don't."""
    groups: int
    """Groups with a unit that has it."""


def scored(manifest: Manifest) -> dict[str, Scored]:
    """By class, what a part of a dataset can be evaluated on."""
    units = units_of(manifest)
    truth = units.truth
    if truth.ndim == 1:
        truth = (truth[:, None] == np.arange(len(manifest.classes))).astype(np.float32)
    return {
        name: Scored(
            positive=int((truth[:, i] == 1).sum()),
            negative=int((truth[:, i] == 0).sum()),
            groups=len(np.unique(units.groups[truth[:, i] == 1])),
        )
        for i, name in enumerate(manifest.classes)
    }


def units_of(manifest: Manifest) -> Units:
    """The units of a manifest's rows."""
    _, first, unit = np.unique(manifest.units, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # by name -> by first occurrence
    of_row, first = rank[unit], np.sort(first)
    attributes = {}
    for name, values in manifest.attributes.items():
        differs = np.zeros(len(first), dtype=bool)
        np.logical_or.at(differs, of_row, values != values[first][of_row])
        attributes[name] = np.where(differs, "", values[first])
    return Units(of_row, manifest.truth[first], manifest.groups[first], manifest.combine, attributes)
