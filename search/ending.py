"""Why a search ended before all the trials that were ordered: left by its driver, for those who show the search.

It stands beside the record, in the file that says what the last launch cost, and is taken away when a launch goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from search.record import Trial
from trainables.files import write_json

DRIVER = "driver.json"
EARLY = "ended_early"


@dataclass(frozen=True)
class Ending:
    """A reason, as a clause."""

    text: str
    """For this machine: it may hold the cause of a trial as the trial told it."""
    public: str
    """As far as it may leave this machine."""

    @classmethod
    def of(cls, text: str) -> Ending:
        """One that may leave this machine as it is."""
        return cls(text, text)


def leave(search: Path, costs: Mapping[str, float], ending: Ending | None) -> None:
    """Writes what a launch cost its driver, in seconds, and why it started no more trials."""
    write_json(search / DRIVER, {**costs, EARLY: asdict(ending) if ending else None})


def take_away(search: Path) -> None:
    """What the launch before left, since another one goes on."""
    (search / DRIVER).unlink(missing_ok=True)


def early_ending(search: Path, trials: Sequence[Trial], ordered: int) -> Ending | None:
    """Why the last launch ended before all trials were run; None where they were, where a person stopped it or it was
    killed, or where another one goes on.

    Args:
        search: its folder.
        trials: the record.
        ordered: how many trials the search was to run.
    """
    if len(trials) >= ordered and all(trial.state.terminal for trial in trials):
        return None
    try:
        left = json.loads((search / DRIVER).read_text(encoding="utf-8"))[EARLY]
        return Ending(str(left["text"]), str(left["public"]))
    except (OSError, ValueError, KeyError, TypeError):  # none was left, or by an earlier version
        return None
