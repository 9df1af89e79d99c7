"""The journal's replay: any sequence of what a driver writes, killed at any byte, gives a prefix of it, and goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from search.record import Epoch, State, Trial
from search.study import JOURNAL, Study, open_storage, repair_journal

SPACE = {"head_lr": FloatDistribution(1e-4, 1e-1, log=True)}
TERMINAL = [state for state in State if state.terminal]
Operation = Callable[[Study], None]


def add() -> Operation:
    def write(study: Study) -> None:
        number = len(study.trials)
        keyed = {"head_lr": 1e-3 * (1 + number % 90)}
        study.add({"backbone": "mae_tiny", **keyed}, keyed, SPACE, seed=number, job=f"job-{number}", why="tpe")

    return write


def epoch(trial: int, number: int, value: float | None) -> Operation:
    def write(study: Study) -> None:
        if study.trials:
            told = Epoch(number, value, None, 0.5, {"accuracy": 0.5}, 1.0, 100.0 + number)
            study.epoch(trial % len(study.trials), told)

    return write


def end(trial: int, state: State, cause: str) -> Operation:
    def write(study: Study) -> None:
        if study.trials:
            study.end(trial % len(study.trials), state, cause, 0.5 if state is State.COMPLETE else None)

    return write


OPERATIONS = st.one_of(
    st.builds(add),
    st.builds(epoch, st.integers(0, 5), st.integers(1, 4), st.none() | st.floats(-1, 1)),
    st.builds(end, st.integers(0, 5), st.sampled_from(TERMINAL), st.text(max_size=8)),
)


def timeless(trials: list[Trial]) -> list[Any]:
    """Trials without the times at which they were written."""
    copies = deepcopy(trials)
    for trial in copies:
        trial.started, trial.ended = 0.0, 0.0 if trial.ended else None
    return copies


@settings(max_examples=25, deadline=None, database=None)
@given(
    operations=st.lists(OPERATIONS, min_size=1, max_size=12), shares=st.lists(st.floats(0, 1), min_size=2, max_size=2)
)
def test_killed_at_any_byte_it_is_a_prefix_and_goes_on(operations: list[Operation], shares: list[float]) -> None:
    """After a repair the record is what it was after some of the operations, all of them up to one and none behind it;
    what is torn off is kept; and with the rest told again, it becomes what it would have been."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "whole").mkdir()
        study = Study.create(open_storage(home / "whole", None), "s", "maximize", {"format": 1})
        journal = home / "whole" / JOURNAL
        created, snapshots, sizes = journal.stat().st_size, [timeless(study.trials)], [journal.stat().st_size]
        for operation in operations:
            operation(study)
            snapshots.append(timeless(study.trials))
            sizes.append(journal.stat().st_size)
        whole = journal.read_bytes()
        for index, share in enumerate(shares):
            cut = created + round(share * (len(whole) - created))
            folder = home / str(index)
            folder.mkdir()
            (folder / JOURNAL).write_bytes(whole[:cut])
            torn = repair_journal(folder / JOURNAL)
            assert (folder / JOURNAL).read_bytes() + (torn.read_bytes() if torn else b"") == whole[:cut]
            again = Study.open(open_storage(folder, None), "s")
            done = sum(size <= cut for size in sizes) - 1  # operations that were written to their last byte
            found = timeless(again.trials)
            assert found in snapshots[done : done + 2], "all that was written, and at most the one under way"
            for operation in operations[done + (found != snapshots[done]) :]:
                operation(again)
            assert timeless(again.trials) == snapshots[-1]
            assert timeless(Study.open(open_storage(folder, None), "s").trials) == snapshots[-1]
