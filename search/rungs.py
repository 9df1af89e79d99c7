"""Who goes on and who stops: a pure function of the record.

Asynchronous successive halving (Li et al. 2020) over epochs: at a rung a trial goes on if its score is among the best
1/eta of those that have reached the rung with the same key, or within a standard error of them. The score is the log
loss (`trainables.loop.tempered_log_loss`), which tells more about a model than a metric of its decisions does, where
all of them offer it and learned alike; else the search's metric. It is the mean over the last three epochs, as a
trial's value is. The standard error is that of the difference, paired over the groups of the validation set, from what
the two trials kept in their folders; where a folder lacks it, the metric decides, with its own standard error, which is
larger as a rule. Trials are compared with those of the same number
of trained blocks only: heads alone converge fast and would push deeper fine-tuning out at the early rungs. Where
backbones are compared, also with those of the same backbone only: each is to be judged by its own best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np

from search.record import Epoch, State, Trial
from spaces.config import Direction, StoppingConfig, Strategy
from trainables import influence
from trainables.folds import fold_folder
from trainables.influence import paired_error
from trainables.loop import TEMPERED
from trainables.trials import trial_folder

LAST = 3
ALIKE = ("loss", "class_weights", "logit_adjustment", "sampling", "uncertain", "blank")
"""Dimensions that decide which frequencies of classes a trial's probabilities are for: where they differ, its log loss
says nothing beside another's."""


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


def score(trial: Trial, epoch: int, of_fold: int, proper: bool = False) -> float | None:
    """The metric up to an epoch, or the log loss, smoothed; with several folds of `of_fold` epochs each, the mean over
    those that are complete. None where it was never defined."""
    if epoch <= of_fold:
        values = list(islice(_defined_before(trial, epoch, proper), LAST))
        return fmean(values) if values else None
    ends = range(of_fold, epoch + 1, of_fold)
    by_fold = [[_value(e, proper) for n, e in trial.epochs.items() if end - LAST < n <= end] for end in ends]
    defined = [[value for value in values if value is not None] for values in by_fold]
    means = [float(np.mean(values)) for values in defined if values]
    return float(np.mean(means)) if means else None


def _value(epoch: Epoch, proper: bool) -> float | None:
    return epoch.metrics.get(TEMPERED) if proper else epoch.value


def _defined_before(trial: Trial, epoch: int, proper: bool) -> Iterator[float]:
    """The score from an epoch back to the first, where it is defined. Only what is asked for is looked at: every rung
    asks this of every trial."""
    for number in range(epoch, 0, -1):
        reached = trial.epochs.get(number)
        value = _value(reached, proper) if reached is not None else None
        if value is not None:
            yield value


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
    search: Path | None = None,
) -> Decision:
    """Whether trial `number` goes on after `epoch`.

    Args:
        trials: the record, with this epoch in it.
        epochs: of a trial that isn't stopped, in each of its folds.
        search: the search's folder, with what trials kept of their epochs; None where there is none.
    """
    if epoch not in rung_epochs(epochs, stopping, folds):
        return Decision(True)
    trial, shared = trials[number], key(trials[number], strategy)
    # Failed and cancelled trials say nothing about quality.
    peers = [
        t
        for t in trials
        if epoch in t.epochs and key(t, strategy) == shared and t.state in (State.RUNNING, State.COMPLETE, State.PRUNED)
    ]
    if len(peers) < stopping.eta:
        return Decision(True)
    places = max(1, len(peers) // stopping.eta)
    rung = _Rung(peers, places, shared, epoch, epochs, folds, direction, search)
    return rung.judge(trial, proper=search is not None and _comparable(peers, epoch))


@dataclass(frozen=True)
class _Rung:
    """Trials that are compared with each other after an epoch."""

    trials: Sequence[Trial]
    places: int
    shared: str
    epoch: int
    of_fold: int
    folds: int
    direction: Direction
    search: Path | None

    def judge(self, trial: Trial, proper: bool) -> Decision:
        """Whether one of them goes on: by the log loss, if its error is known, or by the metric."""

        def merit(other: Trial) -> float:
            """Higher is better; a score that isn't defined is worse than any value."""
            value = score(other, self.epoch, self.of_fold, proper)
            lower = proper or self.direction == "minimize"
            return -math.inf if value is None else -value if lower else value

        last_in = sorted(self.trials, key=merit, reverse=True)[self.places - 1]
        if merit(trial) >= merit(last_in):
            return Decision(True)
        paired = self._paired_error(trial, last_in, proper)
        if proper and paired is None:
            return self.judge(trial, proper=False)
        noise = paired if paired is not None else last_in.epochs[self.epoch].standard_error or 0.0
        if merit(trial) >= merit(last_in) - noise:
            return Decision(True)
        name, error = "log loss" if proper else "score", "paired standard error" if paired else "standard error"
        own, needed = (_shown(score(one, self.epoch, self.of_fold, proper)) for one in (trial, last_in))
        return Decision(
            False,
            f"after epoch {self.epoch} its {name} was {own}, the best {self.places} of {len(self.trials)} with "
            f"{self.shared} had {needed} or better, further away than a {error} of {noise:.4f}",
        )

    def _paired_error(self, trial: Trial, other: Trial, proper: bool) -> float | None:
        """Of the difference between two trials' scores."""
        if self.search is None:
            return None
        mine, its = (trial_folder(self.search, one.number) for one in (trial, other))
        complete = self.epoch // self.of_fold if self.folds > 1 else 1
        pairs = [(fold_folder(mine, fold, self.folds), fold_folder(its, fold, self.folds)) for fold in range(complete)]
        last = min(self.epoch, self.of_fold)
        counted = range(max(1, last - LAST + 1), last + 1)
        return paired_error(pairs, influence.PROPER if proper else influence.METRIC, counted)


def _comparable(trials: Sequence[Trial], epoch: int) -> bool:
    """Whether their log losses may be set beside each other: all have one, and learned for the same frequencies."""
    first = [trials[0].point.get(name) for name in ALIKE]
    return all(
        TEMPERED in trial.epochs[epoch].metrics and [trial.point.get(name) for name in ALIKE] == first
        for trial in trials
    )


def _shown(score: float | None) -> str:
    return "not defined" if score is None else f"{score:.4f}"
