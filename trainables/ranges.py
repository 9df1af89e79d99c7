"""In which range a metric lies, and intervals that stay in it."""

from __future__ import annotations

import math

RANGES = {
    "accuracy": (0.0, 1.0),
    "balanced_accuracy": (0.0, 1.0),
    "macro_auroc": (0.0, 1.0),
    "macro_average_precision": (0.0, 1.0),
    "quadratic_weighted_kappa": (-1.0, 1.0),
    "macro_f1": (0.0, 1.0),
}
"""Lowest and highest value of each metric."""


def within_range(metric: str, value: float, half: float) -> tuple[float, float]:
    """Ends of an interval that is symmetric in the log odds of where in its range a metric lies: near an end of the
    range the metric's error is skewed, and an interval symmetric in the metric itself misses on one side."""
    lowest, highest = RANGES[metric]
    share = (value - lowest) / (highest - lowest)
    width = half / (highest - lowest) / (share * (1 - share))
    log_odds = math.log(share / (1 - share))
    low, high = ((1 + math.tanh((log_odds + shift) / 2)) / 2 for shift in (-width, width))
    return lowest + (highest - lowest) * low, lowest + (highest - lowest) * high
