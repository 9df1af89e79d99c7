"""One trial stopped by a person: the driver sees the request, the record has the cause, the others go on."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from search.cancellation import CAUSE, ask, asked, cancel
from search.folder import SearchFolder
from search.record import State
from search.study import only_writer
from spaces.mistakes import Mistake
from tests.search.conftest import status, succeed, write_digits
from tests.search.test_report import make
from tests.search.test_resume import wait_for
from tests.search.test_scheduler import driver, epoch


def test_the_driver_ends_what_was_asked_and_only_that(tmp_path: Path) -> None:
    one = driver(tmp_path)
    halted: list[int] = []
    one.search, one.halt = tmp_path, halted.append
    one.next_job(), one.next_job()
    ask(tmp_path, 0)
    one.cancel_what_was_asked()
    first, second = one.study.trials
    assert (first.state, first.cause) == (State.CANCELLED, CAUSE) and second.state is State.RUNNING
    assert halted == [0] and asked(tmp_path) == []
    assert not one.told([epoch(0, 1, 0.9)], [0]), "its job is stopped at its next report"
    assert one.told([epoch(1, 1, 0.9)], [1])
    assert first.done == 0, "what it tells after its end isn't taken in"


def test_a_request_that_was_left_is_answered_by_the_next_driver(tmp_path: Path) -> None:
    one = driver(tmp_path)
    one.next_job(), one.next_job()
    ask(tmp_path, 0)  # and the driver dies
    again = driver(tmp_path)
    again.search = tmp_path
    assert again.next_job() == {"trials": [{"number": 1}]}, "the cancelled one isn't continued"
    assert again.study.trials[0].state is State.CANCELLED


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    """A search whose last trial, number 7, is unfinished."""
    folder = tmp_path_factory.mktemp("cancellation")
    write_digits(folder / "secret-folder", 150)
    return make(folder, 8, name="found")


def test_mistakes(found: SearchFolder) -> None:
    with pytest.raises(Mistake, match="trial 0 has ended already: it is complete"):
        cancel(found, 0)
    with pytest.raises(Mistake, match="no trial 8; its trials: 0 to 7"):
        cancel(found, 8)


def test_where_nobody_runs_the_search_the_record_is_written(found: SearchFolder) -> None:
    with only_writer(found.path):
        answers: list[bool] = []
        waiting = threading.Thread(target=lambda: answers.append(cancel(found, 7, patience=0.1)))
        waiting.start()
        waiting.join()
        assert answers == [False] and asked(found.path) == [7], "a driver that doesn't look is asked"
    assert "Trial 7 is cancelled." in succeed("cancel", found.path, 7)
    trial = found.study().trials[7]
    assert (trial.state, trial.cause) == (State.CANCELLED, CAUSE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_running_search(settings: Path, tmp_path: Path, killable: Any) -> None:
    folder = tmp_path / "runs" / "digits"
    settings.write_text(settings.read_text().replace("trials: 8, epochs: 4", "trials: 3, epochs: 150"))
    fixed = ["--set", "mlflow=off", "--set", "resources.concurrent=1", "--set", "stopping.rule=off"]
    started = killable("search", settings, *fixed)
    wait_for(folder, 3, timeout=450)
    asked_at = time.monotonic()
    assert "is cancelled" in succeed("cancel", folder, 0)
    took = time.monotonic() - asked_at
    print(f"cancelled after {took:.1f} s")
    assert took < 15
    trial = SearchFolder(folder).study().trials[0]
    assert (trial.state, trial.cause) == (State.CANCELLED, CAUSE) and 0 < trial.done < 150
    deadline = time.monotonic() + 120
    while len(SearchFolder(folder).study().trials) < 2 or not SearchFolder(folder).study().trials[1].epochs:
        assert time.monotonic() < deadline, "the next trial didn't start"
        time.sleep(0.3)
    assert started.process.poll() is None
    assert status(folder)["states"]["cancelled"] == 1
