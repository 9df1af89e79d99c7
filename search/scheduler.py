"""Ray Tune's scheduler and searcher of a search: they write the record and ask it; Tune only executes.

Tune calls the scheduler first with every result. It writes what came, then asks `rungs.Rungs`. The searcher only asks
for what comes next, since Tune doesn't show it the result on which a trial is stopped.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.cancellation import CAUSE, answered, asked
from search.disclosure import public_cause
from search.ending import Ending
from search.outages import sentence
from search.plateau import since_better
from search.record import Epoch, State, Trial
from search.rungs import Rungs
from search.sampler import Comparing, Exhausted, Sampler, of_trials
from search.spent import device_seconds, devices
from search.study import Study
from spaces.config import Direction, SearchConfig
from spaces.dimensions import Point
from spaces.mistakes import Mistake
from spaces.words import counted
from trainables.outages import outage

log = logging.getLogger(__name__)
FIRST = "first configurations"
LOOK = 1.0  # seconds between two looks at what people ask for
NODE_GONE = "its node has died"
"""In an error where a worker went with its machine, which is no fault of the trial: spot machines come and go."""
NODES = 10  # deaths of machines under one job that don't count; more may be its doing after all
OCCURRENCE = "Failure # "  # begins each of them in the file of errors that Tune keeps of a trial
LOW_MEMORY = ("node running low on memory", OutOfMemoryError.__name__)
"""In an error where Ray ended a worker for want of memory. Tune mostly keeps the sentence without its class."""
ALIKE = 5  # failures for one reason, and nothing else, after which no more trials are started


class Driver:
    """The search as its driver sees it: one object that writes the record, for both of Tune's interfaces."""

    def __init__(
        self,
        config: SearchConfig,
        direction: Direction,
        study: Study,
        sampler: Sampler | Comparing,
        first: list[Point],
        order: Callable[[list[Trial]], dict[str, Any]],
        halt: Callable[[int], None] = lambda number: None,
        group: int = 1,
        search: Path | None = None,
    ) -> None:
        """
        Args:
            first: configurations to be tried before the sampler is asked.
            order: what is sent to an actor for the trials of a job (a trainables.trials.JobOrder).
            halt: lets the actor know that one trial of a job isn't to go on.
            group: trials that one job may train in one pass, where they differ in nothing but their heads.
            search: the search's folder, where people ask for trials to be cancelled; None where nobody can.
        """
        self.config, self.direction, self.study, self.sampler = config, direction, study, sampler
        self.first, self.order, self.halt, self.group = first, order, halt, group
        self.refusal: Mistake | None = None
        self.unfinished = _jobs([t for t in study.trials if not t.state.terminal])
        self.deadline = time.monotonic() + config.budget.hours * 3600 if config.budget.hours else None
        self.spent = device_seconds(study.trials, config.resources)
        self.search = search
        self.rungs = Rungs(
            study.trials,
            epochs=config.budget.epochs,
            stopping=config.stopping,
            direction=direction,
            strategy=config.strategy,
            folds=config.dataset.split.folds,
            search=search,
        )
        self.stopping = threading.Event()
        self.early: Ending | None = None
        """Why no more trials are started, though fewer were than were ordered."""
        self.exhausted: dict[str, str] = {}
        """Of each backbone of which nothing is left to be tried, a clause that says why."""
        self.seconds = 0.0
        """Time spent in here: what the record costs the driver."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Driver:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, to continue from; we continue from the record

    @property
    def in_group(self) -> bool:
        """Whether several workers train a trial. Such a job ends by itself once its trial is halted: were it killed,
        the resources of its workers would stay taken."""
        return self.config.resources.workers > 1

    @property
    def failure(self) -> Mistake | None:
        """Why the search can't go on here, though nothing is wrong with its trials."""
        return self.refusal or self.study.failure

    @property
    def out_of_time(self) -> bool:
        return bool(self.over)

    @property
    def over(self) -> str:
        """Which of the budget's limits in hours is reached, as a clause; empty where none is."""
        budget = self.config.budget
        if self.deadline is not None and time.monotonic() > self.deadline:
            return f"the time of {budget.hours:g} hours is over"
        if budget.device_hours is not None and self.spent >= budget.device_hours * 3600:
            spent = f"{self.spent / 3600:.3g} device-hours of {budget.device_hours:.3g}"
            return f"{spent} are spent (raise budget.device_hours)"
        return ""

    @property
    def ending(self) -> Ending | None:
        """Why the search ends before all trials were run; None where it doesn't, or where a person stopped it."""
        cut = any(not trial.state.terminal for trial in self.study.trials)
        if self.over and (cut or self.early is None):
            return Ending.of(self.over)
        return self.early

    def cancel_what_was_asked(self) -> None:
        """Ends the trials that a person asked to be cancelled since the last look."""
        if self.search is None:
            return
        for number in asked(self.search):
            if number < len(self.study.trials):
                self.end(number, State.CANCELLED, CAUSE)
                self.halt(number)
            answered(self.search, number)

    def next_job(self) -> dict[str, Any] | None:
        """Trials for an actor: unfinished ones of an earlier launch, then first configurations, then the sampler's.
        None when there is nothing more to start."""
        if self.stopping.is_set() or self.out_of_time or self._hopeless():
            return None
        self.cancel_what_was_asked()
        while self.unfinished:
            left = [trial for trial in self.unfinished.pop(0) if not trial.state.terminal]
            if left:
                return self.order(left)
        number = len(self.study.trials)
        if number >= self.config.budget.trials or self._on_a_plateau():
            return None
        found = self._next_compared(number) if isinstance(self.sampler, Comparing) else self._next_free(number)
        if found is None:
            return None
        point, why = found
        job = [self._add(point, why, f"job-{number:05d}")]
        if shares_a_pass(point):
            for like in self._companions(point, number):
                job.append(self._add(like, self.config.sampler, job[0].job))
        return self.order(job)

    def _hopeless(self) -> bool:
        """Whether nothing but failures came out so far, all for one reason: more trials would fail alike."""
        ended = []
        for trial in self.study.trials:
            if trial.state.terminal:
                if trial.state not in (State.FAILED, State.INFEASIBLE):
                    return False
                ended.append(trial)
        if len(ended) < ALIKE:
            return False
        if len({re.sub(r"\d+", "#", trial.cause) for trial in ended}) != 1:
            return False
        said = f"all of the first {len(ended)} trials failed for one reason, so no more were started: "
        self.early = Ending(said + ended[0].cause, said + public_cause(ended[0].cause))
        return True

    def _on_a_plateau(self) -> bool:
        """Whether so many trials in a row brought nothing better that no more are wanted."""
        wanted, margin = self.config.budget.plateau, self.config.comparison.margin or 0.0
        if wanted is None or (since := since_better(self.study.trials, self.direction, margin)) < wanted:
            return False
        by = f" by more than {margin:g}" if margin else ""
        self.early = Ending.of(
            f"none of the last {since} trials was better{by} than what was there before (budget.plateau: {wanted}), so "
            f"no more were started; a resume with --set budget.plateau=null goes on"
        )
        return True

    def _add(self, point: Point, why: str, job: str) -> Trial:
        trial = self.study.add(
            point,
            self.sampler.space.keyed(point),
            self.sampler.distributions(point),
            seed=self.config.seed + len(self.study.trials),
            job=job,
            why=why,
        )
        if why == FIRST:
            self.sampler.add(trial)
        return trial

    def _companions(self, point: Point, number: int) -> Iterator[Point]:
        """Points of the sampler's that train in one pass with this one, which has just been added. Each is to be added
        before the next is asked for."""
        room, added, first = self.config.budget.trials - number - 1, number + 1, len(self.first)
        if isinstance(self.sampler, Comparing):
            name = str(point["backbone"])
            added, first = len(of_trials(self.study.trials, name)), len(of_points(self.first, name))
            room = self.config.budget.trials // len(self.config.backbones) - added
        started = added < first  # these come first, by themselves
        for _ in range(0 if started else min(self.group - 1, room)):
            like = self.sampler.ask_like(len(self.study.trials), point)
            if like is None:
                return
            yield like

    def _next_free(self, number: int) -> tuple[Point, str] | None:
        """The next point, and where it comes from: first configurations, then the sampler."""
        assert isinstance(self.sampler, Sampler)
        if number < len(self.first):
            return self.first[number], FIRST
        try:
            return self.sampler.ask(number), self.config.sampler
        except Exhausted as why:
            self.early = Ending.of(
                f"{why}, of this space after {counted(number, 'trial')}; medtune extend takes a wider one"
            )
            return None

    def _next_compared(self, number: int) -> tuple[Point, str] | None:
        """As `_next_free`, for the backbone with fewest trials: each gets the same number of them, in turn, whatever
        becomes of them. Follows from the record alone, so that a resumed search deals on where it was."""
        assert isinstance(self.sampler, Comparing)
        share = self.config.budget.trials // len(self.config.backbones)
        had = {name: len(of_trials(self.study.trials, name)) for name in self.config.backbones}
        for name in sorted(had, key=lambda one: had[one]):  # of equals the first in the settings: sorting is stable
            own = of_points(self.first, name)
            if had[name] >= share:
                continue
            if had[name] < len(own):
                return own[had[name]], FIRST
            try:
                return self.sampler.ask(number, name), self.config.sampler
            except Exhausted as why:
                self.exhausted[name] = f"{why}, of {name} after {counted(had[name], 'trial')}"
        if self.exhausted:
            self.early = Ending.of(
                f"not every backbone got {counted(share, 'trial')}: {'; '.join(self.exhausted.values())}; medtune "
                "extend takes a wider space"
            )
        return None

    def told(self, messages: list[dict[str, Any]], job: Sequence[int]) -> bool:
        """Writes what a job of these trials told (see trainables.job). Returns whether the job goes on."""
        for message in messages:
            self._told(message)
            if self.study.trials[message["trial"]].state is State.PRUNED and (len(job) > 1 or self.in_group):
                self.halt(message["trial"])
        if any("end" in message for message in messages):
            return True  # it closes itself
        if all(self.study.trials[number].state.terminal for number in job) and not self.in_group:
            return False
        return not self.stopping.is_set() and not self.out_of_time

    def _told(self, message: dict[str, Any]) -> None:
        number = message["trial"]
        if "epoch" in message:
            epoch = Epoch.from_plain(message["epoch"])
            if epoch.epoch not in self.study.trials[number].epochs:
                self.spent += epoch.seconds * devices(self.config.resources)
            self.study.epoch(number, epoch)
            self.rungs.reached(self.study.trials[number], epoch.epoch)
            if message["epoch"]["epoch"] < self.study.trials[number].done and "end" not in message:
                return  # told again by a trial that goes on: it was decided upon before
        if "end" in message:
            end = message["end"]
            if end["state"] == State.FAILED:
                self.refuse_outage([number], end["cause"])
            self.end(number, State(end["state"]), end["cause"], end["value"])
            return
        if self.study.trials[number].state.terminal:
            return
        decision = self.rungs.decide(self.study.trials[number], message["epoch"]["epoch"])
        if not decision.go_on:
            self.end(number, State.PRUNED, decision.cause)

    def refuse_outage(self, numbers: Sequence[int], cause: str) -> None:
        """Leaves trials unfinished that ended since their storage had no room or wasn't there: the next ones would too.

        Raises:
            Mistake: so it was. Ends the search.
        """
        if not outage(cause):
            return
        self.refusal = Mistake(sentence(numbers[0], cause, self.config.name))
        raise self.refusal

    def end(self, number: int, state: State, cause: str, value: float | None = None) -> None:
        if not self.study.trials[number].state.terminal:
            self.study.end(number, state, cause, value)
            self.rungs.ended(self.study.trials[number])
            self.sampler.end(self.study.trials[number])


class RecordScheduler(FIFOScheduler):
    """First in, first out; every result goes into the record before anything is decided."""

    _supports_buffered_results = False

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self.driver = driver
        self.looked = 0.0

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """Tune asks this in every turn, also while no trial tells anything: the moment to see what people ask for."""
        if time.monotonic() - self.looked >= LOOK:
            self.looked = time.monotonic()
            self.driver.cancel_what_was_asked()
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        if "message" not in result:  # Tune's own closing message of a function
            return TrialScheduler.CONTINUE
        started = time.perf_counter()
        goes_on = self.driver.told(json.loads(result["message"]), _numbers(trial))
        self.driver.seconds += time.perf_counter() - started
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """The actor died, or the job raised an error (told before, then). Tune calls this at every retry too."""
        file = Path(trial.error_file)
        said = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        self.driver.refuse_outage(_numbers(trial), said)
        if trial.should_recover():
            gone = len(re.findall(NODE_GONE, said))
            if 0 < gone <= NODES and NODE_GONE in said.rpartition(OCCURRENCE)[2]:
                trial.run_metadata.num_failures -= 1
            return
        state, cause = State.FAILED, "its worker process died repeatedly; see the log of the search"
        if any(words in said for words in LOW_MEMORY):  # whose memory it was isn't known: it was tried again
            state, cause = (
                State.INFEASIBLE,
                "out of this machine's memory: Ray ended its worker repeatedly, before the system would",
            )
        for number in _numbers(trial):
            self.driver.end(number, state, cause)

    def on_trial_complete(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> None:
        if self.driver.stopping.is_set() or self.driver.out_of_time:
            return
        for number in _numbers(trial):
            self.driver.end(number, State.FAILED, "its job ended without telling a result")


class RecordSearcher(Searcher):
    """Gives Tune the next job, while there is room for one. Results go to the scheduler."""

    def __init__(self, driver: Driver, at_once: Callable[[], int]) -> None:
        """
        Args:
            at_once: jobs that may be under way now. On a cluster that grows or shrinks it changes.
        """
        super().__init__()
        self.driver, self.at_once = driver, at_once
        self.under_way: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string
        try:
            at_once = self.at_once()
        except Mistake as mistake:  # on a node that has joined
            self.driver.refusal = mistake
            raise
        if len(self.under_way) >= at_once:
            return None  # Tune asks again
        started = time.perf_counter()
        job = self.driver.next_job()
        self.driver.seconds += time.perf_counter() - started
        if job is None:
            return Searcher.FINISHED
        self.under_way.add(trial_id)
        return job

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.under_way.discard(trial_id)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


def of_points(points: Sequence[Point], backbone: str) -> list[Point]:
    """The points of one backbone."""
    return [point for point in points if point["backbone"] == backbone]


def shares_a_pass(point: Point) -> bool:
    """Whether trials that differ from this one in their heads alone can be trained in one pass with it."""
    return point.get("trained_blocks") == 0 and point.get("head", "linear") == "linear"


def _numbers(trial: TuneTrial) -> list[int]:
    return [order["number"] for order in trial.config["trials"]]


def _jobs(trials: list[Trial]) -> list[list[Trial]]:
    """Unfinished trials, those of one job together, in the order of their numbers."""
    jobs: dict[str, list[Trial]] = {}
    for trial in trials:
        jobs.setdefault(trial.job, []).append(trial)
    return list(jobs.values())
