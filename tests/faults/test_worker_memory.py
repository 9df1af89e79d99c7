"""Memory that runs out in one trial: that one is infeasible, and nothing of it reaches the next."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from search.folder import SearchFolder
from search.memory import ran_out_of_memory
from search.record import State
from search.scheduler import ALIKE
from tests.faults.elsewhere import given
from tests.faults.searches import fixed_list, ran, written
from tests.faults.striking import data_bytes
from tests.faults.worker import STRIKES, Told, alone, run, struck_pids, without_times
from trainables import trials
from trainables.trial_files import END, trial_folder

ROOM = 60 << 20


def of_host(job: dict[str, Any]) -> Told:
    """Under a real limit of what the process may have."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + ROOM, before[1]))
    try:
        return run(job)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def of_device(job: dict[str, Any]) -> Told:
    """As torch says it, after a step of the second epoch."""
    steps = iter(range(100))

    def short(*_: Any) -> None:
        if next(steps) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    registered = register_optimizer_step_post_hook(short)
    try:
        return run(job)
    finally:
        registered.remove()


@pytest.mark.parametrize(
    ("forced", "whose", "large"),
    [
        (of_host, "this machine's memory: can't allocate memory", {"trained_blocks": "all", "resolution": (224, 224)}),
        (of_device, "the accelerator's memory: CUDA out of memory. Tried to allocate 2.00 GiB.", {}),
    ],
)
def test_the_next_trial_is_what_it_is_in_a_fresh_process(
    forced: Callable[[dict[str, Any]], Told],
    whose: str,
    large: dict[str, Any],
    order: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Passes if a trial that is out of memory is told as infeasible with whose memory it was, without any error that
    would end its process, and the next trial of the same process equals, to the last bit, one of a fresh process."""
    short = order(1, batch_size=128, **large)
    following = {"level": 2, "drop_path": 0.3, "ema": 0.1, "mixup": 0.2}
    fresh = given(lambda: run(order(2, **following)), tmp_path / "fresh")

    def both() -> tuple[Told, Told]:
        return forced(short), run(order(3, **following))

    told, after = given(both, tmp_path / "both")
    [end] = [message for message in told if "end" in message]
    assert end["end"]["state"] == "infeasible" and end["end"]["cause"].startswith(f"out of {whose}")
    assert end["end"]["value"] is None and not list(tmp_path.rglob("trials/00001/checkpoints/epoch-0002"))
    assert without_times(after) == without_times(fresh)
    assert fresh[-1]["end"]["state"] == "complete"


def test_an_error_that_nobody_knows_is_told_and_then_ends_the_process(
    order: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Passes if an unknown error is told as the trial's cause and then raised, so that Ray gives the next trial a fresh
    process; ordered again, the trial isn't trained again."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("nobody expected this")

    told: Told = []

    def work() -> tuple[Told, str]:
        register_optimizer_step_post_hook(broken)
        try:
            trials.run(order(), told.extend)
        except ZeroDivisionError as error:
            return told, str(error)
        raise AssertionError("it should have been raised")

    told, error = given(work, tmp_path / "told")
    cause = "ZeroDivisionError: nobody expected this"
    assert error == "nobody expected this"
    assert told == [{"trial": 0, "end": {"state": "failed", "cause": cause, "value": None}}]
    assert given(lambda: run(order()), tmp_path / "again") == told


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_search_goes_on_past_trials_without_memory(struck: Path, tmp_path: Path) -> None:
    """Passes if, in a real search, the trials that are out of device and of host memory are infeasible with that cause
    and run once, and the trial that the same actor ran next equals one of a fresh process to the last bit."""
    found = SearchFolder(struck).study().trials
    causes = {what: found[number] for number, what in STRIKES.items()}
    assert causes["device memory"].state is State.INFEASIBLE and causes["host memory"].state is State.INFEASIBLE
    assert causes["device memory"].cause.startswith("out of the accelerator's memory: CUDA out of memory")
    assert causes["host memory"].cause.startswith("out of this machine's memory: can't allocate memory")
    pids = struck_pids(struck)
    assert [trial for trial, _ in pids][:4] == [0, 1, 2, 3] and len({pid for _, pid in pids[:4]}) == 1
    again = alone(struck, 3, tmp_path)
    assert without_times(again) == without_times(json.loads((trial_folder(struck, 3) / END).read_text()))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_that_ray_ends_on_a_full_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes if trials whose workers Ray ends, time and again, since it is made to believe that the machine is nearly
    out of memory, are infeasible with that cause, and no more of them are started than show it."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    done = ran("search", written(tmp_path, fixed_list(tmp_path, 20, 2)))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    found = SearchFolder(tmp_path / "runs" / "fixed").study().trials
    print(f"{len(found)} of 20 trials were started: {found[0].cause}")
    assert ALIKE <= len(found) <= ALIKE + 2
    assert all(t.state is State.INFEASIBLE and ran_out_of_memory(t) for t in found), [t.cause for t in found]
    assert "no more were started: " + found[0].cause in done.stdout
