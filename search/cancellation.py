"""One trial of a search stopped, or never started again, by a person.

The person's process leaves a request in the search's folder; the driver, which alone writes the record, looks for
requests about once a second and answers them. Where no driver runs the search, the record is written at once.
"""

from __future__ import annotations

import time
from pathlib import Path

from search.folder import SearchFolder
from search.record import State
from search.study import JOURNAL, Study, existing_storage, only_writer, repair_journal
from search.tracking import being_driven
from spaces.mistakes import Mistake

CAUSE = "cancelled by the person"
REQUESTS = "cancel"  # folder of requests: an empty file a trial, named by its number
PATIENCE = 20.0  # seconds that a driver is given to answer


def cancel(found: SearchFolder, number: int, patience: float = PATIENCE) -> bool:
    """Ends a trial as cancelled. What it computes meanwhile, to the end of its epoch, isn't taken in any more.

    Args:
        patience: seconds to wait for the answer of a driver.

    Returns:
        Whether the record says so; otherwise the request stays, for the driver or for a resume.

    Raises:
        Mistake: there is no such trial, or it has ended.
    """
    trials = found.study().trials
    if not 0 <= number < len(trials):
        known = f"0 to {len(trials) - 1}" if trials else "none so far"
        raise Mistake(f"cancel: {found.path.name} has no trial {number}; its trials: {known} (see medtune status).")
    trial = trials[number]
    if trial.state.terminal:
        raise Mistake(f"cancel: trial {number} has ended already: it is {trial.state} (see medtune status).")
    if not being_driven(found.path):
        _cancel_here(found, number)
        return True
    ask(found.path, number)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if found.study().trials[number].state.terminal:
            return True
        time.sleep(0.5)
    return False


def _cancel_here(found: SearchFolder, number: int) -> None:
    config = found.config()
    with only_writer(found.path):
        repair_journal(found.path / JOURNAL)
        Study.open(existing_storage(found.path, config.study), config.name).end(number, State.CANCELLED, CAUSE)


def ask(search: Path, number: int) -> None:
    """Leaves a request for the driver."""
    (search / REQUESTS).mkdir(exist_ok=True)
    (search / REQUESTS / str(number)).touch()


def asked(search: Path) -> list[int]:
    """Trials that requests wait for."""
    try:
        return sorted(int(file.name) for file in (search / REQUESTS).iterdir() if file.name.isdigit())
    except FileNotFoundError:
        return []


def answered(search: Path, number: int) -> None:
    (search / REQUESTS / str(number)).unlink(missing_ok=True)
