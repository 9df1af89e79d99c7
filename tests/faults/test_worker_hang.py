"""A hung trial or data worker is ended by a watchdog that says where it hung."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from search.folder import SearchFolder
from search.record import State
from tests.faults.elsewhere import ended, given
from tests.faults.worker import STRIKES, run, struck_pids
from trainables import trials
from trainables.data import pixels
from trainables.trial_files import STACKS, trial_folder
from trainables.watchdog import hangs

LIMIT = 1.5


def hung_in_a_step(job: dict[str, Any]) -> None:
    steps = iter(range(100))

    def hang(*_: Any) -> None:
        if next(steps) == 5:  # of four an epoch
            ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock held

    register_optimizer_step_post_hook(hang)
    run(job)


def hung_in_decoding(job: dict[str, Any]) -> None:
    decode = pixels.read_header

    def hang(source: Any) -> Any:
        if not isinstance(source, Path) and source.getbuffer()[-1] >= 0:
            time.sleep(600)
        return decode(source)

    pixels.read_header = hang
    trials._warm_data.cache_clear()
    run(job)


def test_a_trial_that_hung_once_goes_on(
    order: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes if a step that never comes back out of C ends the process within the limit, its stack names the step, and
    the trial, tried again, has every loss and the value of one that never hung."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)
    right = given(lambda: run(order(1)), tmp_path / "right")
    job = order(hang=LIMIT)
    started = time.monotonic()
    assert ended(lambda: hung_in_a_step(job)) == 1
    assert LIMIT <= time.monotonic() - started < LIMIT + 10
    stacks = (trial_folder(Path(job["search"]), 0) / STACKS).read_text()
    assert "in hang" in stacks and "in fine_tune\n" in stacks
    again = given(lambda: run({**job, "hang": 60}), tmp_path / "again")
    assert again[-1]["end"] == right[-1]["end"] and again[-1]["end"]["state"] == "complete"
    assert [m["epoch"]["train_loss"] for m in again] == [m["epoch"]["train_loss"] for m in right]


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_hung_twice_is_a_failure(order: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Passes if a trial whose data worker hangs, and then a step of it, is ended both times, isn't tried a third time,
    and fails with a cause that names the time and the file of stacks."""
    job = {**order(resolution=(70, 70), hang=LIMIT), "cache": str(tmp_path / "cache")}
    stacks = trial_folder(Path(job["search"]), 0) / STACKS
    assert ended(lambda: hung_in_decoding(job)) == 1
    assert "in decode" in stacks.read_text() and "in open_many" in stacks.read_text()
    assert ended(lambda: hung_in_a_step(job)) == 1
    assert hangs(stacks) == 2
    told = given(lambda: run(job), tmp_path / "told")
    cause = "no step for 0.025 minutes, 2 times; trials/00000/hang.txt says where it hung"
    assert told == [{"trial": 0, "end": {"state": "failed", "cause": cause, "value": None}}]
    assert given(lambda: run(job), tmp_path / "told") == told, "and stays so"


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_search_goes_on_past_a_hung_trial(struck: Path) -> None:
    """Passes if, in a real search, the trial that hangs is ended and tried again once, then fails with the time as its
    cause and the stack of the hung thread in its folder, and all that aren't struck complete."""
    found = SearchFolder(struck).study().trials
    [hung] = [number for number, what in STRIKES.items() if what == "hang"]
    assert found[hung].state is State.FAILED and found[hung].cause.startswith("no step for 0.3 minutes, 2 times")
    stacks = trial_folder(struck, hung) / STACKS
    assert hangs(stacks) == 2 and "in strike" in stacks.read_text() and "in write_json" in stacks.read_text()
    assert len({pid for trial, pid in struck_pids(struck) if trial == hung}) == 2, "two processes, and no third"
    assert [t.state for t in found if t.number in (0, 3)] == [State.COMPLETE] * 2
