"""How much too good the best of many trials is: its value corrected by what was left out when the best was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.record import State, Trial, best
from spaces.config import Direction
from trainables.metrics import Over, Undefined
from trainables.predictions import Predictions
from trainables.selection import Corrected, corrected_best
from trainables.trial_files import PREDICTIONS, trial_folder


def corrections(
    search: Path, trials: Sequence[Trial], direction: Direction, metric: str, wanted: Sequence[int], over: Over = None
) -> dict[int, Corrected | str]:
    """What trials are worth that were chosen as the best of all, or as the best of their backbone.

    Args:
        wanted: their numbers.
        Others: as for `corrected_value`.

    Returns:
        By number, `corrected_value` among those that a trial was chosen from; or, as a clause, why there is none.
    """
    found: dict[int, Corrected | str] = {}
    for number in wanted:
        of_backbone = [t for t in trials if t.point["backbone"] == trials[number].point["backbone"]]
        if best(trials, direction) is trials[number]:
            found[number] = corrected_value(search, trials, metric, over)
        elif best(of_backbone, direction) is not trials[number]:
            found[number] = "it was the best neither of all trials nor of its backbone"
        elif sum(t.state is State.COMPLETE for t in of_backbone) < 2:
            found[number] = "there are fewer than two complete trials of its backbone, whose best it was"
        else:
            found[number] = corrected_value(search, of_backbone, metric, over)
    return found


def corrected_value(
    search: Path, trials: Sequence[Trial], metric: str, over: Over = None, resamples: int = 1000
) -> Corrected | str:
    """Bootstrap bias-corrected selection (trainables.selection) over the validation predictions of complete trials.

    Args:
        search: folder of the search.
        trials: its record.
        over: numbers of the classes that the metric is averaged over; None is all.

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
        except (OSError, ValueError):
            return f"the validation predictions of trial {trial.number} are missing or damaged"
    first = kept[0]
    folds = first.fold if first.fold.any() else None
    try:
        return corrected_best(
            metric,
            first.truth,
            [p.counted for p in kept],
            first.groups,
            classes=first.probabilities.shape[1],
            over=over,
            folds=folds,
            resamples=resamples,
        )
    except Undefined as reason:
        return str(reason)
