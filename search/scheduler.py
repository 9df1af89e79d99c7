"""Ray Tune's scheduler and searcher of a search: they write the record and ask it; Tune only executes.

Tune calls the scheduler first with every result. It writes what came, then asks `rungs.decide`. The searcher only asks
for what comes next, since Tune doesn't show it the result on which a trial is stopped.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search import rungs
from search.record import Epoch, State, Trial
from search.sampler import Exhausted, Sampler
from search.study import Study
from spaces.config import Direction, SearchConfig
from spaces.dimensions import Point

log = logging.getLogger(__name__)


class Driver:
    """The search as its driver sees it: one object that writes the record, for both of Tune's interfaces."""

    def __init__(
        self,
        config: SearchConfig,
        direction: Direction,
        study: Study,
        sampler: Sampler,
        first: list[Point],
        order: Callable[[list[Trial]], dict[str, Any]],
    ) -> None:
        """
        Args:
            first: configurations to be tried before the sampler is asked.
            order: what is sent to an actor for the trials of a job (a trainables.job.JobOrder).
        """
        self.config, self.direction, self.study, self.sampler = config, direction, study, sampler
        self.first, self.order = first, order
        self.unfinished = _jobs([t for t in study.trials if not t.state.terminal])
        self.deadline = time.monotonic() + config.budget.hours * 3600 if config.budget.hours else None
        self.stopping = threading.Event()
        self.notice = ""
        self.seconds = 0.0
        """Time spent in here: what the record costs the driver."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Driver:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to continue from; we continue from the record

    @property
    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def next_job(self) -> dict[str, Any] | None:
        """Trials for an actor: unfinished ones of an earlier launch, then first configurations, then the sampler's.
        None when there is nothing more to start."""
        if self.stopping.is_set() or self.out_of_time:
            return None
        if self.unfinished:
            return self.order(self.unfinished.pop(0))
        number = len(self.study.trials)
        if number >= self.config.budget.trials:
            return None
        if number < len(self.first):
            point, why = self.first[number], "first configurations"
        else:
            try:
                point, why = self.sampler.ask(number), self.config.sampler
            except Exhausted:
                self.notice = f"every configuration of this space was tried after {number} trials"
                return None
        trial = self.study.add(
            point,
            self.sampler.space.keyed(point),
            self.sampler.distributions(point),
            seed=self.config.seed + number,
            job=f"job-{number:05d}",
            why=why,
        )
        if why == "first configurations":
            self.sampler.add(trial)
        return self.order([trial])

    def told(self, message: dict[str, Any]) -> bool:
        """Writes what a job told (see trainables.job). Returns whether the job goes on."""
        number = message["trial"]
        if "epoch" in message:
            self.study.epoch(number, Epoch.from_plain(message["epoch"]))
            if message["epoch"]["epoch"] < self.study.trials[number].done and "end" not in message:
                return True  # told again by a trial that goes on: it was decided upon before
        if "end" in message:
            end = message["end"]
            self.end(number, State(end["state"]), end["cause"], end["value"])
            return True
        if self.study.trials[number].state.terminal:
            return False
        decision = rungs.decide(
            self.study.trials,
            number,
            message["epoch"]["epoch"],
            epochs=self.config.budget.epochs,
            stopping=self.config.stopping,
            direction=self.direction,
        )
        if not decision.go_on:
            self.end(number, State.PRUNED, decision.cause)
        return decision.go_on and not self.stopping.is_set() and not self.out_of_time

    def end(self, number: int, state: State, cause: str, value: float | None = None) -> None:
        if not self.study.trials[number].state.terminal:
            self.study.end(number, state, cause, value)
            self.sampler.end(self.study.trials[number])


class RecordScheduler(FIFOScheduler):
    """First in, first out; every result goes into the record before anything is decided."""

    _supports_buffered_results = False

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        if "message" not in result:  # Tune's own closing message of a function
            return TrialScheduler.CONTINUE
        started = time.perf_counter()
        goes_on = self.driver.told(json.loads(result["message"]))
        self.driver.seconds += time.perf_counter() - started
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """The actor died more often than is retried, or the job raised an error (told before, then)."""
        for number in _numbers(trial):
            self.driver.end(number, State.FAILED, "its worker process died repeatedly; see the log of the search")

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        if self.driver.stopping.is_set() or self.driver.out_of_time:
            return
        for number in _numbers(trial):
            self.driver.end(number, State.FAILED, "its job ended without telling a result")


class RecordSearcher(Searcher):
    """Gives Tune the next job. Results go to the scheduler."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        started = time.perf_counter()
        job = self.driver.next_job()
        self.driver.seconds += time.perf_counter() - started
        return Searcher.FINISHED if job is None else job

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


def _numbers(trial: TuneTrial) -> list[int]:
    return [order["number"] for order in trial.config["trials"]]


def _jobs(trials: list[Trial]) -> list[list[Trial]]:
    """Unfinished trials, those of one job together, in the order of their numbers."""
    jobs: dict[str, list[Trial]] = {}
    for trial in trials:
        jobs.setdefault(trial.job, []).append(trial)
    return list(jobs.values())
