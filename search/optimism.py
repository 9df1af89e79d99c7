"""How much too good the best of many trials is: its value corrected by what was left out when the best was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from search.record import State, Trial
from trainables.job import PREDICTIONS, trial_folder
from trainables.metrics import Undefined
from trainables.predictions import Predictions
from trainables.selection import Corrected, corrected_best


def corrected_value(search: Path, trials: Sequence[Trial], metric: str, resamples: int = 1000) -> Corrected | str:
    """Bootstrap bias-corrected selection (trainables.selection) over the validation predictions of complete trials.

    Args:
        search: folder of the search.
        trials: its record.

    Returns:
        The corrected value of the best; or, as a clause, why it can't be had.
    """
    complete = [t for t in trials if t.state is State.COMPLETE]
    if len(complete) < 2:
        return "there are fewer than two complete trials"
    kept: list[Predictions] = []
    for trial in complete:
        try:
            kept.append(Predictions.load(trial_folder(search, trial.number) / PREDICTIONS))
        except (OSError, ValueError, KeyError):
            return f"the validation predictions of trial {trial.number} are missing or damaged"
    first = kept[0]
    folds = first.fold if first.fold.any() else None
    try:
        return corrected_best(
            metric,
            first.truth,
            np.stack([p.probabilities for p in kept]),
            first.groups,
            classes=first.probabilities.shape[1],
            folds=folds,
            resamples=resamples,
        )
    except Undefined as reason:
        return str(reason)
