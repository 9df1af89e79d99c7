"""The record's storage is locked, away, or restarted meanwhile."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from search import study as studies
from search.folder import SearchFolder
from search.record import State, Trial
from search.study import JOURNAL, Study, open_storage
from spaces.mistakes import Mistake
from tests.faults.postgres import Postgres
from tests.faults.searches import check_complete, epoch_of, fixed_list, outcome, wait_until, written
from tests.search.conftest import killable, medtune

assert killable  # the fixture
SPACE = {"head_lr": FloatDistribution(1e-4, 1e-1, log=True)}


def add(study: Study) -> Trial:
    number = len(study.trials)
    lr = 1e-3 * (1 + number)
    return study.add({"head_lr": lr}, {"head_lr": lr}, SPACE, seed=number, job=f"job-{number}", why="tpe")


def fill(study: Study, trials: int) -> None:
    for _ in range(trials):
        number = add(study).number
        for epoch in (1, 2):
            study.epoch(number, epoch_of(number, epoch))
        study.end(number, State.COMPLETE, "", 0.5)


def test_a_locked_journal_is_waited_for(tmp_path: Path) -> None:
    """While another process holds the journal's lock, writes wait; then they are all there, once."""
    study = Study.create(open_storage(tmp_path, None), "s", "maximize", {})
    lock = tmp_path / f"{JOURNAL}.lock"
    lock.touch()
    threading.Timer(2, lock.unlink).start()
    started = time.monotonic()
    fill(study, 2)
    print(f"locked for 2 s: written after {time.monotonic() - started:.1f} s")
    assert 1.5 < time.monotonic() - started < 10
    assert Study.read(open_storage(tmp_path, None), "s").trials == study.trials


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    """While another process holds a SQLite study's lock for longer than SQLite itself waits, writes wait; then they are
    all there, once."""
    import sqlite3

    url = f"sqlite:///{tmp_path / 'study.db'}?timeout=0.2"
    study = Study.create(open_storage(tmp_path, url), "s", "maximize", {})
    other = sqlite3.connect(tmp_path / "study.db", check_same_thread=False, isolation_level=None)
    other.execute("begin exclusive")
    threading.Timer(2, lambda: other.execute("commit")).start()
    started = time.monotonic()
    fill(study, 1)
    assert time.monotonic() - started > 1.5
    assert Study.read(open_storage(tmp_path, url), "s").trials == study.trials


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_postgresql_restarted_under_a_search(tmp_path: Path, postgres: Postgres, killable: Any) -> None:
    """PostgreSQL crashes under a search and is back after 30 s: no trial fails, each is there once with each of its
    epochs once, and nobody is asked to do anything."""
    away = 30
    settings = written(tmp_path, fixed_list(tmp_path, 6, 30, study=postgres.url))
    found = SearchFolder(tmp_path / "runs" / "fixed")
    command = killable("search", settings)
    wait_until(lambda: found.path.exists(), 200, "the search's folder")
    wait_until(lambda: sum(t.done for t in found.study().trials) >= 3, 900, "three epochs")
    postgres.stop("immediate")
    time.sleep(away)
    assert command.process.poll() is None
    postgres.start()
    assert command.process.wait(timeout=1500) == 0
    check_complete(found, 6)
    log = found.log.read_text()
    assert "the record's database doesn't answer" in log and "answers again after" in log
    print(f"PostgreSQL away for {away} s: {[line for line in log.splitlines() if 'answers again' in line]}")


@pytest.mark.slow
def test_every_write_of_a_database_that_crashes(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that the database carried out though the connection broke isn't carried out twice; one that finds the
    database away for longer than is waited for ends with a sentence, and the record goes on where it was."""
    study = Study.create(open_storage(tmp_path, postgres.url), "s", "maximize", {})
    for name in ("create_new_trial", "set_trial_user_attr", "set_trial_intermediate_value", "set_trial_state_values"):
        broken = getattr(study.storage, name)
        left = [True]

        def carried_out(*arguments: Any, broken: Any = broken, left: list[bool] = left, **options: Any) -> Any:
            done = broken(*arguments, **options)
            if left:
                left.clear()
                raise studies.optuna.exceptions.StorageInternalError("the connection broke after the commit")
            return done

        monkeypatch.setattr(study.storage, name, carried_out)
        fill(study, 1)
        assert not left
    loaded = Study.read(open_storage(tmp_path, postgres.url), "s").trials
    assert len(loaded) == 4 and loaded == study.trials
    monkeypatch.setattr(studies, "PATIENCE", 1.0)
    postgres.stop("immediate")
    with pytest.raises(Mistake, match="the record's database hasn't answered for .* medtune resume s"):
        fill(study, 1)
    with pytest.raises(Mistake, match="can't be opened"):
        open_storage(tmp_path, postgres.url)
    postgres.start()
    again = Study.open(open_storage(tmp_path, postgres.url), "s")
    assert again.trials == loaded
    fill(again, 1)
    assert [outcome(t) for t in again.trials][:4] == [outcome(t) for t in loaded] and len(again.trials) == 5


@pytest.mark.slow
def test_a_search_without_its_database(tmp_path: Path) -> None:
    """A search whose database isn't there is told so before anything is written."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nobody = f"postgresql+psycopg://medtune:secret@127.0.0.1:{port}/postgres"
    done = medtune("search", written(tmp_path, fixed_list(tmp_path, 2, 2, study=nobody)))
    assert done.returncode == 2 and "study: the storage can't be opened" in done.stderr
    assert "Traceback" not in done.stderr and "secret" not in done.stderr
    assert not list((tmp_path / "runs").glob("*fixed*"))
