"""Work in a forked process: whatever becomes of it, this one goes on."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

T = TypeVar("T")
COMMITS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime")
"""What Python tells of before it does it, by which a file comes, goes or changes its name."""


def ended(work: Callable[[], object]) -> int:
    """Exit status of a process that does some work; minus the number of the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if not process:
        _work(work)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def given(work: Callable[[], T], file: Path) -> T:
    """What some work gives, done in a process of its own.

    Args:
        file: the result comes through it.
    """

    def told() -> None:
        file.write_bytes(pickle.dumps(work()))

    assert ended(told) == 0
    result: T = pickle.loads(file.read_bytes())
    file.unlink()
    return result


def killed_before(commit: int, work: Callable[[], object]) -> bool:
    """Whether some work came to its `commit`-th change of the disk, counted from 0; the process kills itself then.

    A change is one of `COMMITS`, a file opened for writing, or a flush to the disk.
    """

    def armed() -> None:
        left = commit

        def count() -> None:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writing or event in COMMITS:
                count()

        flush = os.fsync

        def counted(descriptor: int) -> None:
            count()
            flush(descriptor)

        os.fsync = counted
        sys.addaudithook(hook)
        work()

    status = ended(armed)
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def _work(work: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        torch.set_num_threads(1)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
