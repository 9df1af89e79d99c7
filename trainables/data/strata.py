"""What a row counts as where rows are dealt out by class: its class, or the rarest of its findings."""

from __future__ import annotations

import numpy as np


def strata_of(labels: np.ndarray) -> np.ndarray:
    """[N] int64: the class of labels [N]; of findings [N, L], 1 + the rarest one that a row has, or 0 for none."""
    if labels.ndim == 1:
        return labels.astype(np.int64)
    present = labels == 1
    by_rarity = np.argsort(present.sum(axis=0), kind="stable")
    ranked = present[:, by_rarity]
    return np.where(ranked.any(axis=1), by_rarity[ranked.argmax(axis=1)] + 1, 0).astype(np.int64)
