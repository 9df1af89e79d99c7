"""Who goes on and who stops: a pure function of the record.

Asynchronous successive halving (Li et al. 2020) over epochs: at a rung a trial goes on if its score is among the best
1/eta of those that have reached the rung with the same key, or so near to them that the difference could be noise. A
score is the mean over the last three epochs, as a trial's value is. Trials are compared with those of the same number
of trained blocks only: heads alone converge fast and would push deeper fine-tuning out at the early rungs. Where
backbones are compared, also with those of the same backbone only: each is to be judged by its own best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.record import State, Trial
from spaces.config import Direction, StoppingConfig, Strategy

LAST = 3


@dataclass(frozen=True)
class Decision:
    go_on: bool
    cause: str = ""


def rung_epochs(epochs: int, stopping: StoppingConfig, folds: int = 1) -> tuple[int, ...]:
    """Epochs after which trials are compared: from `grace` on, each `eta` times the one before, without the last. With
    several folds, after each fold but the last: within one, a few epochs would speak for all."""
    if stopping.rule == "off":
        return ()
    if folds > 1:
        return tuple(epochs * fold for fold in range(1, folds))
    rungs, rung = [], max(1, math.ceil(epochs * stopping.grace))
    while rung < epochs:
        rungs.append(rung)
        rung *= stopping.eta
    return tuple(rungs)


def key(trial: Trial, strategy: Strategy = "free") -> str:
    """Trials of one key are compared with each other; a clause that says what they share."""
    blocks = f"{trial.point.get('trained_blocks', 0)} trained blocks"
    return f"{trial.point['backbone']} and {blocks}" if strategy == "compare" else blocks


def score(trial: Trial, epoch: int, of_fold: int) -> float | None:
    """The metric up to an epoch, smoothed; with several folds of `of_fold` epochs each, the mean over those that are
    complete. None where it was never defined."""
    if epoch <= of_fold:
        values = trial.values(up_to=epoch)
        return float(np.mean(values[-LAST:])) if values else None
    ends = range(of_fold, epoch + 1, of_fold)
    by_fold = [[e.value for n, e in trial.epochs.items() if end - LAST < n <= end] for end in ends]
    defined = [[value for value in values if value is not None] for values in by_fold]
    means = [float(np.mean(values)) for values in defined if values]
    return float(np.mean(means)) if means else None


def decide(
    trials: Sequence[Trial],
    number: int,
    epoch: int,
    *,
    epochs: int,
    stopping: StoppingConfig,
    direction: Direction,
    strategy: Strategy = "free",
    folds: int = 1,
) -> Decision:
    """Whether trial `number` goes on after `epoch`.

    Args:
        trials: the record, with this epoch in it.
        epochs: of a trial that isn't stopped, in each of its folds.
    """
    if epoch not in rung_epochs(epochs, stopping, folds):
        return Decision(True)
    trial, shared = trials[number], key(trials[number], strategy)
    sign = 1.0 if direction == "maximize" else -1.0
    # Failed and cancelled trials say nothing about quality.
    peers = [
        t
        for t in trials
        if epoch in t.epochs and key(t, strategy) == shared and t.state in (State.RUNNING, State.COMPLETE, State.PRUNED)
    ]
    if len(peers) < stopping.eta:
        return Decision(True)

    def merit(other: Trial) -> float:
        """Higher is better; a metric that isn't defined is worse than any value."""
        value = score(other, epoch, epochs)
        return -math.inf if value is None else sign * value

    ranked = sorted(peers, key=merit, reverse=True)
    places = max(1, len(ranked) // stopping.eta)
    last_in = ranked[places - 1]
    noise = last_in.epochs[epoch].standard_error or 0.0
    if merit(trial) >= merit(last_in) - noise:
        return Decision(True)
    own, needed = (_shown(score(one, epoch, epochs)) for one in (trial, last_in))
    return Decision(
        False,
        f"after epoch {epoch} its score was {own}, the best {places} of {len(ranked)} with {shared} had {needed} or "
        "better",
    )


def _shown(score: float | None) -> str:
    return "not defined" if score is None else f"{score:.4f}"
