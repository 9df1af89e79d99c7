"""optuna-dashboard opens the record, of a running search too: it reads, the driver writes."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.plan import plan
from search.record import Epoch, State
from search.sampler import Sampler
from search.study import JOURNAL, Study, only_writer, open_storage
from tests.search.conftest import write_digits
from tests.search.test_report import make


@contextmanager
def dashboard(journal: Path) -> Iterator[str]:
    """Address of a dashboard on a record."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).parent / "optuna-dashboard"
    server = subprocess.Popen(
        [program, journal, "--host", "127.0.0.1", "--port", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}/api/studies"
    finally:
        server.kill()
        server.wait()


def test_optuna_dashboard_shows_the_study(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / JOURNAL, tmp_path / JOURNAL)  # it may write notes of its own
    with dashboard(tmp_path / JOURNAL) as address:
        studies = _get(address)["study_summaries"]
        assert [s["study_name"] for s in studies] == ["digits"]
        shown = _get(f"{address}/{studies[0]['study_id']}?after=0")
        assert len(shown["trials"]) == 8


def test_a_record_that_is_being_written(tmp_path: Path) -> None:
    """The driver's own journal, while it holds it: what is written shows, and what is shown disturbs no writing."""
    write_digits(tmp_path / "secret-folder", 150)
    found = make(tmp_path, 3, name="found")
    planned = plan(found.config(), found.path, going_on=True)
    with only_writer(found.path), dashboard(found.path / JOURNAL) as address:
        [study] = _get(address)["study_summaries"]
        of_study = f"{address}/{study['study_id']}?after=0"
        assert len(_get(of_study)["trials"]) == 3

        writer = Study.open(open_storage(found.path, None), "found")
        sampler = Sampler(planned.space, planned.direction, 0, "random", writer.trials)
        for number in range(3, 9):
            point = sampler.ask(number)
            distributions = sampler.distributions(point)
            writer.add(
                point, planned.space.keyed(point), distributions, seed=number, job=f"job-{number:05d}", why="tpe"
            )
            _wait_for(of_study, number, "Running")
            for epoch in (1, 2, 3, 4):
                told = Epoch(epoch, 0.5, 0.02, 1.0, {}, 1.0, writer.trials[number].started + epoch)
                writer.epoch(number, told)
            writer.end(number, State.COMPLETE, "", 0.5)
            _wait_for(of_study, number, "Complete")
    trials = found.study().trials
    assert [trial.number for trial in trials] == list(range(9))
    assert all(trial.done == 4 and trial.value == 0.5 for trial in trials[3:])


def _wait_for(of_study: str, number: int, state: str, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while True:
        shown = {trial["number"]: trial["state"] for trial in _get(of_study)["trials"]}
        if shown.get(number) == state:
            return
        assert time.monotonic() < deadline, f"trial {number} isn't shown as {state} but as {shown.get(number)}"
        time.sleep(0.1)


def _get(address: str, patience: float = 60) -> Any:
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "the dashboard doesn't answer"
            time.sleep(0.5)
