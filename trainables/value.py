"""A trial's value, from the values of its epochs (which ones: the statistics of a maximum over noise decide)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spaces.config import METRICS, TrialConfig
from trainables.causes import Infeasible

LAST = 3  # epochs that a value without an average is the mean of


def counted_epochs(config: TrialConfig) -> int:
    """Epochs, up to the last, whose values a trial's value is the mean of."""
    return 1 if config.ema or config.value == "best" else LAST


def stacked(earlier: Sequence[np.ndarray], like: np.ndarray) -> np.ndarray:
    """Predictions [E, U, classes] of several epochs, each like the given one, or of none."""
    return np.stack(earlier) if earlier else np.empty((0, *like.shape), like.dtype)


def trial_value(config: TrialConfig, values: Sequence[float | None]) -> float:
    """A trial's value after these epochs: the last epoch's with an average of weights, else the mean of the last three.

    The best epoch's, which is a second maximum over noise and favours long trials, only where the configuration says
    so.

    Raises:
        Infeasible: the metric isn't defined after one of the epochs that count, or after none.
    """
    if config.value == "best":
        known = [value for value in values if value is not None]
        if not known:
            raise Infeasible(f"{config.metric} isn't defined on the validation set after any epoch")
        return max(known) if METRICS[config.metric] == "maximize" else min(known)
    counted = values[-counted_epochs(config) :]
    defined = [value for value in counted if value is not None]
    if len(defined) < len(counted):
        raise Infeasible(f"{config.metric} isn't defined on the validation set after the last epochs")
    return float(np.mean(defined))
