"""Ends a process that hangs, with the stack of each of its threads in a file.

The standard library's faulthandler waits in a thread of its own that needs no interpreter lock, so that a call which
never comes back out of C is ended as well. What works calls `beat` after each step, batch and image.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

HEADER = "Timeout ("  # how faulthandler begins what it writes
OFTEN = 1.0  # seconds between two settings of the clock: each starts a thread

_lock = threading.Lock()
_watched: _Watched | None = None


class _Watched:
    """What is watched now, in this process."""

    def __init__(self, seconds: float, file: BinaryIO) -> None:
        self.seconds, self.file, self.often = seconds, file, min(OFTEN, seconds / 4)
        self.paused = False
        self.set_at = 0.0

    def set_clock(self) -> None:
        self.set_at = time.monotonic()
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.file)


@contextmanager
def watched(seconds: float, file: Path) -> Iterator[None]:
    """While the block runs, ends the process by exit status 1 once `beat` wasn't called for that many seconds.

    Args:
        file: the stacks are appended to it; its folder is made where it is missing. It is removed where it stays empty.
    """
    global _watched
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stacks:
        with _lock:
            _watched = _Watched(seconds, stacks)
            _watched.set_clock()
        try:
            yield
        finally:
            with _lock:
                faulthandler.cancel_dump_traceback_later()
                _watched = None
    if not file.stat().st_size:
        file.unlink()


def beat() -> None:
    """Something was done: sets the clock back. Does nothing where nothing is watched. Any thread may call it."""
    now = _watched
    if now is None or time.monotonic() - now.set_at < now.often:
        return
    with _lock:
        if now is _watched and not now.paused:
            now.set_clock()


@contextmanager
def paused() -> Iterator[None]:
    """Stops the clock while the block waits for another process, which may take as long as it likes."""
    with _lock:
        now = _watched
        if now is not None:
            now.paused = True
            faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        with _lock:
            if now is not None and now is _watched:
                now.paused = False
                now.set_clock()


def hangs(file: Path) -> int:
    """How often a process that was watched with this file was ended."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return 0
    return sum(line.startswith(HEADER) for line in text.splitlines())
