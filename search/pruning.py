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
from trainables.object_store import linked
from trainables.trial_files import CHECKPOINTS, trial_folder

JOBS = "jobs"


@dataclass(frozen=True)
class Pruned:
    """What was freed, or would be."""

    folders: tuple[Path, ...]
    """Of checkpoints, or files that link to where they lie."""
    freed: int
    """Bytes."""
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
        freed = sum(_size(folder) for folder in folders)
        for folder in () if dry_run else folders:
            _remove(folder)
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
            yield from (p for p in (folder / CHECKPOINTS, *sorted(folder.glob(f"fold-*/{CHECKPOINTS}"))) if p.exists())


def _size(folder: Path) -> int:
    store = linked(folder)
    return usage(folder)[0] if store is None else store.size()


def _remove(folder: Path) -> None:
    """Checkpoints that lie here, or what lies where they are linked to and then the link."""
    store = linked(folder)
    if store is None:
        shutil.rmtree(folder)
    else:
        store.empty()
        folder.unlink()


def _of_jobs(search: Path, trials: Sequence[Trial], kept: Container[int]) -> Iterator[Path]:
    """Checkpoints of trials that shared a pass: kept where one of them is."""
    for job in dict.fromkeys(trial.job for trial in trials):
        folder = search / JOBS / job / CHECKPOINTS
        if folder.exists() and not any(trial.number in kept for trial in trials if trial.job == job):
            yield folder
