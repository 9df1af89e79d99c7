"""The backbones of a search by their best trials, and which of them validation can't tell from the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.record import State, Trial, best
from spaces.config import Direction
from trainables.comparison import AgainstBest, comparison_with_best
from trainables.metrics import Over, Undefined
from trainables.predictions import Predictions
from trainables.trial_files import PREDICTIONS, trial_folder

RESAMPLES = 4000


@dataclass(frozen=True)
class Leader:
    """A backbone's row of the leaderboard."""

    backbone: str
    weights: str
    best: Trial | None
    trials: int
    complete: int
    epochs: int
    seconds: float
    mean: float | None
    """Of the values of complete trials."""
    sd: float | None
    """None with fewer than two."""


def leaderboard(
    trials: Sequence[Trial], backbones: Sequence[str], direction: Direction, weights: dict[str, str]
) -> list[Leader]:
    """The backbones by the value of their best complete trial; those without one last."""
    leaders = []
    for backbone in backbones:
        own = [t for t in trials if t.point["backbone"] == backbone]
        values = [t.value for t in own if t.state is State.COMPLETE and t.value is not None]
        leaders.append(
            Leader(
                backbone=backbone,
                weights=weights[backbone],
                best=best(own, direction),
                trials=len(own),
                complete=len(values),
                epochs=sum(len(t.epochs) for t in own),
                seconds=sum(t.seconds for t in own),
                mean=float(np.mean(values)) if values else None,
                sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
            )
        )
    sign = 1 if direction == "maximize" else -1
    return sorted(leaders, key=lambda row: (row.best is None, -sign * (row.best.value or 0.0) if row.best else 0.0))


def told_apart(
    search: Path, leaders: Sequence[Leader], metric: str, direction: Direction, over: Over = None
) -> dict[str, AgainstBest] | str:
    """Each backbone's best trial beside the best of the others, paired over the groups of the validation set
    (trainables.comparison), from the predictions after its last epoch.

    Returns:
        By backbone; or, as a clause, why it can't be told.
    """
    with_best = [(row.backbone, row.best) for row in leaders if row.best is not None]
    if len(with_best) < 2:
        return "fewer than two backbones have a complete trial"
    if direction != "maximize":
        return "the metric is one to be minimised"
    kept: dict[str, Predictions] = {}
    for backbone, trial in with_best:
        try:
            kept[backbone] = Predictions.load(trial_folder(search, trial.number) / PREDICTIONS)
        except (OSError, ValueError):
            return f"the validation predictions of trial {trial.number} are missing or damaged"
    first = next(iter(kept.values()))
    if first.fold.any():
        return "a value over several folds isn't one over all their images"
    try:
        compared = comparison_with_best(
            metric,
            first.truth,
            {name: p.probabilities[None] for name, p in kept.items()},
            first.groups,
            classes=first.probabilities.shape[1],
            over=over,
            resamples=RESAMPLES,
        )
    except Undefined as reason:
        return str(reason)
    if compared.recipes[0].low is None:
        return compared.warnings[-1]
    return {row.name: row for row in compared.recipes}
