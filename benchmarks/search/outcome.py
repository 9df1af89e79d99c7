"""What one side made of a list of trials, as plain data that a process can hand to another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.regimes import Recorded, of_plain

LAST = 3  # epochs that a trial's value is the mean of


@dataclass(frozen=True)
class Done:
    """One trial. Times are Unix times in seconds, of this machine."""

    trial: Recorded
    values: list[float]
    """After each epoch."""
    started: float
    """When its function was entered, with all that it imports."""
    ended: float
    times: list[float] = field(default_factory=list)
    """At the end of each epoch."""

    @property
    def value(self) -> float:
        return float(np.mean(self.values[-LAST:]))


@dataclass
class Outcome:
    """One side, once."""

    side: str
    trials: list[Done] = field(default_factory=list)
    building: float = 0.0
    """Seconds in which files were made that later trials read, within `wall`."""
    beforehand: float = 0.0
    """Seconds of it before the first trial began."""
    wall: float = 0.0
    """Seconds from the start of the process to its end."""
    began: float = 0.0
    """Unix time at the start of the process."""
    counts: dict[str, int] = field(default_factory=dict)
    """`decoded` images, training images that frozen blocks were `computed` for, `builds` of stored activations."""

    @property
    def epochs(self) -> int:
        """Of each trial."""
        return max(len(done.values) for done in self.trials)

    def before(self) -> float:
        """Seconds before the first trial began, without building beforehand: imports, Ray's start."""
        return min(done.started for done in self.trials) - self.began

    def slot_seconds(self, slots: int) -> list[float]:
        """Of each trial: the time it held a slot, and the time the slot was idle before it. A slot is empty from the
        first trial's beginning on."""
        ended = [min(done.started for done in self.trials)] * slots
        took: dict[int, float] = {}
        for done in sorted(self.trials, key=lambda d: d.started):
            ended.sort()
            took[done.trial.seed] = done.ended - ended.pop(0)
            ended.append(done.ended)
        return [took[done.trial.seed] for done in self.trials]

    def extended(self, slots: int, epochs: int) -> list[float]:
        """As `slot_seconds`, had every trial gone on to so many epochs, each as long as its median one."""
        return [
            took + (epochs - len(done.values)) * (float(np.median(np.diff(done.times))) if len(done.times) > 1 else 0.0)
            for took, done in zip(self.slot_seconds(slots), self.trials, strict=True)
        ]

    def around(self) -> float:
        """Seconds in which no trial ran: before the first one, and after the last."""
        return self.wall - (max(done.ended for done in self.trials) - min(done.started for done in self.trials))

    def idle(self) -> float:
        """Of `around`, what isn't building."""
        return self.around() - self.beforehand

    def epoch(self) -> float:
        """Seconds of the median epoch of all trials, first ones aside: of what isn't built in most epochs."""
        return float(np.median([took for done in self.trials for took in np.diff(done.times)]))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> Outcome:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        data["trials"] = [Done(**{**done, "trial": of_plain(done["trial"])}) for done in data["trials"]]
        return cls(**data)


def agreement(one: Outcome, other: Outcome) -> dict[str, float]:
    """How far the values of trials that both ran lie apart: mean and largest difference."""
    values = {done.trial.seed: done.value for done in other.trials}
    apart = [abs(done.value - values[done.trial.seed]) for done in one.trials if done.trial.seed in values]
    return {"trials": len(apart), "mean": float(np.mean(apart)), "largest": float(np.max(apart))} if apart else {}


def median_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    return float(np.median(values)), float(np.min(values)), float(np.max(values))
