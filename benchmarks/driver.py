"""What the record costs a search's driver: simulated trials, the real record, rungs and sampler, no Ray.

    python -m benchmarks.driver [--trials 1000] [--concurrent 64] [--epochs 30]

Trials take turns as they would on a cluster: each tells an epoch a message, is stopped at rungs, and a free place asks
for the next trial. Prints, as the record grows, the driver's time for a report (journal, rungs, sampler) and for an ask
(TPE's own part apart), then what 10,000 trials and 512 at once would cost by the lines through these figures. The
search space is the shipped one for four backbones, the quality that of benchmarks.sampler.

What Ray Tune costs besides is measured by `make bench-overhead`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.sampler import BACKBONES, NOISE, quality
from search.record import State, Trial
from search.rungs import rung_epochs
from search.sampler import Sampler
from search.scheduler import Driver
from search.study import JOURNAL, Study, open_storage
from spaces.config import SearchConfig
from spaces.dimensions import Point
from spaces.library import assemble

REPORT_LIMIT, ASK_LIMIT = 0.005, 0.150  # seconds, on average, with 1,000 trials and 64 at once
LARGE_TRIALS, LARGE_CONCURRENT = 10_000, 512
ROWS = 10


class TimedSampler(Sampler):
    """The search's sampler, which notes how long Optuna took."""

    seconds = 0.0

    def ask(self, number: int) -> Point:
        started = time.perf_counter()
        try:
            return super().ask(number)
        finally:
            self.seconds = time.perf_counter() - started


@dataclass
class Costs:
    """Seconds of the driver's time, each with the number of trials that the record held."""

    reports: list[tuple[int, float]] = field(default_factory=list)
    at_rungs: list[tuple[int, float]] = field(default_factory=list)
    """Of the reports those after which trials are compared."""
    asks: list[tuple[int, float]] = field(default_factory=list)
    """Without what the sampler took."""
    sampler: list[tuple[int, float]] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)
    """Bytes of this process."""
    journal: int = 0
    """Bytes; 0 where the record is in a database."""
    states: dict[str, int] = field(default_factory=dict)


def settings(trials: int, epochs: int, sampler: str = "tpe", study: str | None = None) -> SearchConfig:
    """Of the simulated search. `study`: address of a database; a journal by default."""
    data = {
        "name": "bench",
        "dataset": {"reader": "folder", "root": "."},
        "backbones": BACKBONES,
        "weights": "random",
        "budget": {"trials": trials, "epochs": epochs},
        "sampler": sampler,
        "study": study,
    }
    return SearchConfig.parse(data, "bench")


def simulate(folder: Path, config: SearchConfig, concurrent: int, seed: int = 0) -> Costs:
    """A whole search by the driver's own code, in simulated time.

    Args:
        folder: for the record.
        concurrent: trials at once.
    """
    generator = np.random.default_rng(seed)
    study = Study.create(open_storage(folder, config.study), config.name, "maximize", {"format": 1})
    sampler = TimedSampler(assemble(config), "maximize", config.seed, config.sampler, [])

    def order(trials: list[Trial]) -> dict[str, Any]:
        return {"trials": [{"number": trial.number} for trial in trials]}

    driver = Driver(config, "maximize", study, sampler, [], order)
    costs, process = Costs(), psutil.Process()
    rungs = set(rung_epochs(config.budget.epochs, config.stopping))
    running: list[tuple[float, int, int]] = []  # when the next epoch ends, trial, epoch

    def start(now: float) -> None:
        size = len(study.trials)
        started = time.perf_counter()
        job = driver.next_job()
        took = time.perf_counter() - started
        if job is None:
            return
        costs.asks.append((size, took - sampler.seconds))
        costs.sampler.append((size, sampler.seconds))
        if size % 10 == 0:
            costs.memory.append((size, process.memory_info().rss))
        heapq.heappush(running, (now + generator.lognormal(), job["trials"][0]["number"], 1))

    for _ in range(concurrent):
        start(0.0)
    while running:
        now, number, epoch = heapq.heappop(running)
        text = message(study.trials[number], epoch, config.budget.epochs, generator)
        started = time.perf_counter()
        goes_on = driver.told(json.loads(text), [number])
        took = time.perf_counter() - started
        (costs.at_rungs if epoch in rungs else costs.reports).append((len(study.trials), took))
        if goes_on and not study.trials[number].state.terminal:
            heapq.heappush(running, (now + generator.lognormal(), number, epoch + 1))
        else:
            start(now)
    costs.journal = 0 if config.study else (folder / JOURNAL).stat().st_size
    costs.states = {str(state): sum(t.state is state for t in study.trials) for state in State}
    return costs


def message(trial: Trial, epoch: int, epochs: int, generator: np.random.Generator) -> str:
    """What a job would tell after an epoch, as the driver gets it."""
    reached = 1 - 0.3 * math.exp(-4 * epoch / epochs)
    value = quality(trial.point, 0) * reached + NOISE * float(generator.standard_normal())
    names = ("accuracy", "balanced_accuracy", "macro_auroc", "macro_average_precision", "macro_f1")
    told = {
        "epoch": epoch,
        "value": value,
        "standard_error": NOISE,
        "train_loss": 1 - value,
        "metrics": dict.fromkeys(names, value),
        "seconds": 60.0,
        "time": time.time(),
    }
    end = {"end": {"state": "complete", "cause": "", "value": value}} if epoch == epochs else {}
    return json.dumps([{"trial": trial.number, "epoch": told, **end}])


def flush_seconds(folder: Path, count: int = 50) -> float:
    """How long this disk takes to take a line for good, at the median: a report is two of them, whatever we do."""
    took = []
    with (folder / "flushed").open("ab", buffering=0) as file:
        for _ in range(count):
            file.write(b"x" * 300 + b"\n")
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - started)
    return float(np.median(took))


def average(costs: list[tuple[int, float]], low: float = 0, high: float = math.inf) -> float:
    """Seconds, over those whose record held at least `low` and fewer than `high` trials; NaN where there are none."""
    chosen = [seconds for size, seconds in costs if low <= size < high]
    return float(np.mean(chosen)) if chosen else math.nan


def at(costs: list[tuple[int, float]], size: int) -> float:
    """Seconds with that many trials, by the straight line that fits best; never less than on average now."""
    slope, start = np.polyfit(*np.array(costs).T, 1)
    return max(float(start + slope * size), average(costs))


def table(costs: Costs, trials: int) -> list[str]:
    """How costs grow."""
    lines = [f"{'trials':>13}{'report':>11}{'at a rung':>11}{'ask':>11}{'TPE':>11}{'memory':>11}"]
    for row in range(ROWS):
        low, high = row * trials / ROWS, (row + 1) * trials / ROWS + (row + 1 == ROWS)
        columns = (costs.reports, costs.at_rungs, costs.asks, costs.sampler)
        cells = [f"{1000 * average(column, low, high):8.2f} ms" for column in columns]
        memory = average([(size, float(count)) for size, count in costs.memory], low, high) / 2**20
        lines.append(f"{low:6.0f} -{high:5.0f}{''.join(cells)}{memory:7.0f} MiB")
    return lines


@dataclass(frozen=True)
class Unit:
    """What a trial costs the driver in a record of some size, in seconds, by the lines through what was measured."""

    reports: float
    """Reports a trial."""
    report: float
    """One of them, those at rungs among them by their share."""
    ask: float
    tpe: float

    @property
    def trial(self) -> float:
        return self.reports * self.report + self.ask + self.tpe


def unit(costs: Costs, size: int) -> Unit:
    """Of a trial in a record of that many."""
    reports = len(costs.reports) + len(costs.at_rungs)
    share = len(costs.at_rungs) / reports
    report = (1 - share) * at(costs.reports, size) + share * at(costs.at_rungs, size)
    return Unit(reports / len(costs.asks), report, at(costs.asks, size), at(costs.sampler, size))


def large(costs: Costs) -> list[str]:
    """What a large search would cost, from the lines through the measured figures."""
    mean, last = unit(costs, LARGE_TRIALS // 2), unit(costs, LARGE_TRIALS)  # a line's mean is its value in the middle
    memory = at([(size, float(count)) for size, count in costs.memory], LARGE_TRIALS) / 2**20
    journal = costs.journal / len(costs.asks) * LARGE_TRIALS / 1e6
    hours = LARGE_TRIALS * mean.trial / 3600
    return [
        f"{LARGE_TRIALS} trials, by these lines: {mean.reports:.0f} reports a trial of {1000 * mean.report:.1f} ms "
        f"({1000 * last.report:.1f} at the end), an ask of {1000 * mean.ask:.0f} ms ({1000 * last.ask:.0f}) and "
        f"{1000 * mean.tpe:.0f} ms of TPE ({1000 * last.tpe:.0f}): {hours:.1f} hours of the driver's time in all,",
        f"a journal of {journal:.0f} MB, {memory:.0f} MiB of memory.",
        f"{LARGE_CONCURRENT} at once: a trial costs the driver {mean.trial:.2f} s ({last.trial:.2f} s at the end), so "
        f"that it keeps {LARGE_CONCURRENT} places busy where a trial takes more than "
        f"{mean.trial * LARGE_CONCURRENT / 60:.1f} minutes ({last.trial * LARGE_CONCURRENT / 60:.1f} at the end).",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sampler", choices=["tpe", "random"], default="tpe")
    parser.add_argument("--study", help="address of a database for the record, instead of a journal")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        config = settings(options.trials, options.epochs, options.sampler, options.study)
        flush = flush_seconds(Path(folder))
        started = time.perf_counter()
        costs = simulate(Path(folder), config, options.concurrent)
        wall = time.perf_counter() - started
    states = ", ".join(f"{count} {state}" for state, count in costs.states.items() if count)
    print(f"{options.trials} simulated trials, {options.concurrent} at once, in {wall:.0f} s: {states}")
    print(f"the disk takes {1000 * flush:.2f} ms for a flush (median before the start); a report waits for two")
    print(*table(costs, options.trials), sep="\n")
    report = average(costs.reports + costs.at_rungs)
    ask = average(costs.asks) + average(costs.sampler)
    kept = report < REPORT_LIMIT and ask < ASK_LIMIT
    print(
        f"driver, on average: {1000 * report:.2f} ms a report (limit {1000 * REPORT_LIMIT:.0f}), "
        f"{1000 * ask:.1f} ms an ask (limit {1000 * ASK_LIMIT:.0f}): {'kept' if kept else 'NOT KEPT'}"
    )
    print(*large(costs), sep="\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
