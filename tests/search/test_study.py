"""The record: durable, idempotent, and whole again after a crash at any write."""

import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from search.record import Epoch, State, best
from search.study import JOURNAL, Study, journal_lines, only_writer, open_storage, repair_journal
from spaces.mistakes import Mistake

SPACE = {"head_lr": FloatDistribution(1e-4, 1e-1, log=True)}


def epoch(number: int, value: float) -> Epoch:
    return Epoch(number, value, 0.01, 1.0, {"accuracy": value}, 0.5, time.time())


def add(study: Study, lr: float) -> int:
    point = {"backbone": "mae_tiny", "head_lr": lr, "trained_blocks": 0}
    return study.add(
        point, {"head_lr": lr}, SPACE, seed=len(study.trials), job=f"job-{len(study.trials)}", why="tpe"
    ).number


def new(folder: Path) -> Study:
    return Study.create(open_storage(folder, None), "s", "maximize", {"format": 1})


def again(folder: Path) -> Study:
    return Study.open(open_storage(folder, None), "s")


def test_everything_is_read_back(tmp_path: Path) -> None:
    study = new(tmp_path)
    for lr in (1e-3, 2e-3, 3e-3):
        add(study, lr)
    study.epoch(0, epoch(1, 0.5))
    study.epoch(0, epoch(2, 0.6))
    study.end(0, State.COMPLETE, "", 0.6)
    study.end(1, State.FAILED, "the loss was nan at step 3")
    loaded = again(tmp_path)
    assert loaded.trials == study.trials
    assert loaded.identity == {"format": 1}
    assert [t.state for t in loaded.trials] == [State.COMPLETE, State.FAILED, State.RUNNING]
    assert best(loaded.trials, "maximize") is loaded.trials[0]


def test_optuna_sees_an_ordinary_study(tmp_path: Path) -> None:
    study = new(tmp_path)
    for lr in (1e-3, 2e-3, 3e-3):
        add(study, lr)
        study.epoch(study.trials[-1].number, epoch(1, 0.5))
    study.end(0, State.COMPLETE, "", 0.5)
    study.end(1, State.PRUNED, "slow")
    seen = optuna.load_study(study_name="s", storage=open_storage(tmp_path, None))
    assert [t.state for t in seen.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING]
    assert seen.best_value == 0.5 and seen.trials[1].intermediate_values == {1: 0.5}
    assert seen.trials[2].params == {"head_lr": 3e-3}


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    study = new(tmp_path)
    add(study, 1e-3)
    first = epoch(1, 0.5)
    study.epoch(0, first)
    study.epoch(0, epoch(1, 0.9))
    study.end(0, State.PRUNED, "slow")
    study.end(0, State.COMPLETE, "", 0.9)
    study.epoch(0, epoch(2, 0.9))
    trial = again(tmp_path).trials[0]
    assert trial.epochs == {1: first} and trial.state is State.PRUNED and trial.value is None


def test_crash_after_every_byte_of_the_journal(tmp_path: Path) -> None:
    """Cut anywhere, the journal loads after its repair, and holds a prefix of what happened."""
    study = new(tmp_path)
    add(study, 1e-3)
    study.epoch(0, epoch(1, 0.5))
    study.end(0, State.COMPLETE, "", 0.5)
    add(study, 2e-3)
    whole = (tmp_path / JOURNAL).read_bytes()
    created = whole.index(b"medtune:search")
    created = whole.index(b"\n", created) + 1
    states = set()
    for cut in [*range(created, len(whole), 7), len(whole)]:
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(whole[:cut])
        torn = repair_journal(folder / JOURNAL)
        assert (torn is not None) == (not whole[:cut].endswith(b"\n"))
        if torn:
            assert (folder / JOURNAL).read_bytes() + torn.read_bytes() == whole[:cut]
        loaded = again(folder)
        states.add(tuple((str(t.state), t.done, t.value) for t in loaded.trials))
        if loaded.trials and loaded.trials[0].state.terminal:  # an end once written is carried out
            frozen = optuna.load_study(study_name="s", storage=open_storage(folder, None)).trials[0]
            assert frozen.state is TrialState.COMPLETE and frozen.value == 0.5
    assert states == {
        (),
        (("running", 0, None),),
        (("running", 1, None),),
        (("complete", 1, 0.5),),
        (("complete", 1, 0.5), ("running", 0, None)),
    }


def test_a_stale_lock_of_optuna_is_removed(tmp_path: Path) -> None:
    study = new(tmp_path)
    (tmp_path / f"{JOURNAL}.lock").touch()
    repair_journal(tmp_path / JOURNAL)
    started = time.monotonic()
    add(study, 1e-3)
    assert time.monotonic() - started < 2


def test_one_writer(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from search.study import only_writer
with only_writer(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(Mistake, match=f"process {holder.pid}"), only_writer(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with only_writer(tmp_path):
        pass


def test_two_studies_of_one_name_are_refused(tmp_path: Path) -> None:
    new(tmp_path)
    with pytest.raises(Mistake, match="resume it"):
        new(tmp_path)
    with pytest.raises(Mistake, match="no study"):
        Study.read(open_storage(tmp_path, None), "other")


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = Study.create(open_storage(tmp_path, url), "s", "maximize", {"format": 1})
    add(study, 1e-3)
    study.epoch(0, epoch(1, 0.5))
    study.end(0, State.COMPLETE, "", 0.5)
    assert Study.open(open_storage(tmp_path, url), "s").trials == study.trials
    with pytest.raises(Mistake, match="can't be opened"):
        open_storage(tmp_path, "nonsense://x")


def test_a_trial_comes_by_one_write(tmp_path: Path) -> None:
    study = new(tmp_path)
    before = len(journal_lines(tmp_path / JOURNAL))
    add(study, 1e-3)
    lines = journal_lines(tmp_path / JOURNAL)[before:]
    assert len(lines) == 1 and "head_lr" in json.dumps(lines[0])
