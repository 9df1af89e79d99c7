"""What a person sees in the terminal while something runs: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.record import State, Trial, best
from spaces.backbone import backbone

if TYPE_CHECKING:
    from search.folder import SearchFolder
    from search.plan import Plan
    from search.scheduler import Driver
    from search.study import Study

ROWS = 12  # of the live table
INTERVAL = 0.5  # seconds between two looks at the record
STYLES = {
    State.RUNNING: "cyan",
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.CANCELLED: "yellow",
    State.FAILED: "red",
    State.INFEASIBLE: "red",
}


class Console:
    """Where a person reads. Keeps the real terminal while Ray's and others' chatter goes to a file."""

    def __init__(self, stream: TextIO | None, width: int | None = None) -> None:
        self.rich = rich.console.Console(file=stream or io.StringIO(), width=width, highlight=False)
        if not self.rich.is_terminal and width is None:
            self.rich.width = 160  # of a file or a pipe, whose reader breaks lines
        self.live = stream is not None and self.rich.is_terminal

    @classmethod
    def of_terminal(cls) -> Console:
        """Standard output, duplicated, so that it stays the person's when file descriptor 1 is redirected."""
        return cls(os.fdopen(os.dup(1), "w", buffering=1))

    @classmethod
    def silent(cls) -> Console:
        return cls(None)

    def print(self, *lines: RenderableType) -> None:
        for line in lines:
            self.rich.print(line, soft_wrap=not self.live and isinstance(line, str))

    @contextlib.contextmanager
    def working(self, what: str, of: str = "images") -> Iterator[Callable[[int, int], None]]:
        """Says what goes on while the block runs; a spinner on a terminal. Gives a function to show how far it is, in
        numbers of `of`."""
        if not self.live:
            yield lambda done, total: None
            return
        with self.rich.status(f"{what} ...") as spinner:
            yield lambda done, total: spinner.update(f"{what}: {done} of {total} {of}")

    def started(self, plan: Plan, folder: Path) -> None:
        config = plan.config
        random = [
            b
            for b in config.backbones
            if (config.weights if isinstance(config.weights, str) else config.weights.get(b)) == "random"
        ]
        self.print(
            f"Search {config.name}: {config.budget.trials} trials of up to {config.budget.epochs} epochs, "
            f"{len(plan.first)} first configurations, {len(plan.prepared.train)} training and "
            f"{len(plan.prepared.validation)} validation images, {config.metric}",
            f"Folder {folder}, log {folder / 'log.txt'}",
        )
        if random:
            self.print(
                f"Weights of {', '.join(random)} are RANDOM: "
                "this shows how a search runs, not what a trained backbone can do."
            )
        licences = [f"{name} {backbone(name).licence}" for name in config.backbones if name not in random]
        if licences:
            self.print(f"Licences of the weights: {', '.join(licences)}")

    def ended(self, study: Study, found: SearchFolder, driver: Driver) -> None:
        counts = state_counts(study.trials)
        self.print(f"{len(study.trials)} trials: {', '.join(f'{n} {state}' for state, n in counts.items())}")
        if driver.notice:
            self.print(driver.notice)
        if driver.out_of_time:
            self.print(f"{driver.over}; go on with: medtune resume {found.path}")
        winner = best(study.trials, driver.direction)
        if winner:
            self.print(f"Best: {describe_best(winner, str(driver.config.metric), driver.config.budget.epochs)}")


def state_counts(trials: list[Trial]) -> dict[str, int]:
    """Number of trials by state, those that occur."""
    return {str(state): n for state in State if (n := sum(t.state is state for t in trials))}


def describe_best(trial: Trial, metric: str, of_fold: int) -> str:
    """`of_fold`: epochs of a fold, or of a whole trial."""
    error = trial.standard_error(of_fold)
    spread = f" (standard error {error:.4f})" if error else ""
    what = f"trial {trial.number}, {trial.point['backbone']}, {what_is_trained(trial)}"
    return f"{what}, {metric} {trial.value:.4f}{spread} on validation"


def what_is_trained(trial: Trial) -> str:
    blocks, adapter = trial.point.get("trained_blocks", 0), trial.point.get("adapter", "none")
    if blocks == 0:
        return "head only"
    what = "all blocks" if blocks == "all" else f"last {blocks} block{'s' if blocks != 1 else ''}"
    return what if adapter == "none" else f"{what}, {adapter}"


@contextlib.contextmanager
def chatter_to(log: Path) -> Iterator[None]:
    """Sends what this process and its children print to a file, at the level of file descriptors."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)


class View:
    """Watches the record from a thread and shows it: a live table on a terminal, else a line for each trial's end."""

    def __init__(self, driver: Driver, console: Console) -> None:
        self.driver, self.console = driver, console
        self.epochs = driver.config.budget.epochs * driver.config.dataset.split.folds
        """Of a trial, over all folds."""
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
        metric = self.driver.config.metric
        for trial in list(self.driver.study.trials):
            if trial.state.terminal and trial.number not in self._told:
                self._told.add(trial.number)
                value = f"{metric} {trial.value:.4f}" if trial.value is not None else trial.cause
                self.console.print(
                    f"trial {trial.number}: {trial.state} after {trial.done} epoch{'s' if trial.done != 1 else ''} "
                    f"in {trial.seconds:.1f} s, "
                    f"{trial.point['backbone']}, {what_is_trained(trial)}: {value}"
                )

    def render(self) -> RenderableType:
        """The table of running and latest trials, the progress bar, the best so far and the time left."""
        trials = list(self.driver.study.trials)
        budget = self.driver.config.budget
        ended = sum(t.state.terminal for t in trials)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"{ended} of {budget.trials} trials",
            ProgressBar(budget.trials, ended, width=30),
            self._time_left(trials, ended),
        )
        winner = best(trials, self.driver.direction)
        line = Text(
            f"Best so far: {describe_best(winner, str(self.driver.config.metric), self.driver.config.budget.epochs)}"
            if winner
            else "No complete trial yet"
        )
        return Group(self.table(trials), bar, line)

    def table(self, trials: list[Trial]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in (
            "trial",
            "backbone",
            "trained",
            "head lr",
            "level",
            "epochs",
            str(self.driver.config.metric),
            "time",
            "state",
        ):
            table.add_column(
                name,
                justify="right" if name in ("trial", "head lr", "level", "epochs", "time") else "left",
                no_wrap=True,
            )
        shown = sorted(trials, key=lambda t: (t.state.terminal, -t.number))[:ROWS]
        for trial in sorted(shown, key=lambda t: t.number):
            values = trial.values()
            table.add_row(
                str(trial.number),
                str(trial.point["backbone"]),
                what_is_trained(trial),
                f"{trial.point['head_lr']:.1e}",
                str(trial.point.get("level", 0)),
                f"{trial.done}/{self.epochs}",
                f"{trial.value if trial.value is not None else values[-1]:.4f}" if values else "",
                f"{trial.seconds:.0f} s",
                Text(str(trial.state), style=STYLES[trial.state]),
            )
        return table

    def _time_left(self, trials: list[Trial], ended: int) -> str:
        """From the pace of this launch."""
        new = ended - len(self.before)
        partly = sum(t.done for t in trials if not t.state.terminal) / self.epochs
        done, left = new + partly, self.driver.config.budget.trials - ended - partly
        elapsed = time.monotonic() - self.started
        if done < 0.5:
            return "time left: not known yet"
        return f"about {duration(elapsed / done * left)} left"


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def trial_rows(trials: list[Trial]) -> list[dict[str, Any]]:
    """Trials as plain data, for `status --json`."""
    return [
        {
            "number": t.number,
            "state": str(t.state),
            "cause": t.cause,
            "parameters": t.point,
            "epochs": t.done,
            "value": t.value,
            "values": t.values(),
            "seconds": round(t.seconds, 3),
            "why": t.why,
        }
        for t in trials
    ]
