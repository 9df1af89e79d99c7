"""All searches under a storage, at a glance."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from search.folder import DATA, SETTINGS, SearchFolder
from search.record import best
from search.tracking import being_driven
from search.trial_text import state_counts
from spaces.mistakes import Mistake

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Listed:
    """One search of a storage."""

    name: str
    state: str
    """`running` (a driver holds it), `finished`, `unfinished`, or `can't be read` with the reason in `trouble`."""
    owner: str
    """User whose folder it is."""
    size: int
    """Bytes on disk."""
    changed: float
    """Unix time in seconds of the newest file."""
    trials: int = 0
    ordered: int = 0
    states: dict[str, int] | None = None
    metric: str = ""
    best: float | None = None
    best_trial: int | None = None
    tags: tuple[str, ...] = ()
    trouble: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def listing(storage: Path) -> list[Listed]:
    """The searches in a storage, the one that changed last first. One that can't be read is listed with the reason.

    Raises:
        Mistake: there is no such folder.
    """
    if not storage.is_dir():
        raise Mistake(f"ls: {storage}: no such folder; give the storage of some searches, or set MEDTUNE_STORAGE.")
    folders = [p for p in storage.iterdir() if not p.name.startswith(".") and (p / SETTINGS).is_file()]
    return sorted((_listed(folder) for folder in folders if (folder / DATA).is_dir()), key=lambda one: -one.changed)


def _listed(folder: Path) -> Listed:
    size, changed = usage(folder)
    owner = _owner(folder)
    try:
        found = SearchFolder(folder)
        config, study = found.config(), found.study()
    except Exception as error:  # a database that is away, a damaged file: others are to be listed all the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Listed(folder.name, "can't be read", owner, size, changed, trouble=reason)
    ended = sum(trial.state.terminal for trial in study.trials)
    over = ended == len(study.trials) >= config.budget.trials
    winner = best(study.trials, study.identity["direction"])
    return Listed(
        name=config.name,
        state="running" if being_driven(folder) else "finished" if over else "unfinished",
        owner=owner,
        size=size,
        changed=changed,
        trials=len(study.trials),
        ordered=config.budget.trials,
        states=state_counts(study.trials),
        metric=str(study.identity["metric"]),
        best=winner.value if winner else None,
        best_trial=winner.number if winner else None,
        tags=config.tags,
    )


def usage(folder: Path) -> tuple[int, float]:
    """Bytes on disk of all files below a folder, and the newest time of modification in Unix seconds."""
    size, newest = 0, folder.stat().st_mtime
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(Path(root) / name)
            except FileNotFoundError:
                continue  # of a running search
            size, newest = size + status.st_blocks * 512, max(newest, status.st_mtime)
    return size, newest


def _owner(folder: Path) -> str:
    user = folder.stat().st_uid
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def readable(size: float) -> str:
    """Bytes for people: `1.4 GiB`."""
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")


def table(found: Sequence[Listed], now: float | None = None) -> Table:
    """For a terminal."""
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("search", "state", "trials", "best", "owner", "on disk", "last change", "tags"):
        shown.add_column(
            column,
            justify="right" if column in ("trials", "on disk") else "left",
            no_wrap=column in ("state", "trials", "on disk", "last change"),
            overflow="fold",
        )
    for one in found:
        value = f"{one.best:.4f} {one.metric}" if one.best is not None else one.trouble or "none yet"
        shown.add_row(
            one.name,
            one.state,
            f"{one.trials} of {one.ordered}" if one.ordered else "",
            value,
            one.owner,
            readable(one.size),
            _ago((now or time.time()) - one.changed),
            ", ".join(one.tags),
        )
    return shown


def _ago(seconds: float) -> str:
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {name} ago"
    return "now"
