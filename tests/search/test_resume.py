"""Killed without warning, a search goes on where it was: nothing lost, nothing twice."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.folder import SearchFolder
from search.record import State
from search.study import EPOCH, JOURNAL, TRIAL, journal_lines
from tests.search.conftest import status, succeed

CREATE, ATTRIBUTE, STATE = 4, 8, 6  # operations in Optuna's journal


def history(folder: Path) -> dict[str, list[Any]]:
    """What the journal says was created, reported and ended, in order."""
    lines = journal_lines(folder / JOURNAL)
    created = [line["user_attrs"][TRIAL]["point"] for line in lines if TRIAL in line.get("user_attrs", {})]
    epochs = [(line["trial_id"], key) for line in lines for key in line.get("user_attr", {}) if key.startswith(EPOCH)]
    ended = [line["trial_id"] for line in lines if line.get("op_code") == STATE and line.get("state") in (1, 2, 3)]
    return {"created": created, "epochs": epochs, "ended": ended}


def wait_for(folder: Path, epochs: int, timeout: float = 120) -> None:
    """Until the record holds that many epochs."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (folder / JOURNAL).exists() and len(history(folder)["epochs"]) >= epochs:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {epochs} epochs after {timeout} s: {(folder / 'log.txt').read_text()[-2000:]}")


def check_end(folder: Path, trials: int) -> None:
    """Exactly the trials that were ordered, none run twice, no point and no epoch twice."""
    found = history(folder)
    assert len(found["created"]) == trials
    assert len({str(sorted(p.items())) for p in found["created"]}) == trials
    assert len(set(found["epochs"])) == len(found["epochs"])
    assert sorted(found["ended"]) == list(range(trials))
    study = SearchFolder(folder).study()
    assert all(t.state in (State.COMPLETE, State.PRUNED) for t in study.trials), [t.cause for t in study.trials]
    for trial in study.trials:
        assert sorted(trial.epochs) == list(range(1, trial.done + 1))


@pytest.mark.slow
def test_killed_twice_once_in_a_write(settings: Path, tmp_path: Path, killable: Any) -> None:
    folder = tmp_path / "runs" / "digits"
    generator = random.Random(0)
    first = killable("search", settings, "--set", "mlflow=off")
    wait_for(folder, generator.randint(3, 8))
    first.kill()
    with (folder / JOURNAL).open("ab") as journal:  # as if killed in the middle of a line
        journal.write(b'{"op_code":8,"worker_id":"x","trial_id":0,"user_a')
    before = {t.number: t for t in SearchFolder(folder).study().trials if t.state.terminal}
    second = killable("resume", folder)
    wait_for(folder, 12)
    second.kill()
    assert "cut off" in succeed("resume", folder) or list(folder.glob(f"{JOURNAL}.torn-*"))
    check_end(folder, 8)
    after = SearchFolder(folder).study().trials
    for number, trial in before.items():
        assert after[number] == trial
    data = status(folder)
    assert data["states"].get("complete", 0) + data["states"].get("pruned", 0) == 8
    assert "nothing" not in data
    again = succeed("resume", folder)  # nothing is left to do
    assert "8 trials" in again
    check_end(folder, 8)


def test_stopped_by_ctrl_c(settings: Path, tmp_path: Path, killable: Any) -> None:
    folder = tmp_path / "runs" / "digits"
    long = ["--set", "budget.epochs=200", "--set", "stopping.rule=off"]  # so that it is in the middle of a trial
    command = killable("search", settings, "--set", "mlflow=off", "--set", "resources.concurrent=1", *long)
    wait_for(folder, 2)
    asked = time.monotonic()
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(timeout=60) == 130
    took = time.monotonic() - asked
    print(f"stopped in {took:.1f} s")
    deadline = time.monotonic() + 20
    while command.all():
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.2)
    states = status(folder)["states"]
    assert states == {"running": 1}


@pytest.mark.slow
def test_a_continued_trial_equals_an_undisturbed_one(settings: Path, tmp_path: Path, killable: Any) -> None:
    """The same configurations, once undisturbed and once killed: the same values to the last bit."""
    fixed = ["--set", "mlflow=off", "--set", "stopping.rule=off", "--set", "budget.trials=2", "--set", "sampler=random"]
    fixed += ["--set", "resources.concurrent=1"]
    succeed("search", settings, *fixed, "--set", "name=calm")
    folder = tmp_path / "runs" / "stormy"
    started = killable("search", settings, *fixed, "--set", "name=stormy")
    wait_for(folder, 3)
    started.kill()
    with (folder / JOURNAL).open("ab") as journal:  # as if killed in the middle of a line
        journal.write(b'{"op_code":8,"worker_id":"x","trial_id":0,"user_a')
    assert "cut off" in succeed("resume", folder)
    check_end(folder, 2)
    calm, stormy = (SearchFolder(tmp_path / "runs" / n).study().trials for n in ("calm", "stormy"))
    for one, other in zip(calm, stormy, strict=True):
        assert one.point == other.point
        assert one.values() == other.values() and one.value == other.value
        assert [e.train_loss for e in one.epochs.values()] == [e.train_loss for e in other.epochs.values()]
        predictions = [
            np.load(tmp_path / "runs" / n / "trials" / f"{one.number:05d}" / "validation.npz")["probabilities"]
            for n in ("calm", "stormy")
        ]
        assert np.array_equal(*predictions)
