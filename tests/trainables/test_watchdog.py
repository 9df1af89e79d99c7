"""A process that does nothing for too long ends itself and says where; one that works or waits for others doesn't."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.faults.elsewhere import ended
from trainables import watchdog
from trainables.data.stored import only_builder
from trainables.watchdog import beat, hangs, paused, watched

LIMIT = 1.0


def idle() -> None:
    time.sleep(60)


def busy() -> None:
    until = time.monotonic() + 1.5 * LIMIT
    while time.monotonic() < until:
        time.sleep(0.05)
        beat()


def waiting() -> None:
    with paused():
        time.sleep(1.3 * LIMIT)
        beat()  # of another thread, say
        time.sleep(1.3 * LIMIT)


def waited_and_idle() -> None:
    with paused():
        pass
    time.sleep(60)


@pytest.mark.parametrize(("work", "status"), [(idle, 1), (busy, 0), (waiting, 0), (waited_and_idle, 1)])
def test_only_what_hangs_is_ended(work: Callable[[], None], status: int, tmp_path: Path) -> None:
    stacks = tmp_path / "new" / "hang.txt"

    def process() -> None:
        with watched(LIMIT, stacks):
            work()

    assert ended(process) == status
    assert hangs(stacks) == status and stacks.exists() == bool(status)
    if status:
        assert f"in {work.__name__}" in stacks.read_text()


def test_each_hang_is_counted(tmp_path: Path) -> None:
    def process() -> None:
        with watched(0.1, tmp_path / "hang.txt"):
            idle()

    for count in (1, 2):
        assert ended(process) == 1
        assert hangs(tmp_path / "hang.txt") == count
    with watched(60, tmp_path / "hang.txt"):
        beat()
    assert hangs(tmp_path / "hang.txt") == 2, "what was written stays"


def test_nothing_is_watched_after_the_block(tmp_path: Path) -> None:
    def process() -> None:
        with watched(0.3, tmp_path / "hang.txt"):
            pass
        beat()
        with paused():
            pass
        time.sleep(0.6)

    assert ended(process) == 0 and not (tmp_path / "hang.txt").exists()


def test_the_clock_is_not_set_at_every_step(tmp_path: Path) -> None:
    with watched(60, tmp_path / "hang.txt"):
        started = time.process_time()
        for _ in range(10_000):
            beat()
        each = (time.process_time() - started) / 10_000
    assert each < 2e-5
    assert watchdog._watched is None


def test_waiting_for_another_builder_is_no_hang(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def builder() -> None:
        with watched(0.3, tmp_path / "hang.txt"):
            os.write(writing, b"x")
            with only_builder(tmp_path, "key"):
                pass

    with FileLock(tmp_path / "key.lock"):
        process = os.fork()
        if not process:
            os._exit(ended(builder))
        os.read(reading, 1)
        time.sleep(0.8)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert not (tmp_path / "hang.txt").exists()
