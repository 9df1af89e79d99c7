"""MLflow's server away for a time, for ever, or from the start; two searches at once in it."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from search import ui
from search.folder import SearchFolder
from search.tracking import reachable
from spaces.mistakes import Mistake
from tests.faults.searches import (
    check_mirrored,
    check_whole,
    epochs_in,
    fixed_list,
    kill_group,
    mlflow_runs,
    mlflow_server,
    wait_until,
    written,
)
from tests.search.conftest import killable, medtune, succeed

assert killable  # the fixture
AWAY = 60  # seconds
TRIALS, EPOCHS = 12, 400


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_away_for_a_time_then_for_ever(tmp_path: Path, killable: Any) -> None:
    """A server that is killed under a search and comes back gets every epoch once and in order, and nobody does
    anything; one that doesn't come back holds up nothing: the search finishes, and a later sync completes it."""
    port = ui.free_port()
    settings = fixed_list(tmp_path, TRIALS, EPOCHS, mlflow=f"http://{ui.HOST}:{port}")
    found, database = SearchFolder(tmp_path / "runs" / "fixed"), tmp_path / "mlflow.db"
    with mlflow_server(tmp_path, port) as server:
        command = killable("search", written(tmp_path, settings))
        wait_until(lambda: epochs_in(found.path) >= 3, 900, "three epochs")
        wait_until(lambda: database.exists() and any(mlflow_runs(database).values()), 120, "an epoch in MLflow")
        kill_group(server)
    with pytest.raises(Mistake):
        reachable(settings["mlflow"], 1)
    before = epochs_in(found.path)
    time.sleep(AWAY)
    print(f"MLflow away for {AWAY} s: {epochs_in(found.path) - before} epochs meanwhile")
    assert command.process.poll() is None and epochs_in(found.path) > before
    with mlflow_server(tmp_path, port):
        known = epochs_in(found.path)

        def caught_up() -> bool:
            return sum(map(len, mlflow_runs(database).values())) >= known

        took = wait_until(caught_up, 120, "what happened meanwhile, in MLflow")
        print(f"back: up to date after {took:.1f} s")
    gone = time.monotonic()
    assert command.process.wait(timeout=1500) == 0  # without a server, from here on
    print(f"away for ever: the search ended {time.monotonic() - gone:.0f} s later")
    check_whole(found, TRIALS)
    assert sum(map(len, mlflow_runs(database).values())) < TRIALS * EPOCHS
    command.kill()  # the mirror, which would try for ten minutes more
    done = medtune("sync", found.path)
    assert done.returncode == 2 and f"nothing can be sent to http://{ui.HOST}:{port}" in done.stderr
    with mlflow_server(tmp_path, port):
        succeed("sync", found.path)
        check_mirrored(found, database)
        succeed("sync", found.path)
        check_mirrored(found, database)


@pytest.mark.slow
def test_away_at_the_start(tmp_path: Path) -> None:
    """A search whose MLflow isn't there says so within 10 s, with the address, and offers `mlflow: off` and a later
    sync; nothing is written."""
    address = f"http://{ui.HOST}:{ui.free_port()}"
    settings = written(tmp_path, fixed_list(tmp_path, 2, 2, images=1500, mlflow=address))
    started = time.monotonic()
    done = medtune("search", settings)
    took = time.monotonic() - started
    print(f"known after {took:.1f} s: {done.stderr.strip()}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for words in (address, "mlflow: off", "medtune sync"):
        assert words in done.stderr
    assert took < 10 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # in proportion on a busy machine
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_searches_at_once(tmp_path: Path, killable: Any) -> None:
    """Two searches at once in one experiment both complete, each with its own runs; the same name is refused while its
    search runs, and a search whose driver is dead is not."""
    port = ui.free_port()
    settings = fixed_list(tmp_path, 4, 400, mlflow=f"http://{ui.HOST}:{port}")
    names = ("one", "two")
    files = {name: written(tmp_path, {**settings, "name": name}) for name in names}
    found = {name: SearchFolder(tmp_path / "runs" / name) for name in names}
    with mlflow_server(tmp_path, port):
        commands = {name: killable("search", files[name]) for name in names}
        wait_until(lambda: all(epochs_in(found[name].path) for name in names), 900, "an epoch of both")
        again = medtune("search", files["one"])
        assert again.returncode == 2 and 'there is a search "one"' in again.stderr
        again = medtune("resume", found["one"].path)
        assert again.returncode == 2
        assert f'"one" is being run by process {commands["one"].process.pid}' in again.stderr
        commands["one"].kill()
        commands["one"] = killable("resume", found["one"].path)
        for name in names:
            assert commands[name].process.wait(timeout=1500) == 0
            check_whole(found[name], 4)
        wait_until(lambda: not any(c.all() for c in commands.values()), 120, "the mirrors' end")
    assert len(mlflow_runs(tmp_path / "mlflow.db")) == 8
    for name in names:
        check_mirrored(found[name], tmp_path / "mlflow.db")
