"""Runs that are kept, so that a benchmark of hours can be made in pieces, and goes on after it was cut off."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from pathlib import Path

from benchmarks.search.outcome import Outcome
from benchmarks.search.replay import Order, run
from spaces.sources import sources_digest
from spaces.strict import digest

CODE = ("spaces", "trainables", "search", "benchmarks.search")
"""Packages that a side runs: its times follow from what drives its trials, too."""


class OutOfTime(Exception):
    """No further run was begun."""


class Kept:
    """Outcomes in a folder, each under its name and a digest of its order, of the code, and of the machine's name.

    Args:
        minutes: after which nothing more is begun.
    """

    def __init__(self, folder: Path, minutes: float | None = None) -> None:
        self.folder = folder
        self.until = time.monotonic() + 60 * minutes if minutes is not None else None

    def run(self, order: Order, name: str) -> tuple[Outcome, float]:
        """The outcome of an order, run now or before, and the machine's load before it.

        Raises:
            OutOfTime: it would have to be run.
        """
        file = self.folder / f"{name}-{digest([dataclasses.asdict(order), *_here()])[:12]}.json"
        load = file.with_suffix(".load")
        if not file.exists():
            if self.until is not None and time.monotonic() > self.until:
                raise OutOfTime
            before = os.getloadavg()[0]
            outcome = run(order)
            self.folder.mkdir(parents=True, exist_ok=True)
            load.write_text(json.dumps(before), encoding="utf-8")
            outcome.write(file)
        return Outcome.read(file), float(json.loads(load.read_text(encoding="utf-8")))


def _here() -> list[str]:
    """What an outcome depends on besides its order."""
    return [sources_digest(CODE), platform.node()]
