"""One side of a benchmark in a process of its own, so that nothing that was imported or made for another is there.

python -m benchmarks.search.replay ORDER.json    (an `Order` as plain data)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.search.outcome import Outcome
from benchmarks.search.regimes import Recorded, Trained, of_plain
from benchmarks.search.setting import Setting

SIDES = ("plain", "strong", "ours")
BASELINES = ("plain", "strong")


@dataclass(frozen=True)
class Order:
    """What a side is to do: to replay `trials`, or, where there are none, to search by itself."""

    side: str
    setting: Setting
    cpus: int
    """Of this machine, that trials share."""
    trials: tuple[Recorded, ...] = ()
    count: int = 0
    """Of a search: its trials."""
    blocks: tuple[Trained, ...] = ()
    """Of a search: choices of trained blocks."""
    level: int = 0
    """Of a search: its augmentation."""


def run(order: Order) -> Outcome:
    """Runs an order in a new process.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as home:
        file, out, log = Path(home) / "order.json", Path(home) / "outcome.json", Path(home) / "log.txt"
        file.write_text(json.dumps(asdict(order)), encoding="utf-8")
        began, clock = time.time(), time.perf_counter()
        with log.open("w") as said:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.search.replay", str(file)], stdout=said, stderr=said, check=False
            )
        wall = time.perf_counter() - clock
        if done.returncode:
            raise RuntimeError(f"{order.side} failed:\n{log.read_text()[-4000:]}")
        outcome = Outcome.read(out)
    outcome.began, outcome.wall = began, wall
    return outcome


def of_this_process(order: Order, home: Path) -> Outcome:
    """Runs an order here; files go to `home`."""
    asked = (order.count, order.blocks, order.level, order.setting)
    if order.side in BASELINES:
        from benchmarks.search import baselines

        if order.trials:
            return baselines.replay(order.side, order.trials, order.setting, order.cpus, home)
        return baselines.search(order.side, *asked, order.cpus, home)
    from benchmarks.search import ours

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order.cpus])  # what a search on this machine asks for
    return (
        ours.replay(order.side, order.trials, order.setting, home)
        if order.trials
        else ours.search(order.side, *asked, home)
    )


def _read(file: Path) -> Order:
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    trials: Sequence[dict[str, Any]] = data.pop("trials")
    setting, blocks = Setting(**data.pop("setting")), tuple(data.pop("blocks"))
    return Order(setting=setting, trials=tuple(of_plain(trial) for trial in trials), blocks=blocks, **data)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    of_this_process(_read(path), path.parent).write(path.parent / "outcome.json")
