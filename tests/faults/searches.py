"""Searches for the tests of faults: real ones that cost little, and records that were made without running anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

from search import folder as folders
from search import ui
from search.folder import SearchFolder
from search.identity import identity
from search.plan import Plan, plan
from search.record import Epoch, State, Trial
from search.sampler import sampler_of
from search.study import JOURNAL, only_writer
from search.tracking import local_uri, search_facts
from spaces.config import SearchConfig
from tests.search.conftest import write_digits
from tests.search.test_resume import history

Settings = dict[str, Any]


def fixed_list(folder: Path, trials: int, epochs: int, *, images: int = 150, **more: Any) -> Settings:
    """Settings of a search of a fixed list of configurations, none of which is stopped early: in whatever order they
    run, each comes to the same value. The images are written into `folder`.

    Args:
        trials: configurations in the list.
        epochs: of each.
    """
    if not (folder / "images").exists():
        write_digits(folder / "images", images)
    fixed = {"trained_blocks": "all", "batch_size": 32, "head": "linear", "adapter": None}
    return {
        "name": "fixed",
        "dataset": {"reader": "folder", "root": str(folder / "images"), "policy": "digits"},
        "backbones": ["mae_tiny"],
        "weights": "random",
        "space": {**fixed, "head_lr": {"float": [1e-4, 1e-1], "log": True}},
        "try": [{"backbone": "mae_tiny", "head_lr": round(1e-3 * 1.1**number, 8)} for number in range(trials)],
        "expert_first": False,
        "budget": {"trials": trials, "epochs": epochs},
        "stopping": {"rule": "off"},
        "metric": "accuracy",
        "storage": str(folder / "runs"),
        "mlflow": "off",
        **more,
    }


def written(folder: Path, settings: Settings) -> Path:
    """The settings as a file, which is YAML too."""
    path = folder / f"{settings['name']}.yaml"
    path.write_text(json.dumps(settings))
    return path


def created(folder: Path, trials: int, **more: Any) -> tuple[SearchFolder, Plan]:
    """A search that has no trial yet."""
    settings = fixed_list(folder, trials, 2, images=100, **more)
    planned = plan(SearchConfig.parse(settings, "settings"), folder)
    return folders.create(planned, identity(planned)), planned


def recorded(folder: Path, ended: int = 4, running: int = 1, **more: Any) -> SearchFolder:
    """A search with complete and unfinished trials in its record, of which none was run."""
    found, planned = created(folder, ended + running, **more)
    sampler = sampler_of(planned.config, planned.space, planned.direction, [])
    with only_writer(found.path):
        study = found.study()
        for number in range(ended + running):
            point = planned.first[number]
            keyed, distributions = planned.space.keyed(point), sampler.distributions(point)
            study.add(point, keyed, distributions, seed=number, job=f"job-{number:05d}", why="first configurations")
            for epoch in (1, 2) if number < ended else (1,):
                study.epoch(number, epoch_of(number, epoch))
            if number < ended:
                study.end(number, State.COMPLETE, "", 0.5 + number / 100)
    return found


def epoch_of(number: int, epoch: int) -> Epoch:
    """What a trial might report."""
    value = 0.4 + number / 100 + epoch / 1000
    return Epoch(epoch, value, 0.01, 1.0, {"accuracy": value}, 0.5, 1.7e9 + 100 * number + epoch)


def values(found: SearchFolder) -> dict[str, tuple[float | None, list[float], list[float]]]:
    """Of each trial of a fixed list, by its point: value, the metric and the loss after each epoch."""
    return {json.dumps(trial.point, sort_keys=True): outcome(trial) for trial in found.study().trials}


def outcome(trial: Trial) -> tuple[float | None, list[float], list[float]]:
    return trial.value, trial.values(), [trial.epochs[e].train_loss for e in sorted(trial.epochs)]


def check_whole(found: SearchFolder, trials: int) -> None:
    """Exactly the trials that were ordered, complete; none, and no epoch of one, twice."""
    happened = history(found.path)
    assert len(happened["created"]) == trials
    assert len({json.dumps(point, sort_keys=True) for point in happened["created"]}) == trials
    assert len(set(happened["epochs"])) == len(happened["epochs"])
    assert sorted(happened["ended"]) == list(range(trials))
    check_complete(found, trials)


def check_complete(found: SearchFolder, trials: int) -> None:
    study = found.study()
    assert [(t.number, str(t.state), t.cause) for t in study.trials] == [(n, "complete", "") for n in range(trials)]
    for trial in study.trials:
        assert sorted(trial.epochs) == list(range(1, found.config().budget.epochs + 1))


def epochs_in(folder: Path) -> int:
    """Epochs in a journal."""
    return len(history(folder)["epochs"]) if (folder / JOURNAL).exists() else 0


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Returns the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - started


def mlflow_runs(store: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Of each trial's run in a store of MLflow, by its tag: step and value of the accuracy, as they came.

    Args:
        store: a SQLite file, or the address of a database in PostgreSQL.

    Raises:
        AssertionError: two runs of one trial.
    """
    engine = create_engine(store if isinstance(store, str) else f"sqlite:///{store}", poolclass=NullPool)
    came = "rowid" if isinstance(store, Path) else "ctid"  # where a row lies
    with engine.connect() as connection:
        tagged = connection.execute(
            text(
                "select t.value, t.run_uuid from tags t join runs r on r.run_uuid = t.run_uuid "
                "where t.key = 'medtune.trial' and r.lifecycle_stage = 'active'"
            )
        ).all()
        assert len({tag for tag, _ in tagged}) == len(tagged), "a trial has two runs"
        of_run = text(f"select step, value from metrics where run_uuid = :run and key = 'accuracy' order by {came}")
        return {tag: [(s, v) for s, v in connection.execute(of_run, {"run": run})] for tag, run in tagged}


def check_mirrored(found: SearchFolder, store: str | Path) -> None:
    """One run a trial, with each of its epochs once and in order."""
    study, runs, identifier = found.study(), mlflow_runs(store), search_facts(found.path).identifier
    own = {tag.rpartition(":")[2]: steps for tag, steps in runs.items() if tag.startswith(f"{identifier}:")}
    assert own == {str(t.number): [(e, t.epochs[e].value) for e in sorted(t.epochs)] for t in study.trials}


@contextmanager
def mlflow_server(folder: Path, port: int, store: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's own server, in a process group of its own, on a SQLite store in `folder` or on another. It may be killed
    meanwhile."""
    environment = os.environ | ui.SERVER_SETTINGS | {"TMPDIR": str(folder)}
    command = ui.server_command(store or local_uri(folder), port, folder / "artifacts")
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        ui._wait_for(server, port)
        yield server
    finally:
        kill_group(server)


def kill_group(leader: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all of its group, which doesn't end with it."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def ran(*arguments: object, seconds: float = 1500) -> subprocess.CompletedProcess[str]:
    """A search or a resume that is waited for."""
    command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


def run_in(folder: Path, code: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, which may be killed there."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        **more,
    )
