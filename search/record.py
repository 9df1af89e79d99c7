"""What a search knows of its trials, as plain data: states, epochs, causes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from spaces.config import Direction
from spaces.dimensions import Point


class State(StrEnum):
    """Of a trial. All but `RUNNING` are terminal; an unfinished trial is continued by the next launch."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INFEASIBLE = "infeasible"

    @property
    def terminal(self) -> bool:
        return self is not State.RUNNING

    @property
    def ranked(self) -> bool:
        """Whether the trial's value may be compared with others' at the end."""
        return self is State.COMPLETE


@dataclass(frozen=True)
class Epoch:
    """One epoch of a trial, as the loop reported it. Times in seconds."""

    epoch: int
    value: float | None
    """The search's metric; None where it isn't defined."""
    standard_error: float | None
    train_loss: float
    metrics: dict[str, float]
    seconds: float
    time: float
    undefined: str = ""
    """Why `value` is None."""

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Epoch:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Trial:
    """One trial of a search."""

    number: int
    point: Point
    """Values of the space's dimensions, by name."""
    seed: int
    job: str
    """Trials of one job run together; a resumed search puts them together again."""
    started: float
    """Unix time in seconds."""
    why: str = ""
    """Where the point came from: first configurations, or the sampler."""
    state: State = State.RUNNING
    cause: str = ""
    """Why it ended, or why it is unfinished."""
    value: float | None = None
    """Of a complete trial: the search's metric, as `trainables.value.trial_value` defines it."""
    ended: float | None = None
    epochs: dict[int, Epoch] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Epochs done."""
        return max(self.epochs, default=0)

    @property
    def seconds(self) -> float:
        """Time spent in epochs."""
        return sum(e.seconds for e in list(self.epochs.values()))  # a view reads while the driver writes

    def values(self, up_to: int | None = None) -> list[float]:
        """The metric after each epoch that it is defined for, in order."""
        reached = (self.epochs[e].value for e in sorted(self.epochs) if up_to is None or e <= up_to)
        return [value for value in reached if value is not None]

    def standard_error(self, of_fold: int, up_to: int | None = None) -> float | None:
        """Of the trial's value up to an epoch. With folds of the mean over those that are complete: they validate on
        different groups, so that their errors are independent, given the models.

        Args:
            of_fold: epochs of a fold, or of the whole trial where there is one.
            up_to: an epoch; the last by default.
        """
        last = self.done if up_to is None else up_to
        ends = list(range(of_fold, last + 1, of_fold)) or [last]
        errors = [self.epochs[end].standard_error if end in self.epochs else None for end in ends]
        known = [error for error in errors if error is not None]
        return math.hypot(*known) / len(ends) if len(known) == len(ends) else None


def best(trials: Sequence[Trial], direction: Direction) -> Trial | None:
    """The complete trial with the best value; of equals, the earliest."""
    complete = [t for t in trials if t.state is State.COMPLETE and t.value is not None]
    sign = 1 if direction == "maximize" else -1
    return max(complete, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)


def ranked(trials: Sequence[Trial], direction: Direction) -> list[Trial]:
    """The complete trials, the best first; of equals, the earliest."""
    complete = [t for t in trials if t.state is State.COMPLETE and t.value is not None]
    sign = 1 if direction == "maximize" else -1
    return sorted(complete, key=lambda t: (-sign * (t.value or 0.0), t.number))
