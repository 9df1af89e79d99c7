"""A search while it runs: a live table on a terminal, or a line for each trial's end where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.columns import Column, fitting
from search.console import Console, duration
from search.record import State, Trial, best
from search.rungs import rung_epochs
from search.trial_text import describe_best, origin, state_counts, value_text, what_is_trained
from spaces.words import counted

if TYPE_CHECKING:
    from search.scheduler import Driver

ROWS = 12  # of the live table
BESIDE = 9  # lines of a window that the table leaves to the bar, the best so far and the prompt
INTERVAL = 0.5  # seconds between two looks at the record
STYLES = {
    State.RUNNING: "cyan",
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.CANCELLED: "yellow",
    State.FAILED: "red",
    State.INFEASIBLE: "red",
}


class View:
    """Watches the record from a thread and shows it."""

    def __init__(self, driver: Driver, console: Console) -> None:
        self.driver, self.console = driver, console
        config = driver.config
        folds = config.dataset.split.folds
        self.metric = str(config.metric)
        self.epochs = config.budget.epochs * folds
        """Of a trial, over all folds."""
        self.rungs = rung_epochs(config.budget.epochs, config.stopping, folds)
        self.started = time.monotonic()
        self.before = {t.number for t in driver.study.trials if t.state.terminal}
        self._told: set[int] = set(self.before)
        self._stop = threading.Event()
        self._live: Live | None = None
        self._thread = threading.Thread(target=self._watch, name="view", daemon=True)

    def __enter__(self) -> Self:
        if self.console.live:
            self._live = Live(self.render(), console=self.console.rich, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._live:
            self._live.stop()
            self.console.print(self.table(self.driver.study.trials))
        else:
            self._tell()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            if self._live:
                self._live.update(self.render(), refresh=True)
            else:
                self._tell()

    def _tell(self) -> None:
        trials = list(self.driver.study.trials)
        for trial in trials:
            if not trial.state.terminal or trial.number in self._told:
                continue
            self._told.add(trial.number)
            epochs = self.driver.config.budget.epochs
            value = (
                f"{self.metric} {value_text(trial, self.metric, epochs)}" if trial.value is not None else trial.cause
            )
            ended = sum(t.state.terminal for t in trials)
            self.console.print(
                f"trial {trial.number}: {trial.state} after {counted(trial.done, 'epoch')} "
                f"in {trial.seconds:.1f} s, {trial.point['backbone']}, {what_is_trained(trial)}: {value} "
                f"({ended} of {counted(self.driver.config.budget.trials, 'trial')}, {self._time_left(trials, ended)})"
            )

    def render(self) -> RenderableType:
        """The table of running and latest trials, the progress bar, the best so far and the time left."""
        trials = list(self.driver.study.trials)
        budget = self.driver.config.budget
        ended = sum(t.state.terminal for t in trials)
        bar = Table.grid(padding=(0, 1))
        narrow = self.console.rich.width < 80
        bar.add_row(
            Text(f"{ended} of {counted(budget.trials, 'trial')}", no_wrap=True),
            ProgressBar(budget.trials, ended, width=8 if narrow else 30, complete_style="green"),
            self._time_left(trials, ended),
        )
        winner = best(trials, self.driver.direction)
        lines = [
            ", ".join(f"{n} {state}" for state, n in state_counts(trials).items()) or "no trial yet",
            f"Best so far: {describe_best(winner, self.metric, budget.epochs)}"
            if winner
            else "Best so far: no complete trial yet",
        ]
        return Group("", self.table(trials), "", bar, *(Text(line) for line in lines))

    def table(self, trials: Sequence[Trial]) -> Table:
        """The running trials and the latest of the others, with as many columns as the window has room for."""
        rows = max(3, min(ROWS, self.console.rich.height - BESIDE)) if self.console.live else ROWS
        latest = sorted(trials, key=lambda t: (t.state.terminal, -t.number))[:rows]
        shown = sorted(latest, key=lambda t: t.number)
        return fitting(self._columns(), shown, self.console.rich.width)

    def _columns(self) -> list[Column[Trial]]:
        return [
            Column("trial", lambda t: str(t.number), 9, right=True),
            Column("backbone", lambda t: str(t.point["backbone"]), 7),
            Column("trained", what_is_trained, 5),
            Column("head", lambda t: str(t.point.get("head", "linear")), 2),
            Column("head lr", lambda t: f"{t.point['head_lr']:.1e}" if "head_lr" in t.point else "", 4, right=True),
            Column("augment", lambda t: str(t.point.get("level", 0)), 1, right=True),
            Column("epochs", lambda t: f"{t.done}/{self.epochs}", 8, right=True),
            Column("next rung", self._next_rung, 2, right=True),
            Column(self.metric.replace("_", "\n", 1).replace("_", " "), self._value, 9),
            Column("time", lambda t: duration(t.seconds), 4, right=True),
            Column("state", lambda t: Text(str(t.state), style=STYLES[t.state]), 8),
            Column("tried by", lambda t: origin(t.why), 3),
        ]

    def _value(self, trial: Trial) -> str:
        values = trial.values()
        if not values:
            return ""
        if trial.value is not None:
            value, error = trial.value, trial.standard_error(self.driver.config.budget.epochs)
        else:
            value, error = values[-1], trial.epochs[trial.done].standard_error
        return f"{value:.4f}" + (f" ± {error:.4f}" if error else "")

    def _next_rung(self, trial: Trial) -> str:
        """The epoch after which a running trial is next compared with others."""
        if trial.state.terminal:
            return ""
        return next((str(rung) for rung in self.rungs if rung > trial.done), "end")

    def _time_left(self, trials: Sequence[Trial], ended: int) -> str:
        """From the pace of this launch."""
        new = ended - len(self.before)
        partly = sum(t.done for t in trials if not t.state.terminal) / self.epochs
        done, left = new + partly, self.driver.config.budget.trials - ended - partly
        elapsed = time.monotonic() - self.started
        if done < 0.5:
            return "time left not known yet"
        return f"about {duration(elapsed / done * left)} left"
