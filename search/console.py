"""Where a person reads: the terminal, a pipe or a file. What a search shows while it runs is in search/view.py."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import rich.console
from rich.console import RenderableType

from search.record import Trial, best
from search.rungs import rung_epochs
from search.trial_text import describe_best, state_counts
from spaces.backbone import licences_text
from spaces.config import SearchConfig
from spaces.words import counted

if TYPE_CHECKING:
    from search.folder import SearchFolder
    from search.plan import Plan
    from search.scheduler import Driver
    from search.study import Study


class Console:
    """Where a person reads. Keeps the real terminal while Ray's and others' chatter goes to a file."""

    def __init__(self, stream: TextIO | None, width: int | None = None) -> None:
        self.rich = rich.console.Console(
            file=stream or io.StringIO(), width=width, highlight=False, markup=False, emoji=False
        )
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
        """What begins, in a few lines that stay above the live table."""
        config = plan.config
        first = f"{counted(len(plan.first), 'first configuration')}, " if plan.first else ""
        rungs = rung_epochs(config.budget.epochs, config.stopping, config.dataset.split.folds)
        self.print(
            f"Search {config.name}: {counted(config.budget.trials, 'trial')} of up to "
            f"{counted(config.budget.epochs, 'epoch')}, {first}{len(plan.prepared.train)} training and "
            f"{len(plan.prepared.validation)} validation images, {config.metric}",
            f"{counted(len(plan.space.searched), 'dimension')}, strategy {config.strategy}, sampler {config.sampler}; "
            + (f"compared after epochs {', '.join(map(str, rungs))}" if rungs else "nobody is stopped early"),
            _where(folder),
        )
        self._weights(config)

    def goes_on(self, plan: Plan, folder: Path, trials: Sequence[Trial]) -> None:
        """What another launch goes on with, as shortly.

        Args:
            trials: the record.
        """
        config, left = plan.config, sum(not trial.state.terminal for trial in trials)
        self.print(
            f"Search {config.name} goes on: {len(trials)} of {counted(config.budget.trials, 'trial')} in its record"
            + (f", {left} unfinished" if left else ""),
            _where(folder),
        )
        self._weights(config)

    def _weights(self, config: SearchConfig) -> None:
        """Which are random, and the licences of the others."""
        random = [
            b
            for b in config.backbones
            if (config.weights if isinstance(config.weights, str) else config.weights.get(b)) == "random"
        ]
        if random:
            self.print(
                f"Weights of {', '.join(random)} are RANDOM: "
                "this shows how a search runs, not what a trained backbone can do."
            )
        trained = [name for name in config.backbones if name not in random]
        if trained:
            self.print(f"Licences of the weights: {licences_text(trained)}")

    def ended(self, study: Study, found: SearchFolder, driver: Driver) -> None:
        counts = state_counts(study.trials)
        self.print(f"{counted(len(study.trials), 'trial')}: {', '.join(f'{n} {state}' for state, n in counts.items())}")
        if driver.early:
            self.print(driver.early.text)
        if driver.out_of_time:
            self.print(f"{driver.over[:1].upper()}{driver.over[1:]}; go on with: medtune resume {found.path}")
        winner = best(study.trials, driver.direction)
        if winner:
            self.print(f"Best: {describe_best(winner, str(driver.config.metric), driver.config.budget.epochs)}")


def _where(folder: Path) -> str:
    return f"Folder {folder}, log {folder / 'log.txt'}"


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


def duration(seconds: float) -> str:
    """`42 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
