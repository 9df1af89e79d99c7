"""Which metrics make sense for which task: names alone, so that whoever only asks doesn't wait for scikit-learn."""

from __future__ import annotations

from spaces.config import METRICS
from trainables.data.manifest import Task

RANKED = frozenset({"macro_auroc", "macro_average_precision"})
"""Metrics of each class against the rest: they need no threshold, make sense in multi-label, and take `over`."""
PROPER = ("log_loss", "brier")
"""Scores that are best, 0, for the true probabilities alone."""


def metrics_for(task: Task) -> tuple[str, ...]:
    """The metrics of `spaces.config.METRICS` that make sense for a task."""
    if task == "multilabel":
        return tuple(name for name in METRICS if name in RANKED)
    return tuple(name for name in METRICS if name != "quadratic_weighted_kappa" or task == "ordinal")
