"""Frees the space of a search: the checkpoints of trials that have ended, but for those that may still be wanted.

Exports, finals, reports and the mirror need no checkpoint: they rest on the record and the validation predictions,
which stay. A checkpoint is needed to go on with a trial, so those of unfinished trials stay, too.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.final_result import finals
from search.folder import SearchFolder
from search.listing import usage
from search.record import Trial, ranked
from search.study import only_writer
from spaces.config import Direction
from spaces.mistakes import Mistake
from trainables.trials import trial_folder

CHECKPOINTS, JOBS = "checkpoints", "jobs"


@dataclass(frozen=True)
class Pruned:
    """What was freed, or would be."""

    folders: tuple[Path, ...]
    """Of checkpoints."""
    freed: int
    """Bytes on disk."""
    kept: dict[int, str]
    """Trials whose checkpoints stay, and why."""


def prune(found: SearchFolder, *, top: int, dry_run: bool = False) -> Pruned:
    """Deletes the checkpoints of ended trials, except of the `top` best and of those that a final was made of.

    Args:
        dry_run: only says what would be deleted.

    Raises:
        Mistake: the search is being run, or `top` is negative.
    """
    if top < 0:
        raise Mistake(f"prune: --top {top}: expected 0 or more.")
    with contextlib.nullcontext() if dry_run else only_writer(found.path):
        study = found.study()
        kept = _kept(found, study.trials, study.identity["direction"], top)
        folders = [*_of_trials(found.path, study.trials, kept), *_of_jobs(found.path, study.trials, kept)]
        freed = sum(usage(folder)[0] for folder in folders)
        for folder in () if dry_run else folders:
            shutil.rmtree(folder)
    return Pruned(tuple(folders), freed, kept)


def _kept(found: SearchFolder, trials: Sequence[Trial], direction: Direction, top: int) -> dict[int, str]:
    """Numbers of trials whose checkpoints stay, with the reason."""
    kept = {trial.number: "unfinished" for trial in trials if not trial.state.terminal}
    for final in finals(found.path):
        for configuration in final.configurations:
            origin = configuration.report["found"]
            if origin["search"] == found.config().name:
                kept[origin["trial"]] = f"a final was made of it ({final.folder})"
    for place, trial in enumerate(ranked(trials, direction)[:top], 1):
        kept.setdefault(trial.number, f"number {place} on validation")
    return kept


def _of_trials(search: Path, trials: Sequence[Trial], kept: Container[int]) -> Iterator[Path]:
    """Checkpoints of trials that ran by themselves; with folds, of each fold."""
    for trial in trials:
        folder = trial_folder(search, trial.number)
        if trial.number not in kept:
            yield from (p for p in (folder / CHECKPOINTS, *sorted(folder.glob(f"fold-*/{CHECKPOINTS}"))) if p.is_dir())


def _of_jobs(search: Path, trials: Sequence[Trial], kept: Container[int]) -> Iterator[Path]:
    """Checkpoints of trials that shared a pass: kept where one of them is."""
    for job in dict.fromkeys(trial.job for trial in trials):
        folder = search / JOBS / job / CHECKPOINTS
        if folder.is_dir() and not any(trial.number in kept for trial in trials if trial.job == job):
            yield folder
