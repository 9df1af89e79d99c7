"""Starts a search, or goes on with one: puts Ray Tune together and drives it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from search import folder as folders
from search.cluster import Node, Room, check_address, check_cluster, check_labels, nodes, wanted_of
from search.cluster import connect as connect
from search.console import Console, chatter_to
from search.ending import DRIVER as DRIVER
from search.ending import leave, take_away
from search.folder import SETTINGS, SearchFolder
from search.head import watched
from search.identity import MAY_CHANGE, identity, meaning, refuse_changes, settings_differences
from search.newcomers import Newcomers
from search.plan import Plan, plan
from search.preflight import GIB, look_at, preflight
from search.record import Trial
from search.sampler import Comparing, Sampler, sampler_of
from search.settings import load
from search.study import JOURNAL, Study, existing_storage, only_writer, repair_journal
from search.tracking import start_mirror
from search.view import View
from spaces.config import Direction, ResourcesConfig, SearchConfig
from spaces.dimensions import Space
from spaces.library import trial_config
from spaces.mistakes import Mistake
from spaces.strict import digest
from spaces.words import counted
from trainables.object_store import below
from trainables.outages import outage

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends Tune through its own SIGUSR1
    "TUNE_GLOBAL_CHECKPOINT_S": "100000000",  # the record is ours; Tune's snapshot isn't needed
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # a cluster that grows sees all that wait; the searcher holds back
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LARGEST_GROUP = 64
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
    command: str = "",
) -> SearchFolder:
    """A new search, from its first trial to its last.

    Args:
        config: the settings.
        base: folder that the dataset's root is relative to; that of the settings file, usually.
        address: of a Ray cluster; None starts one on this machine.
        console: where the person watches; None prints nothing.
        make_sampler: what says which trials to run; a benchmark replays a list of them.
        command: what was typed to start it, as it may leave this machine (search.disclosure.public_command).

    Returns:
        The search's folder.

    Raises:
        Mistake: before anything is written.
        Interrupted: by Ctrl-C.
    """
    console = console or Console.silent()
    if reason := folders.taken(config):
        raise Mistake(reason)
    _check(config.resources, address)
    with console.working("looking at the data") as progress:
        planned = plan(config, base, cluster=address is not None, progress=progress)
    return start(planned, address=address, console=console, make_sampler=make_sampler, command=command)


def start(
    planned: Plan,
    *,
    address: str | None,
    console: Console,
    make_sampler: MakeSampler = sampler_of,
    command: str = "",
) -> SearchFolder:
    """As `search`, of what was planned."""
    found = folders.create(planned, identity(planned) | ({"command": command} if command else {}))
    console.started(planned, found.path)
    try:
        _run(found, planned, address, console, make_sampler)
    except Mistake:
        folders.discard_empty(found)
        raise
    return found


def resume(
    found: SearchFolder,
    *,
    address: str | None = None,
    console: Console | None = None,
    changes: Sequence[str] = (),
    accept_code: bool = False,
) -> SearchFolder:
    """Goes on with a search: finished trials stay, unfinished ones continue from their newest checkpoint.

    Args:
        changes: settings like `budget.trials=100`, kept for later resumes too.
        accept_code: go on though the code of trials isn't that which the search was started with.

    Raises:
        Mistake: what the search means has changed, or another process runs it.
        Interrupted: by Ctrl-C.
    """
    config = load(found.path / SETTINGS, changes)
    if changed := settings_differences(meaning(found.config()), meaning(config)):
        raise Mistake(
            *(
                f"--set: {difference}; a continued search may not change it. Leave it out, or "
                "search under another name."
                for difference in changed
            ),
            f"--set: a resume may change {', '.join(sorted(MAY_CHANGE))}; use medtune extend for a wider space.",
        )
    console = console or Console.silent()
    _check(config.resources, address)
    with console.working("looking at the data") as progress:
        planned = plan(config, found.path, cluster=address is not None, going_on=True, progress=progress)
    _run(found, planned, address, console, accept_code=accept_code, keep=bool(changes), going_on=True)
    return found


def _check(wanted: ResourcesConfig, address: str | None) -> None:
    """That there is a cluster at an address, where one is given, with room for a trial; that nodes aren't chosen where
    none is."""
    check_labels(wanted, address)
    if address is None:
        return
    check_address(address)
    _set_up_ray()
    import ray

    with chatter_to(Path(os.devnull)):  # Ray tells of every attempt
        check_cluster(ray, address, wanted)


def _set_up_ray() -> None:
    """To be called before Ray is imported."""
    os.environ.update({name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()})


def _run(
    found: SearchFolder,
    planned: Plan,
    address: str | None,
    console: Console,
    make_sampler: MakeSampler = sampler_of,
    accept_code: bool = False,
    keep: bool = False,
    going_on: bool = False,
) -> None:
    """
    Args:
        accept_code: as for `resume`.
        keep: write the settings into the search's folder.
        going_on: the search was started before; the person is told with what.
    """
    config = planned.config
    with only_writer(found.path):
        torn = repair_journal(found.path / JOURNAL)
        if torn:
            console.print(f"The record ended in half a line, which was cut off and kept in {torn.name}.")
        study = Study.open(existing_storage(found.path, config.study), config.name)
        now, accepted = identity(planned), {change["code"] for change in study.accepted}
        console.print(*refuse_changes(study.identity, now, accepted, accept_code=accept_code))
        if config.budget.trials < len(study.trials) and keep:
            raise Mistake(
                f"--set budget.trials={config.budget.trials}: the record has {counted(len(study.trials), 'trial')} "
                "already; give their number, for no further ones, or more."
            )
        if now["code"] not in (study.identity["code"], *accepted):
            study.accept_code(now["code"])
        if folders.mend_data(found, planned.prepared):
            console.print(f"{folders.DATA}: it wasn't what the search began with; written again, from the data.")
        if keep:
            folders.write_settings(found, config)
        if going_on:
            console.goes_on(planned, found.path, study.trials)
        sampler = make_sampler(config, planned.space, planned.direction, study.trials)
        started = time.perf_counter()
        with chatter_to(found.log):
            from search.scheduler import Driver
            from trainables.trial_files import halt

            _take_back_outages(found, study.trials)
            driver = Driver(
                config,
                planned.direction,
                study,
                sampler,
                study.identity["first"],
                _orders(found, planned),
                partial(halt, found.path),
                group_size(planned, planned.concurrent),
                found.path,
            )
            with View(driver, console):
                tracking = _drive(driver, found, planned, address, console)
        left = [t for t in study.trials if not t.state.terminal]
        costs = {
            "wall_seconds": time.perf_counter() - started,
            "record_seconds": driver.seconds,
            "tracking_seconds": tracking,
        }
        leave(found.path, costs, driver.ending)
        console.ended(study, found, driver)
        if driver.stopping.is_set() and (left or len(study.trials) < config.budget.trials):
            raise Interrupted


def _drive(driver: Any, found: SearchFolder, planned: Plan, address: str | None, console: Console) -> float:
    """Ray Tune, from connecting to shutting down. Returns the seconds that tracking took."""
    _set_up_ray()
    import ray
    from ray import tune

    from search.scheduler import RecordScheduler, RecordSearcher

    resources = planned.config.resources
    with console.working("starting Ray" if address is None else f"connecting to {address}"):
        connect(ray, address)
    with (
        _graceful_signals(driver, console),
        _shut_down_after(ray, found),
        watched(ray._private.worker.global_worker.node, found.path, console, driver.stopping.is_set),
    ):
        concurrent = planned.concurrent
        if address is not None:
            with console.working("looking at the cluster's nodes"):
                there = nodes(ray)
                concurrent, notices = preflight(ray, planned, found.path)
                joined = Newcomers(there, partial(_look_at_one, ray, planned, found.path), planned.config.name)
            console.print(*notices)
            driver.group = group_size(planned, concurrent)
        tracked = time.perf_counter()
        if planned.config.mlflow != "off":  # not before: what is refused until here leaves nothing behind
            start_mirror(found.path)
        tracking = time.perf_counter() - tracked
        at_once = Room(ray, resources, concurrent, joined) if address is not None else lambda: concurrent
        tuner = tune.Tuner(
            _trainable(tune, resources),
            tune_config=tune.TuneConfig(
                search_alg=RecordSearcher(driver, at_once),
                scheduler=RecordScheduler(driver),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["job"],
                trial_dirname_creator=lambda trial: trial.config["job"],
            ),
            run_config=tune.RunConfig(
                name=_experiment(found),
                storage_path=str(found.path / "ray"),
                failure_config=tune.FailureConfig(max_failures=DEATHS),
                verbose=0,
            ),
        )
        take_away(found.path)
        try:
            tuner.fit()
        except Exception:
            if driver.failure:  # which Tune has wrapped
                raise driver.failure from None
            raise
    return tracking


def _look_at_one(ray: Any, planned: Plan, folder: Path, node: Node) -> list[str]:
    """What is wrong on a node that has joined, if trials may run there; nothing where it has gone again."""
    problems = look_at(ray, planned, folder, wanted_of(planned.config.resources, [node]), patience=None)
    return problems if any(other.id == node.id for other in nodes(ray)) else []


def _trainable(tune: Any, resources: ResourcesConfig) -> Any:
    """What runs a job: in an actor of its own; with several workers from one that holds next to nothing (Ray takes no
    empty request), since Ray Train asks for what they need."""
    from trainables.job import run_job, run_job_in_group

    run, held = run_job, {"CPU": resources.cpus, "GPU": resources.accelerators}
    if resources.workers > 1:
        run, held = run_job_in_group, {"memory": 1}
    on_nodes = {"bundle_label_selector": [resources.labels]} if resources.labels else {}
    held = {name: count for name, count in held.items() if count}
    return tune.with_resources(run, tune.PlacementGroupFactory([held], **on_nodes))


@contextmanager
def _shut_down_after(ray: Any, found: SearchFolder) -> Iterator[None]:
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(found.path / "ray", ignore_errors=True)
        for left in (session / "artifacts").glob(f"*/{_experiment(found)}"):  # Tune's own copies of orders and errors
            shutil.rmtree(left, ignore_errors=True)


def _experiment(found: SearchFolder) -> str:
    """What Tune calls the search: two at once on a cluster, of one name in two storages, don't share it."""
    return f"tune-{digest(str(found.path))[:12]}"


def group_size(planned: Plan, at_once: int) -> int:
    """How many head-only trials one job takes: not so many that the sampler learns nothing or that actors stand idle.

    Args:
        at_once: jobs that run at once.

    One where deeper training is searched too: companions would take trials of the budget from it.
    """
    if planned.config.protocol == "paper":  # its trials keep their best epoch, which a pass doesn't
        return 1
    if planned.config.resources.workers > 1:
        return 1
    if len(planned.prepared.folds) > 1 or set(planned.space.offered("trained_blocks")) != {0}:
        return 1
    return max(1, min(LARGEST_GROUP, planned.config.budget.trials // (2 * max(1, at_once))))


def _orders(found: SearchFolder, planned: Plan) -> Any:
    """What is sent to an actor for the trials of a job."""
    config = planned.config
    assert config.metric is not None and config.dataset.policy is not None  # resolved by the plan
    own = f"{config.name}-{digest(str(found.path))[:8]}"  # searches of one name in two storages may share an address
    checkpoints = below(config.checkpoints, own) if config.checkpoints else None
    activations = None if isinstance(config.activations, str) else int(config.activations * GIB)

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
            "checkpoints": checkpoints,
            "activations": activations,
            "threads": config.resources.cpus,
            "accelerators": config.resources.accelerators,
            "workers": config.resources.workers,
            "shard": config.resources.shard,
            "labels": config.resources.labels,
            "hang": config.resources.hang * 60,
        }

    return order


def _take_back_outages(found: SearchFolder, trials: Sequence[Trial]) -> None:
    """Lets trials go on that ended because of their storage before their end came into the record."""
    from trainables.trial_files import END, trial_folder

    for trial in trials:
        end = trial_folder(found.path, trial.number) / END
        if not trial.state.terminal and end.exists() and outage(end.read_text(encoding="utf-8")):
            end.unlink()


@contextmanager
def _graceful_signals(driver: Any, console: Console) -> Iterator[None]:
    """Ctrl-C or SIGTERM once: no new trials, running ones are left resumable. Twice: at once."""

    def stop(number: int, frame: Any) -> None:
        if driver.stopping.is_set():
            console.rich.show_cursor()
            os._exit(128 + number)  # as a kill, after which Ray ends by itself and the record goes on
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
