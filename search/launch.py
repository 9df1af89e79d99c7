"""Starts a search, or goes on with one: puts Ray Tune together and drives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from search import folder as folders
from search.cluster import check_address
from search.cluster import connect as connect
from search.console import Console, View, chatter_to
from search.folder import SearchFolder
from search.identity import identity, refuse_changes
from search.plan import Plan, plan
from search.preflight import preflight
from search.record import Trial
from search.sampler import Comparing, Sampler, sampler_of
from search.study import JOURNAL, Study, only_writer, open_storage, repair_journal
from spaces.config import Direction, SearchConfig
from spaces.dimensions import Space
from spaces.library import trial_config
from spaces.mistakes import Mistake
from trainables.files import write_json
from trainables.prefix import activation_budget

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends Tune through its own SIGUSR1
    "TUNE_GLOBAL_CHECKPOINT_S": "100000000",  # the record is ours; Tune's snapshot isn't needed
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
DRIVER = "driver.json"  # what the last launch cost its driver
LARGEST_GROUP = 16
MakeSampler = Callable[[SearchConfig, Space, Direction, Sequence[Trial]], Sampler | Comparing]
DEATHS = 2  # of a job's worker that are retried from the newest checkpoint


class Interrupted(KeyboardInterrupt):
    """The person stopped the search; it can be resumed."""


def search(
    config: SearchConfig,
    base: Path,
    *,
    address: str | None = None,
    console: Console | None = None,
    make_sampler: MakeSampler = sampler_of,
) -> SearchFolder:
    """A new search, from its first trial to its last.

    Args:
        config: the settings.
        base: folder that the dataset's root is relative to; that of the settings file, usually.
        address: of a Ray cluster; None starts one on this machine.
        console: where the person watches; None prints nothing.
        make_sampler: what says which trials to run; a benchmark replays a list of them.

    Returns:
        The search's folder.

    Raises:
        Mistake: before anything is written.
        Interrupted: by Ctrl-C.
    """
    console = console or Console.silent()
    if address is not None:
        check_address(address)
    with console.working("looking at the data") as progress:
        planned = plan(config, base, cluster=address is not None, progress=progress)
    found = folders.create(planned, identity(planned))
    console.started(planned, found.path)
    try:
        _run(found, planned, address, console, make_sampler)
    except Mistake:
        if not found.study().trials:
            shutil.rmtree(found.path)
        raise
    return found


def resume(found: SearchFolder, *, address: str | None = None, console: Console | None = None) -> SearchFolder:
    """Goes on with a search: finished trials stay, unfinished ones continue from their newest checkpoint.

    Raises:
        Mistake: what the search means has changed, or another process runs it.
        Interrupted: by Ctrl-C.
    """
    console = console or Console.silent()
    if address is not None:
        check_address(address)
    with console.working("looking at the data") as progress:
        planned = plan(found.config(), found.path, cluster=address is not None, going_on=True, progress=progress)
    _run(found, planned, address, console)
    return found


def _run(
    found: SearchFolder,
    planned: Plan,
    address: str | None,
    console: Console,
    make_sampler: MakeSampler = sampler_of,
) -> None:
    config = planned.config
    with only_writer(found.path):
        torn = repair_journal(found.path / JOURNAL)
        if torn:
            console.print(f"The record ended in half a line, which was cut off and kept in {torn.name}.")
        study = Study.open(open_storage(found.path, config.study), config.name)
        for notice in refuse_changes(study.identity, identity(planned)):
            console.print(notice)
        sampler = make_sampler(config, planned.space, planned.direction, study.trials)
        started = time.perf_counter()
        with chatter_to(found.log):
            from search.scheduler import Driver
            from trainables.job import halt

            tracked = time.perf_counter()
            if config.mlflow != "off":
                _start_mirror(found)
            tracking = time.perf_counter() - tracked
            driver = Driver(
                config,
                planned.direction,
                study,
                sampler,
                study.identity["first"],
                _orders(found, planned),
                partial(halt, found.path),
                _group(planned),
            )
            with View(driver, console):
                _drive(driver, found, planned, address, console)
        left = [t for t in study.trials if not t.state.terminal]
        costs = {
            "wall_seconds": time.perf_counter() - started,
            "record_seconds": driver.seconds,
            "tracking_seconds": tracking,
        }
        write_json(found.path / DRIVER, costs)
        console.ended(study, found, driver)
        if driver.stopping.is_set() and (left or len(study.trials) < config.budget.trials):
            raise Interrupted


def _drive(driver: Any, found: SearchFolder, planned: Plan, address: str | None, console: Console) -> None:
    """Ray Tune, from connecting to shutting down."""
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()})
    import ray
    from ray import tune

    from search.scheduler import RecordScheduler, RecordSearcher
    from trainables.job import run_job

    resources = planned.config.resources
    with console.working("starting Ray" if address is None else f"connecting to {address}"):
        connect(ray, address)
    try:
        concurrent = planned.concurrent
        if address is not None:
            with console.working("looking at the cluster's nodes"):
                concurrent, notices = preflight(ray, planned, found.path)
            console.print(*notices)
        tuner = tune.Tuner(
            tune.with_resources(run_job, {"cpu": resources.cpus, "gpu": resources.accelerators}),
            tune_config=tune.TuneConfig(
                search_alg=RecordSearcher(driver),
                scheduler=RecordScheduler(driver),
                num_samples=-1,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["job"],
                trial_dirname_creator=lambda trial: trial.config["job"],
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(found.path / "ray"),
                failure_config=tune.FailureConfig(max_failures=DEATHS),
                verbose=0,
            ),
        )
        with _graceful_signals(driver, console):
            tuner.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(found.path / "ray", ignore_errors=True)


def _group(planned: Plan) -> int:
    """How many head-only trials one job takes: not so many that the sampler learns nothing or that actors stand idle.

    One where deeper training is searched too: companions would take trials of the budget from it.
    """
    if planned.config.protocol == "paper":  # its trials keep their best epoch, which a pass doesn't
        return 1
    if len(planned.prepared.folds) > 1 or set(planned.space.offered("trained_blocks")) != {0}:
        return 1
    return max(1, min(LARGEST_GROUP, planned.config.budget.trials // (2 * max(1, planned.concurrent))))


def _orders(found: SearchFolder, planned: Plan) -> Any:
    """What is sent to an actor for the trials of a job."""
    config = planned.config
    assert config.metric is not None and config.dataset.policy is not None  # resolved by the plan
    activations = activation_budget(planned.cache, config.activations)

    def order(trials: list[Trial]) -> dict[str, Any]:
        return {
            "job": trials[0].job,
            "trials": [
                {
                    "number": trial.number,
                    "config": trial_config(
                        config,
                        trial.point,
                        metric=str(config.metric),
                        policy=str(config.dataset.policy),
                        seed=trial.seed,
                    ).plain(),
                }
                for trial in trials
            ],
            "search": str(found.path),
            "dataset": config.dataset.plain(),
            "cache": str(planned.cache),
            "activations": activations,
            "threads": config.resources.cpus,
            "accelerators": config.resources.accelerators,
        }

    return order


def _start_mirror(found: SearchFolder) -> None:
    """MLflow's mirror of the record, in a process of its own that outlives this one until it is up to date."""
    with (found.path / "mlflow.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "search.cli", "sync", str(found.path), "--follow"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextmanager
def _graceful_signals(driver: Any, console: Console) -> Iterator[None]:
    """Ctrl-C or SIGTERM once: no new trials, running ones are left resumable. Twice: at once."""

    def stop(number: int, frame: Any) -> None:
        if driver.stopping.is_set():
            raise KeyboardInterrupt
        driver.stopping.set()
        console.print(
            "Stopping; a resume continues the trials from their newest checkpoints. Once more to stop at once."
        )
        if callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
