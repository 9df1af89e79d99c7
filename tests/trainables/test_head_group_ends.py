"""How trials that train in one pass end: each by itself, and what their ends mean for the process and for a resume."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spaces.config import TrialConfig
from tests.trainables.digits import Digits
from tests.trainables.test_head_group import SHORT, assert_same, configs, lacking
from trainables import checkpoint, head_passes, trials
from trainables.causes import End
from trainables.epoch import EpochReport
from trainables.head_group import fine_tune_heads
from trainables.outages import outage
from trainables.resident import RESIDENT
from trainables.trial_files import END, trial_folder

FIRST = 7  # number of a job's first trial


def job(digits: Digits, search: Path, several: list[TrialConfig]) -> dict[str, Any]:
    """The order of a job of these trials, in a search's folder of its own."""
    (search / "data").symlink_to(digits.prepared)
    return {
        "job": "job-00000",
        "trials": [{"number": FIRST + k, "config": config.plain()} for k, config in enumerate(several)],
        "search": str(search),
        "dataset": digits.dataset.plain(),
        "cache": str(search / "cache"),
        "activations": 1 << 30,
        "threads": 1,
        "accelerators": 0,
        "hang": 60.0,
    }


def ends(search: Path) -> list[dict[str, Any]]:
    """What each of a job's five trials told last."""
    return [json.loads((trial_folder(search, FIRST + k) / END).read_text())[-1] for k in range(5)]


def said(told: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Number and end of each trial that was told to have ended."""
    return [(message["trial"], message["end"]) for message in told if "end" in message]


def breaking(monkeypatch: pytest.MonkeyPatch, errors: dict[int, Exception]) -> None:
    """Evaluating trials of these seeds raises after their second epoch."""
    evaluated = head_passes.evaluated

    def broken(epoch: int, config: TrialConfig, *more: Any) -> EpochReport:
        if epoch == 2 and config.seed in errors:
            raise errors[config.seed]
        return evaluated(epoch, config, *more)

    monkeypatch.setattr(head_passes, "evaluated", broken)


def test_an_error_of_one_that_is_evaluated_leaves_the_others_alone(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = configs(digits)
    data = digits.data(several[0])
    whole, _ = fine_tune_heads(several, data)
    breaking(monkeypatch, {2: ValueError("nobody expected this"), 4: torch.OutOfMemoryError(SHORT)})
    members, _ = fine_tune_heads(several, data)
    assert members[1].ended == End("failed", "ValueError: nobody expected this")
    assert members[3].ended == End("infeasible", f"out of the accelerator's memory: {SHORT}", memory=True)
    assert [len(m.reports) for m in members] == [3, 1, 3, 1, 3]
    assert [m.strange for m in members] == [False, True, False, False, False]
    for k in (0, 2, 4):
        assert_same(members[k], whole[k])


def test_files_that_are_away_end_no_trial(digits: Digits, tmp_path: Path) -> None:
    """The file system's own error leaves the group; the next run goes on from the checkpoint before it, and all trials
    are what they would have been."""
    several = configs(digits)
    data = digits.data(several[0])
    whole, _ = fine_tune_heads(several, data)
    folders = [tmp_path / ("away" if k == 1 else "there") / str(k) for k in range(5)]

    def taken_away(k: int, report: EpochReport) -> bool:
        if (k, report.epoch) == (4, 1):
            (tmp_path / "away").rename(tmp_path / "elsewhere")
            (tmp_path / "away").touch()  # no folder
        return True

    with pytest.raises(NotADirectoryError):
        fine_tune_heads(several, data, tmp_path / "group", taken_away, folders=folders)
    (tmp_path / "away").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    told: list[EpochReport] = []
    members, counts = fine_tune_heads(
        several, data, tmp_path / "group", lambda _, report: told.append(report) or True, folders=folders
    )
    assert len(told) == 3 * 5 and counts.computed == 2 * len(data.train), "the first epoch wasn't trained again"
    for member, its in zip(members, whole, strict=True):
        assert member.value == its.value and member.ended is None


@pytest.mark.parametrize(
    "form",
    [
        lambda why: why["cause"],  # as it was at first
        lambda why: {**why, "hint": "of a later version"},
    ],
)
def test_a_checkpoint_of_another_form_is_left_aside(
    digits: Digits, tmp_path: Path, form: Callable[[dict[str, Any]], Any]
) -> None:
    """The group starts anew, and writes it as it does now."""
    several = configs(digits, [{"seed": 1}, {"seed": 2, "head_lr": 3e37, "warmup": 0.0}, {"seed": 3}])
    data = digits.data(several[0])
    whole, _ = fine_tune_heads(several, data, tmp_path)
    newest = checkpoint.load(tmp_path / "checkpoints" / "epoch-0003")
    newest.state["ended"] = [why and form(why) for why in newest.state["ended"]]
    checkpoint.save(tmp_path / "checkpoints", newest)
    for computed in (3 * len(data.train), 0):
        members, counts = fine_tune_heads(several, data, tmp_path)
        assert counts.computed == computed
        assert [m.value for m in members] == [m.value for m in whole] and members[1].ended == whole[1].ended


def test_a_job_tells_each_trials_own_end(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that comes to its end tells what was done once for all: images decoded, and their frozen part."""
    several = configs(digits)
    order = job(digits, tmp_path, several)
    lacking(monkeypatch, lambda members, _: any(m.config.seed == 1 for m in members))
    trials.run(order, lambda _: None)
    found = ends(tmp_path)
    assert [end["end"]["state"] for end in found] == ["infeasible"] + 4 * ["complete"]
    assert found[0]["end"]["cause"] == f"out of the accelerator's memory: {SHORT}"
    images = len(digits.data(several[0]).train)
    both = images + len(digits.data(several[0]).validation)
    shared_out = [{"computed": 3 * images, "read": 3 * images, "decoded": both}]
    assert [end["counts"] for end in found[1:]] == shared_out + 3 * [{"computed": 0, "read": 3 * images, "decoded": 0}]


def test_an_error_that_nobody_knows_ends_the_process_once_all_is_told(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others come to their ends before; ordered again, in a fresh process, nothing is trained again."""
    order = job(digits, tmp_path, configs(digits))
    told: list[dict[str, Any]] = []
    with monkeypatch.context() as patched:
        breaking(patched, {2: ValueError("nobody expected this")})
        with pytest.raises(RuntimeError, match="ValueError: nobody expected this"):
            trials.run(order, told.extend)
    found = ends(tmp_path)
    assert [end["end"]["state"] for end in found] == ["complete", "failed"] + 3 * ["complete"]
    assert said(told) == [(FIRST + k, end["end"]) for k, end in enumerate(found)]
    again: list[dict[str, Any]] = []
    trials.run(order, again.extend)
    assert said(again) == said(told)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EBUSY, errno.EAGAIN, errno.EFBIG, errno.ENOLCK])
def test_an_error_of_ones_files_that_is_no_outage_is_its_own_end(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The driver wouldn't take the others back."""
    error = OSError(number, os.strerror(number))
    assert not outage(str(error))
    breaking(monkeypatch, {2: error})
    with pytest.raises(RuntimeError, match=os.strerror(number)):
        trials.run(job(digits, tmp_path, configs(digits)), lambda _: None)
    found = [end["end"] for end in ends(tmp_path)]
    assert [end["state"] for end in found] == ["complete", "failed"] + 3 * ["complete"]
    assert found[1]["cause"] == f"{type(error).__name__}: [Errno {number}] {os.strerror(number)}"


def test_what_had_ended_before_an_outage_keeps_its_cause(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others, which the driver takes back, go on without it, from the group's checkpoint or anew."""
    varied = [{"seed": 1}, {"seed": 2}, {"seed": 3, "head_lr": 3e37, "warmup": 0.0}, {"seed": 4}, {"seed": 5}]
    several = configs(digits, varied)
    whole, _ = fine_tune_heads(several, digits.data(several[0]))
    assert whole[2].ended is not None
    order = job(digits, tmp_path, several)
    told: list[dict[str, Any]] = []
    with monkeypatch.context() as patched:
        lacking(patched, lambda members, steps: steps >= 4 and any(m.config.seed == 1 for m in members))
        breaking(patched, {4: OSError(errno.EIO, os.strerror(errno.EIO))})
        with pytest.raises(OSError, match="Input/output error"):
            trials.run(order, told.extend)
    found = [end["end"] for end in ends(tmp_path)]
    assert (found[0]["state"], found[0]["cause"]) == ("infeasible", f"out of the accelerator's memory: {SHORT}")
    assert (found[2]["state"], found[2]["cause"]) == ("failed", whole[2].ended.cause)
    assert [bool(outage(end["cause"])) for end in found] == [False, True, False, True, True]
    of_first = [message["epoch"]["epoch"] for message in told if message["trial"] == FIRST and "epoch" in message]
    assert sorted(set(of_first)) == [1], "told before its end"
    for k in (1, 3, 4):  # as the driver does
        (trial_folder(tmp_path, FIRST + k) / END).unlink()
    trials.run(order, lambda _: None)
    again = [end["end"] for end in ends(tmp_path)]
    assert again[0] == found[0] and again[2] == found[2]
    assert [again[k]["value"] for k in (1, 3, 4)] == pytest.approx([whole[k].value for k in (1, 3, 4)], abs=1e-9)


def test_memory_that_one_trial_lacked_is_given_back(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RESIDENT, "unused", lambda _: 1 << 30)
    monkeypatch.setattr(RESIDENT, "share", 0.5)
    breaking(monkeypatch, {4: torch.OutOfMemoryError(SHORT)})
    assert RESIDENT.copy_of("pixels", torch.zeros(100), torch.device("cpu")) is not None
    trials.run(job(digits, tmp_path, configs(digits)), lambda _: None)
    assert ends(tmp_path)[3]["end"]["state"] == "infeasible"
    assert not RESIDENT.held
