"""Whether a search has stopped getting better: a pure function of the record."""

from __future__ import annotations

from collections.abc import Sequence

from search.record import State, Trial
from spaces.config import Direction


def since_better(trials: Sequence[Trial], direction: Direction, margin: float = 0.0) -> int:
    """Trials that have ended since the last one that was better than all before it, in the order of their ends.

    Stopped early counts as not better; failed and cancelled trials say nothing. 0 before the first complete trial.

    Args:
        margin: by which a value has to be better to count as such.
    """
    told = [t for t in trials if t.state in (State.COMPLETE, State.PRUNED)]
    highest: float | None = None
    since = 0
    for trial in sorted(told, key=lambda t: (t.ended or 0.0, t.number)):
        if trial.state is State.COMPLETE and trial.value is not None:
            value = trial.value if direction == "maximize" else -trial.value
            if highest is None or value > highest + margin:
                highest, since = value, 0
                continue
        since += highest is not None
    return since
