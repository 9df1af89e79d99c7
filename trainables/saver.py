"""Checkpoints written beside the training: what is copied is the training's time, hashing and the disk are a thread's.

One is written at a time. Whoever reports an epoch waits until its checkpoint is on disk; the training doesn't.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from trainables.checkpoint import Checkpoint, save


class Saver:
    """Writes checkpoints in a thread of its own, which has ended when the block ends."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[float] | None = None
        self.seconds = 0.0
        """That the last one took to write."""

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)  # nobody writes into a trial's folder once the trial is over

    def start(self, folder: Path, checkpoint: Checkpoint, keep: int) -> None:
        """Begins to write a checkpoint, whose tensors must not change any more. The one before has been waited for."""
        assert self._writing is None
        self._writing = self._pool.submit(_timed, folder, checkpoint, keep)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint was begun that `finish` wasn't called for."""
        return self._writing is not None

    @property
    def done(self) -> bool:
        """Whether `finish` would wait for nothing."""
        return self._writing is None or self._writing.done()

    def finish(self) -> None:
        """Waits until what was begun is on disk.

        Raises:
            Exception: what writing it raised.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.seconds = writing.result()


def _timed(folder: Path, checkpoint: Checkpoint, keep: int) -> float:
    started = time.monotonic()
    save(folder, checkpoint, keep)
    return time.monotonic() - started
