"""When a trial's epochs are told: each once its checkpoint is on disk, which is written beside the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from trainables.place import Place
from trainables.saver import Saver

LEAST_OF_SAVING = 20  # times what the last checkpoint took must pass before the next, where a pause is asked for
R = TypeVar("R")


class Stopped(Exception):
    """Whoever gets the reports doesn't want the trial to go on."""


class Telling(Generic[R]):
    """Decides when to save and when to tell. What was begun is on disk when the block ends.

    Args:
        reports: of the epochs that are done; the trial adds to it.
        save: begins to write a checkpoint; of several workers, all call it and the first one's saver is used.
        report: as for `fine_tune`.
        pause: as for `fine_tune`.
    """

    def __init__(
        self,
        reports: Sequence[R],
        save: Callable[[Saver], None],
        report: Callable[[R], bool | None],
        place: Place,
        pause: float,
    ) -> None:
        self.reports, self.save, self.report, self.place, self.pause = reports, save, report, place, pause
        self.saver = Saver()
        self.told = 0
        self.begun = len(reports)
        """Reports that the newest checkpoint holds."""
        self.saved_at, self.copying = time.monotonic(), 0.0

    def __enter__(self) -> Telling[R]:
        self._tell()  # the process may have died between an epoch's checkpoint and its report
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.saver.__exit__(kind, error, trace)

    def look(self) -> None:
        """After a step: tells what is on disk by now. Of several workers only after an epoch, since all must agree."""
        if self.place.world == 1 and self.saver.busy and self.saver.done:
            self._finish()

    def close_epoch(self, last: bool) -> None:
        """After an epoch's report was added: begins a checkpoint if it is time for one."""
        least = LEAST_OF_SAVING * (self.copying + self.saver.seconds) if self.pause else 0.0
        due = last or time.monotonic() - self.saved_at >= max(self.pause, least)
        if self.place.agree(due):
            self._finish()
            self.saved_at = time.monotonic()
            self.save(self.saver)
            self.copying, self.begun = time.monotonic() - self.saved_at, len(self.reports)
        if last or self.place.agree(self.saver.done):
            self._finish()

    def _finish(self) -> None:
        self.saver.finish()
        self.place.wait()
        self._tell()

    def _tell(self) -> None:
        """From the first process. All stop together, so that none waits for another."""
        new, self.told = self.reports[self.told : self.begun], self.begun
        goes_on = [self.report(one) is not False for one in new] if self.place.first else []
        if not self.place.agree(all(goes_on)):
            raise Stopped
