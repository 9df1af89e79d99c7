"""Ray's own processes on this machine, watched. Where one of them dies, Ray ends the driver a minute later from its C++
code, so that nothing of Python's is run any more, and nobody is told."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from search.console import Console

LOOK = 1.0  # seconds between two looks
GRACE = 10.0  # seconds that an end under way, of all processes together, is given
NEEDED = ("gcs_server", "raylet")
EXIT_HEAD_LOST, EXIT_INTERRUPTED = 1, 130


def dead(node: Any) -> list[str]:
    """Which of the processes that this driver started, and can't go on without, have ended. None where it has started
    none, as on a cluster that others run."""
    return [
        kind
        for kind in NEEDED
        if any(started.process.poll() is not None for started in node.all_processes.get(kind, []))
    ]


@contextmanager
def watched(node: Any, folder: Path, console: Console, stopping: Callable[[], bool]) -> Iterator[None]:
    """Within it, a person is told that Ray's processes are gone, and this process and what is left of Ray end, as by a
    kill: the record and the trials' checkpoints are on the disk at any time.

    Args:
        node: Ray's, of this process.
        folder: of the search.
        stopping: whether a person has stopped the search.
    """
    over = threading.Event()

    def watch() -> None:
        since: float | None = None
        while not over.wait(LOOK):
            if not (gone := dead(node)):
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= GRACE:
                _end(node, gone, folder, console, EXIT_INTERRUPTED if stopping() else EXIT_HEAD_LOST)

    thread = threading.Thread(target=watch, daemon=True, name="ray-head")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _end(node: Any, gone: list[str], folder: Path, console: Console, code: int) -> None:
    sentence = (
        f"Ray's own {' and '.join(gone)} on this machine ended, without which nothing goes on (the system's log may "
        f"tell why; want of memory is one cause). Nothing is lost; go on with: medtune resume {folder}"
    )
    try:
        console.rich.show_cursor()
        console.print(sentence)
        print(sentence, file=sys.stderr, flush=True)  # the search's log, meanwhile
        with suppress(Exception):  # of Ray's own classes
            node.kill_all_processes(check_alive=False)
    finally:
        os._exit(code)
