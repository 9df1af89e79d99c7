"""The ledger of openings of test sets: one for all searches under a storage, only ever added to.

Keyed by the digests of the test's groups and of its images, not by the search: another search on the same test set
adds to the same count, and so does one that groups the same images otherwise. It can't prove that nobody looked at the
test elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from search.study import cut_torn_line, whole_lines
from spaces.mistakes import Mistake
from spaces.words import counted

NAME = "test-openings.jsonl"


@dataclass(frozen=True)
class SealedTest:
    """A test set, by what it holds."""

    groups: str
    """Digest of its groups."""
    contents: str
    """Digest of its images; empty where it isn't known."""


@dataclass(frozen=True)
class Opening:
    """One opening of a test set."""

    test: str
    """Digest of the test's groups."""
    what: str
    """Digest of the configurations, seeds and fit that it was opened for: the same again is the same opening."""
    searches: tuple[str, ...]
    configurations: int
    reason: str
    time: float
    contents: str = ""
    """Digest of the test's images; empty in lines that came before it."""

    def of(self, test: SealedTest) -> bool:
        """Whether it is an opening of that test: of the same groups, or of the same images under other groups."""
        return self.test == test.groups or bool(test.contents and self.contents == test.contents)

    def again(self, test: SealedTest, what: str) -> bool:
        """Whether the same opening would only be repeated."""
        return self.test == test.groups and self.what == what


@dataclass(frozen=True)
class Standing:
    """How often a test set has been opened, this opening included."""

    opening: int
    searches: int
    configurations: int

    def __str__(self) -> str:
        searches = counted(self.searches, "search", "searches")
        configurations = counted(self.configurations, "configuration")
        return f"opening {self.opening} of this test set, by {searches}, {configurations} in all"


class Ledger:
    def __init__(self, storage: Path) -> None:
        self.path = storage / NAME

    def openings(self, test: SealedTest) -> list[Opening]:
        """Of one test set, in order. A torn last line, left by a crash, is passed over.

        Raises:
            Mistake: another line is damaged.
        """
        if not self.path.exists():
            return []
        openings = [self._read(number, line) for number, line in enumerate(whole_lines(self.path), start=1)]
        return [opening for opening in openings if opening.of(test)]

    def _read(self, number: int, line: bytes) -> Opening:
        try:
            data = json.loads(line)
            return Opening(**{**data, "searches": tuple(data["searches"])})
        except (LookupError, TypeError, ValueError):
            raise Mistake(
                f"{self.path}: line {number}: damaged; restore the file from a backup: without that line it isn't "
                "known how often a test set was opened. Searches and their finals aren't touched by it."
            ) from None

    def refuse_unexplained(self, test: SealedTest, what: str, reason: str | None) -> None:
        """Raises:
        Mistake: the test set was opened before for something else, and no reason is given.
        """
        openings = self.openings(test)
        if openings and not (reason or "").strip() and not any(o.again(test, what) for o in openings):
            raise Mistake(
                f"final: this test set was opened before ({self.standing(test)}); each further look makes figures more "
                'optimistic. If it has to be, say why with --again "reason", which the report will show.'
            )

    def open(
        self, test: SealedTest, what: str, searches: tuple[str, ...], configurations: int, reason: str | None
    ) -> Standing:
        """Notes an opening, on disk before the test is read. The same opening again adds nothing.

        Raises:
            Mistake: somebody else has opened it meanwhile, and no reason is given.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self.path) + ".lock"):
            self.refuse_unexplained(test, what, reason)
            if not any(o.again(test, what) for o in self.openings(test)):
                opening = Opening(test.groups, what, searches, configurations, reason or "", time.time(), test.contents)
                self._append(opening)
        return self.standing(test)

    def standing(self, test: SealedTest) -> Standing:
        openings = self.openings(test)
        searches = {name for opening in openings for name in opening.searches}
        return Standing(len(openings), len(searches), sum(o.configurations for o in openings))

    def _append(self, opening: Opening) -> None:
        cut_torn_line(self.path)
        with self.path.open("ab") as file:
            file.write(json.dumps(asdict(opening)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
