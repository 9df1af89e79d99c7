"""Who goes on and who stops: a pure function of the record.

Asynchronous successive halving (Li et al. 2020) over epochs: at a rung a trial goes on if its score is among the best
1/eta of those that have reached the rung with the same key, or within a standard error of them. The score is the log
loss (`trainables.epoch.tempered_log_loss`), which tells more about a model than a metric of its decisions does, where
all of them offer it and learned alike; else the search's metric. It is the mean over the last three epochs, as a
trial's value is. The standard error is that of the difference, paired over the groups of the validation set, from what
the two trials kept in their folders; where a folder lacks it, the metric decides, with its own standard error, which is
larger as a rule. Trials are compared with those of the same number
of trained blocks only: heads alone converge fast and would push deeper fine-tuning out at the early rungs. Where
backbones are compared, also with those of the same backbone only: each is to be judged by its own best.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np

from search.record import Epoch, State, Trial
from spaces.config import Direction, StoppingConfig, Strategy
from trainables import influence
from trainables.influence import TEMPERED, paired_error
from trainables.trial_files import fold_folder, trial_folder

LAST = 3
COMPARED = (State.RUNNING, State.COMPLETE, State.PRUNED)
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
    trained = trial.point.get("trained_blocks", 0)
    blocks = f"{trained} trained block{'' if trained == 1 else 's'}"
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
    """The score from an epoch back to the first, where it is defined."""
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
    """Whether trial `number` goes on after `epoch`: what `Rungs` say of this record.

    Args:
        trials: the record, with this epoch in it.
    """
    made = Rungs(
        trials,
        epochs=epochs,
        stopping=stopping,
        direction=direction,
        strategy=strategy,
        folds=folds,
        search=search,
    )
    return made.decide(trials[number], epoch)


class Rungs:
    """What the trials of a record had at each rung, sorted, so that a decision doesn't look at all of them again.

    Holds nothing that the record doesn't: made of it anew at any time, it decides alike.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        epochs: int,
        stopping: StoppingConfig,
        direction: Direction,
        strategy: Strategy = "free",
        folds: int = 1,
        search: Path | None = None,
    ) -> None:
        """
        Args:
            epochs: of a trial that isn't stopped, in each of its folds.
            search: the search's folder, with what trials kept of their epochs; None where there is none.
        """
        self.of_fold, self.folds, self.stopping, self.search = epochs, folds, stopping, search
        self.direction, self.strategy = direction, strategy
        self.rungs = rung_epochs(epochs, stopping, folds)
        self._peers: dict[tuple[str, int], _Peers] = {}
        for trial in trials:
            self.reached(trial)

    def reached(self, trial: Trial, epoch: int = 0) -> None:
        """Takes in that an epoch of a trial came into the record; by default all that it has."""
        if trial.state not in COMPARED:
            return
        for rung in self.rungs:
            if rung >= epoch and rung in trial.epochs:
                here = key(trial, self.strategy), rung
                self._peers.setdefault(here, _Peers(self.direction)).enter(trial, rung, self.of_fold)

    def ended(self, trial: Trial) -> None:
        """Takes in a trial's end: failed and cancelled ones say nothing about quality."""
        if trial.state in COMPARED:
            return
        for rung in self.rungs:
            if peers := self._peers.get((key(trial, self.strategy), rung)):
                peers.leave(trial.number)

    def decide(self, trial: Trial, epoch: int) -> Decision:
        """Whether a trial that has this epoch in the record goes on after it."""
        if epoch not in self.rungs:
            return Decision(True)
        peers = self._peers[key(trial, self.strategy), epoch]
        if len(peers) < self.stopping.eta:
            return Decision(True)
        return self._judge(trial, epoch, peers, proper=self.search is not None and peers.comparable)

    def _judge(self, trial: Trial, epoch: int, peers: _Peers, proper: bool) -> Decision:
        """By the log loss, if its error is known, or by the metric."""
        places = max(1, len(peers) // self.stopping.eta)
        last_in = peers.ranked(places, proper)
        merit, needed = (peers.merit(one.number, proper) for one in (trial, last_in))
        if merit >= needed:
            return Decision(True)
        paired = self._paired_error(trial, last_in, epoch, proper)
        if proper and paired is None:
            return self._judge(trial, epoch, peers, proper=False)
        noise = paired if paired is not None else last_in.standard_error(self.of_fold, epoch) or 0.0
        if merit >= needed - noise:
            return Decision(True)
        name, error = "log loss" if proper else "score", "paired standard error" if paired else "standard error"
        own, least = (_shown(score(one, epoch, self.of_fold, proper)) for one in (trial, last_in))
        return Decision(
            False,
            f"after epoch {epoch} its {name} was {own}, the best {places} of {len(peers)} with "
            f"{key(trial, self.strategy)} had {least} or better, further away than a {error} of {noise:.4f}",
        )

    def _paired_error(self, trial: Trial, other: Trial, epoch: int, proper: bool) -> float | None:
        """Of the difference between two trials' scores."""
        if self.search is None:
            return None
        mine, its = (trial_folder(self.search, one.number) for one in (trial, other))
        complete = epoch // self.of_fold if self.folds > 1 else 1
        pairs = [(fold_folder(mine, fold, self.folds), fold_folder(its, fold, self.folds)) for fold in range(complete)]
        last = min(epoch, self.of_fold)
        counted = range(max(1, last - LAST + 1), last + 1)
        return paired_error(pairs, influence.PROPER if proper else influence.METRIC, counted)


@dataclass(frozen=True)
class _Entry:
    """A trial at a rung."""

    trial: Trial
    merits: dict[bool, float]
    """By the log loss (True) and by the metric."""
    alike: tuple[object, ...] | None
    """Which frequencies of classes its probabilities are for; None where it told no log loss."""


class _Peers:
    """Trials that are compared with each other after an epoch, sorted by merit: higher is better, a score that isn't
    defined is worse than any value, and of equals the earliest comes first."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self._entries: dict[int, _Entry] = {}
        self._sorted: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
        """By the log loss (True) and by the metric: minus the merit, and the trial's number."""
        self._alike: Counter[tuple[object, ...] | None] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def comparable(self) -> bool:
        """Whether their log losses may be set beside each other: all have one, and learned for the same frequencies."""
        return len(self._alike) == 1 and None not in self._alike

    def enter(self, trial: Trial, epoch: int, of_fold: int) -> None:
        """Takes a trial in, again where what it told has changed."""
        self.leave(trial.number)
        alike = tuple(trial.point.get(name) for name in ALIKE) if TEMPERED in trial.epochs[epoch].metrics else None
        merits = {proper: self._merit(score(trial, epoch, of_fold, proper), proper) for proper in (True, False)}
        self._entries[trial.number] = _Entry(trial, merits, alike)
        self._alike[alike] += 1
        for proper, merit in merits.items():
            insort(self._sorted[proper], (-merit, trial.number))

    def leave(self, number: int) -> None:
        entry = self._entries.pop(number, None)
        if entry is None:
            return
        self._alike -= Counter([entry.alike])  # which drops what nobody has any more
        for proper, merit in entry.merits.items():
            row = self._sorted[proper]
            del row[bisect_left(row, (-merit, number))]

    def merit(self, number: int, proper: bool) -> float:
        return self._entries[number].merits[proper]

    def ranked(self, place: int, proper: bool) -> Trial:
        """Who has a place, counted from 1."""
        return self._entries[self._sorted[proper][place - 1][1]].trial

    def _merit(self, value: float | None, proper: bool) -> float:
        if value is None or math.isnan(value):
            return -math.inf
        return -value if proper or self.direction == "minimize" else value


def _shown(score: float | None) -> str:
    return "not defined" if score is None else f"{score:.4f}"
