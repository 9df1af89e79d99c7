"""A worker that is killed in the middle of an epoch goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from search.folder import SearchFolder
from search.record import State
from tests.faults.elsewhere import ended, given
from tests.faults.searches import wait_until
from tests.faults.worker import STRIKES, Told, alone, run, struck_pids, without_times
from tests.trainables.digits import EVERYTHING
from trainables import trials
from trainables.head_stack import HeadStack
from trainables.outages import outage
from trainables.prefix import Prefix
from trainables.trial_files import END, trial_folder

STEPS = 4  # an epoch
KILLED = 2 * STEPS + 2  # steps, in the middle of the third epoch


def noting_rows(file: Path, kill: bool, job: dict[str, Any]) -> Told:
    """Runs a job and notes which images each step looks at; kills itself on the way, or not."""
    stream = Prefix.stream

    def noted(prefix: Prefix, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for rows, of_rows in zip(batches, stream(prefix, batches), strict=True):
            if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
                with file.open("a") as notes:
                    notes.write(f"{rows.tolist()}\n")
            yield of_rows

    Prefix.stream = noted  # type: ignore[method-assign]
    steps = iter(range(1000))

    def step(*_: Any) -> None:
        if kill and next(steps) == KILLED - 1:
            newest = trial_folder(Path(job["search"]), job["trials"][0]["number"]) / "checkpoints" / "epoch-0002"
            wait_until(newest.exists, 60, "the checkpoint, which is written beside the training")
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(step)
    return run(job)


def test_killed_in_the_middle_of_an_epoch(
    order: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes if a trial killed after two and a half epochs looks at the same images in the same order from the third
    epoch's first step on, and tells the same losses, metrics and value, to the last bit, as one that wasn't."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)
    settings = {**EVERYTHING, "epochs": 4}
    calm = given(lambda: noting_rows(tmp_path / "calm", False, order(1, **settings)), tmp_path / "told")
    assert ended(lambda: noting_rows(tmp_path / "before", True, order(2, **settings))) == -signal.SIGKILL
    again = given(lambda: noting_rows(tmp_path / "after", False, order(2, **settings)), tmp_path / "told")
    assert without_times(again) == without_times(calm) and len(calm) == 4 and calm[-1]["end"]["state"] == "complete"
    whole, before, after = ((tmp_path / n).read_text().splitlines() for n in ("calm", "before", "after"))
    assert len(whole) == 4 * STEPS and len(set(whole)) == len(whole)
    assert before == whole[:KILLED] and after == whole[2 * STEPS :]


def group_of(first: int, job: dict[str, Any]) -> dict[str, Any]:
    """A job of four trials that train their heads in one pass; the second of them diverges in its first epoch."""
    config = job["trials"][0]["config"]
    varied: list[dict[str, Any]] = [{}, {"head_lr": 3e37, "warmup": 0.0}, {"mixup": 0.4, "ema": 0.1}, {"head_lr": 0.1}]
    trials_of = [
        {"number": first + k, "config": {**config, "seed": k, "view_seed": 5, **own}} for k, own in enumerate(varied)
    ]
    return {**job, "trials": trials_of}


def killed_after(steps: int, job: dict[str, Any]) -> None:
    step, left = HeadStack.step, iter(range(steps))

    def counted(heads: HeadStack, *arguments: Any) -> Any:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(heads, *arguments)

    HeadStack.step = counted  # type: ignore[method-assign]
    run(job)


def test_a_group_killed_in_the_middle_of_an_epoch(
    order: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes if trials that train in one pass, killed after two and a half epochs, tell the same losses, metrics and
    values, to the last bit, as ones that weren't; the one that diverged before tells the step at which it did."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)
    settings = {"trained_blocks": 0, "level": 2, "epochs": 4}
    calm = given(lambda: run(group_of(0, order(0, **settings))), tmp_path / "told")
    job = group_of(10, order(10, **settings))
    assert ended(lambda: killed_after(KILLED, job)) == -signal.SIGKILL
    again = given(lambda: run(job), tmp_path / "told")
    ends = {message["trial"]: message["end"] for message in calm if "end" in message}
    assert [ends[k]["state"] for k in range(4)] == ["complete", "failed", "complete", "complete"]
    assert "at step 2" in ends[1]["cause"]
    assert without_times(again) == without_times(calm)


def away_after_an_epoch(job: dict[str, Any]) -> str:
    """Runs a job; once an epoch was told, its trials' folders are away. The error that ends it."""
    folders = Path(job["search"]) / "trials"

    def report(_: Told) -> None:
        if folders.is_dir():
            folders.rename(folders.with_name("elsewhere"))
            folders.touch()  # no folder

    try:
        trials.run(job, report)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it should have been raised")


def test_a_group_whose_storage_was_away_for_a_time(
    order: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes if trials that train in one pass and whose folders are away all of a sudden, while the group's own isn't,
    end by that error and not by ends of their own: the driver knows it for an outage, and with the folders back they
    tell the same losses, metrics and values, to the last bit, as ones that never met it."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)
    settings = {"trained_blocks": 0, "level": 2, "epochs": 4}
    calm = given(lambda: run(group_of(0, order(0, **settings))), tmp_path / "told")
    job = group_of(10, order(10, **settings))
    folders = Path(job["search"]) / "trials"
    error = given(lambda: away_after_an_epoch(job), tmp_path / "told")
    assert outage(error) == "no access to", error
    folders.unlink()
    folders.with_name("elsewhere").rename(folders)
    again = given(lambda: run(job), tmp_path / "told")
    assert without_times(again) == without_times(calm)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_killed_in_a_search(struck: Path, tmp_path: Path) -> None:
    """Passes if a trial whose worker was killed some way into its epochs is gone on with by another process, in the
    same search, and has every epoch and the value of one that a fresh process ran undisturbed, to the last bit."""
    [killed] = [number for number, what in STRIKES.items() if what == "kill"]
    found = SearchFolder(struck).study().trials[killed]
    assert found.state is State.COMPLETE and sorted(found.epochs) == list(range(1, 13))
    assert len({pid for trial, pid in struck_pids(struck) if trial == killed}) == 2
    told = json.loads((trial_folder(struck, killed) / END).read_text())
    assert without_times(told) == without_times(alone(struck, killed, tmp_path))
    assert [m["epoch"]["value"] for m in told] == [found.epochs[e].value for e in sorted(found.epochs)]
