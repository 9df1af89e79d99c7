"""Many trials in one search: what the driver and the actors hold doesn't grow with them, nor does a report's cost."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.driver import settings, simulate
from search.folder import SearchFolder
from search.record import State
from search.sampler import Sampler
from search.study import JOURNAL, Study, open_storage
from spaces.library import assemble
from tests.search.conftest import Killable, killable, write_digits

assert killable  # the fixture
TRIALS = 500
MIB = 2**20
SETTINGS = """\
name: soak
dataset: {{reader: folder, root: {root}, policy: digits}}
backbones: [dinov2_tiny, mae_tiny]
weights: random
space: {{batch_size: 32, trained_blocks: 0, level: 0, head: {{choice: [linear, attentive]}}}}
budget: {{trials: {trials}, epochs: 2}}
sampler: random
storage: {storage}
"""


def own_memory(command: Killable) -> dict[str, float]:
    """MiB that belong to the driver alone, and to the actors that run trials, the largest of them."""
    driver, actors = 0.0, [0.0]
    for process in command.all():
        try:
            size = process.memory_full_info().uss / MIB
            if process.pid == command.process.pid:
                driver = size
            elif process.name().startswith("ray::") and "IDLE" not in process.name():
                actors.append(size)
        except psutil.Error:
            continue
    return {"driver": driver, "actor": max(actors)}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_500_trials_in_flat_memory(tmp_path: Path, killable: Any) -> None:
    """From the 100th to the 500th of 500 trials in one search, the driver's own memory grows by less than 64 MiB (a
    record of 500 trials, its sampler and Tune's list of them), an actor's by less than 64 MiB; every trial ends."""
    write_digits(tmp_path / "images", 300)
    text = SETTINGS.format(root=tmp_path / "images", trials=TRIALS, storage=tmp_path / "runs")
    (tmp_path / "search.yaml").write_text(text)
    command = killable("search", tmp_path / "search.yaml")
    journal = tmp_path / "runs" / "soak" / JOURNAL
    seen: list[tuple[int, dict[str, float]]] = []
    while command.process.poll() is None:
        ended = journal.read_bytes().count(b'"medtune:end"') if journal.exists() else 0
        seen.append((ended, own_memory(command)))
        time.sleep(2)
    assert command.process.returncode == 0
    trials = SearchFolder(journal.parent).study().trials
    assert len(trials) == TRIALS and all(t.state in (State.COMPLETE, State.PRUNED) for t in trials)
    for what in ("driver", "actor"):
        held = [(ended, memory[what]) for ended, memory in seen if memory[what]]
        for low in range(0, TRIALS, 50):
            if here := [size for ended, size in held if low <= ended < low + 50]:
                print(f"{what}: {statistics.median(here):.0f} MiB with {low} to {low + 50} trials ended")
        early = [size for ended, size in held if 100 <= ended < 150]
        late = [size for ended, size in held if ended >= TRIALS - 50]
        assert statistics.median(late) - statistics.median(early) < 64, what


def median_of(costs: list[tuple[int, float]], low: int, high: int) -> float:
    """Seconds, with as many trials in the record."""
    return statistics.median(seconds for size, seconds in costs if low < size <= high)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_5000_simulated_trials(tmp_path: Path) -> None:
    """The median report, and the median one after which trials are compared, costs with 4,000 to 5,000 trials in the
    record less than twice what it did with the first 1,000; what an ask costs is printed as it grows, TPE's own part
    apart."""
    config = settings(5000, 30, "random")
    costs = simulate(tmp_path, config, 64)
    fifths = [(low, low + 1000) for low in range(0, 5000, 1000)]
    reports, rungs = ([median_of(of, *fifth) for fifth in fifths] for of in (costs.reports, costs.at_rungs))
    for (low, high), report, rung in zip(fifths, reports, rungs, strict=True):
        print(
            f"{low} to {high} trials: report {1000 * report:.2f} ms, at a rung {1000 * rung:.2f} ms, ask without TPE "
            f"{1000 * median_of(costs.asks, low, high):.2f} ms"
        )
    assert reports[-1] < 2 * reports[0] and rungs[-1] < 2 * rungs[0]
    trials = Study.read(open_storage(tmp_path, None), config.name).trials
    for size in (500, 1000, 2000, 5000):
        sampler = Sampler(assemble(config), "maximize", 0, "tpe", trials[:size])
        took = []
        for number in range(3):
            started = time.perf_counter()
            sampler.ask(size + number)
            took.append(time.perf_counter() - started)
        print(f"{size} trials: TPE's own part of an ask {1000 * statistics.median(took):.0f} ms")
