"""All searches under a storage, at a glance."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from search.columns import Column, fitting
from search.ending import early_ending
from search.folder import DATA, SETTINGS, SearchFolder
from search.record import best
from search.tracking import being_driven
from search.trial_text import state_counts, value_interval
from spaces.mistakes import Mistake

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
UNREADABLE = "can't be read"


@dataclass(frozen=True)
class Listed:
    """One search of a storage."""

    name: str
    state: str
    """`running` (a driver holds it), `finished`, `unfinished`; `ended early` (all that was started has ended) with the
    reason in `ending`, `can't be read` with that in `trouble`."""
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
    interval: tuple[float, float] | None = None
    """Ends of the best value's 95% interval over groups, which doesn't know that it is the best of several."""
    tags: tuple[str, ...] = ()
    ending: str = ""
    """Why it ended early; empty where it didn't. Nothing is wrong with such a search."""
    trouble: str = ""
    """Why it can't be read; empty where it can."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def listing(storage: Path) -> list[Listed]:
    """The searches in a storage, the one that changed last first. One that can't be read is listed with the reason.

    Raises:
        Mistake: there is no such folder.
    """
    if not storage.is_dir():
        raise Mistake(f"ls: {storage}: no such folder; give the storage of some searches, or set MEDTUNE_STORAGE.")
    folders = [path for path in storage.iterdir() if not path.name.startswith(".")]
    found = [one for one in map(_looked_at, folders) if one is not None]
    return sorted(found, key=lambda one: -one.changed)


def _looked_at(folder: Path) -> Listed | None:
    """A search as it is listed; None for what is no search. A folder that may not be entered may hold one."""
    try:
        if not _is_there(folder / SETTINGS):
            return None
        one = _listed(folder)
        if one.trouble or _is_there(folder / DATA):
            return one
        why = f"it has {SETTINGS}, but no folder {DATA}: it was never started, or that was deleted; start or restore it"
        return replace(one, state=UNREADABLE, ending="", trouble=why)
    except FileNotFoundError:
        return None  # it has gone meanwhile
    except OSError as error:  # others are to be listed all the same
        owner, changed = "", 0.0
        with suppress(OSError):
            owner, changed = _user(folder.lstat().st_uid), folder.lstat().st_mtime
        todo = "; ask its owner for the right to read it" if isinstance(error, PermissionError) else ""
        return Listed(folder.name, UNREADABLE, owner, 0, changed, trouble=f"{error.filename}: {error.strerror}{todo}")


def _is_there(path: Path) -> bool:
    """As `Path.exists`, which may raise an error or not where nobody can know, by Python's version. This raises one."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _listed(folder: Path) -> Listed:
    size, changed = usage(folder)
    owner = _owner(folder)
    try:
        found = SearchFolder(folder)
        config, study = found.config(), found.study()
    except Exception as error:  # a database that is away, a damaged file: others are to be listed all the same
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Listed(folder.name, UNREADABLE, owner, size, changed, trouble=reason)
    ended = sum(trial.state.terminal for trial in study.trials)
    over, driven = ended == len(study.trials) >= config.budget.trials, being_driven(folder)
    early = early_ending(folder, study.trials, config.budget.trials) if ended == len(study.trials) else None
    winner = best(study.trials, study.identity["direction"])
    return Listed(
        name=config.name,
        state="running" if driven else "finished" if over else "ended early" if early else "unfinished",
        owner=owner,
        size=size,
        changed=changed,
        trials=len(study.trials),
        ordered=config.budget.trials,
        states=state_counts(study.trials),
        metric=str(study.identity["metric"]),
        best=winner.value if winner else None,
        best_trial=winner.number if winner else None,
        interval=value_interval(winner, str(study.identity["metric"]), config.budget.epochs) if winner else None,
        tags=config.tags,
        ending=early.text if early and not driven else "",
    )


def usage(folder: Path) -> tuple[int, float]:
    """Bytes on disk of all files below a folder, and the newest time of modification in Unix seconds."""
    size, newest = 0, folder.stat().st_mtime
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(Path(root) / name)
            except (FileNotFoundError, PermissionError):
                continue  # of a running search, or not for this user to see
            size, newest = size + status.st_blocks * 512, max(newest, status.st_mtime)
    return size, newest


def _owner(folder: Path) -> str:
    return _user(folder.stat().st_uid)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def readable(size: float) -> str:
    """Bytes for people: `1.4 GiB`."""
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")


def lines(found: Sequence[Listed], width: int, now: float | None = None) -> Iterator[RenderableType]:
    """For a terminal of so many characters: a table, and below it why a search can't be read or ended early."""
    columns = [
        Column[Listed]("search", lambda one: one.name, 10),
        Column[Listed]("state", lambda one: one.state, 9),
        Column[Listed]("trials", lambda one: f"{one.trials} of {one.ordered}" if one.ordered else "", 8, right=True),
        Column[Listed]("best", _best, 7),
        Column[Listed]("95% interval", _interval, 5),
        Column[Listed]("metric", lambda one: one.metric, 6),
        Column[Listed]("owner", lambda one: one.owner, 1),
        Column[Listed]("on disk", lambda one: readable(one.size), 3, right=True),
        Column[Listed]("last change", lambda one: _ago((now or time.time()) - one.changed) if one.changed else "", 4),
        Column[Listed]("tags", lambda one: ", ".join(one.tags), 2),
    ]
    yield fitting(columns, found, width)
    yield from (f"{one.name}: {one.state}: {why}" for one in found if (why := one.trouble or one.ending))
    if any(one.interval for one in found):
        yield "Intervals don't know that a best value is the best of several: medtune report does."


def _best(one: Listed) -> str:
    if one.best is None:
        return "none yet" if one.ordered else ""
    return f"{one.best:.4f}"


def _interval(one: Listed) -> str:
    return f"[{one.interval[0]:.4f}, {one.interval[1]:.4f}]" if one.interval else ""


def _ago(seconds: float) -> str:
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {name} ago"
    return "now"
