"""The driver killed without warning, again and again. Torn lines, and Ray and all workers killed too: test_kills.py."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from search.folder import SearchFolder
from search.record import best
from tests.faults.searches import (
    check_mirrored,
    check_whole,
    epochs_in,
    fixed_list,
    outcome,
    ran,
    values,
    wait_until,
    written,
)
from tests.search.conftest import Killable, killable

KILLS, TRIALS, EPOCHS = 20, 40, 10
assert killable  # the fixture


def wait_for_moment(generator: random.Random, folder: Path) -> str:
    """Some seconds after the driver's start, or some epochs after. Returns which."""
    if generator.random() < 0.4:
        seconds = generator.uniform(0.5, 15)
        time.sleep(seconds)
        return f"{seconds:.1f} s after its start"
    further, seconds = generator.randint(1, 12), generator.uniform(0, 1.5)
    wanted = epochs_in(folder) + further
    wait_until(lambda: epochs_in(folder) >= wanted, 900, f"{wanted} epochs")
    time.sleep(seconds)
    return f"{seconds:.1f} s after {further} further epochs"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_driver_killed_at_twenty_random_moments(tmp_path: Path, killable: Any) -> None:
    """Trials exactly as ordered, none and no epoch twice, one MLflow run each, and every trial's losses and value, the
    best one's too, equal those of the same search undisturbed; nothing is left running."""
    seed = int(os.environ.get("KILL_SEED", "0"))
    generator = random.Random(seed)
    settings = fixed_list(tmp_path, TRIALS, EPOCHS)
    folder = tmp_path / "runs" / "stormy"
    stormy = written(tmp_path, {**settings, "name": "stormy", "mlflow": "local"})
    started = time.monotonic()
    commands: list[Killable] = [killable("search", stormy)]
    wait_until(folder.exists, 300, "the search's folder")  # there is nothing to resume before
    for kill in range(KILLS):
        moment = wait_for_moment(generator, folder)
        driver = commands[-1].process
        assert driver.poll() is None, "the search ended before it was killed often enough"
        driver.kill()
        driver.wait()
        ended = sum(t.state.terminal for t in SearchFolder(folder).study().trials)
        print(f"seed {seed}, kill {kill + 1} {moment}: {epochs_in(folder)} epochs, {ended} trials ended")
        commands.append(killable("resume", folder))
    assert commands[-1].process.wait(timeout=1500) == 0
    print(f"{KILLS} kills and the end: {time.monotonic() - started:.0f} s")
    found = SearchFolder(folder)
    check_whole(found, TRIALS)
    wait_until(lambda: not any(command.all() for command in commands), 180, "the end of all processes")
    check_mirrored(found, tmp_path / "runs" / "mlflow.db")

    assert ran("search", written(tmp_path, {**settings, "name": "calm"})).returncode == 0
    calm = SearchFolder(tmp_path / "runs" / "calm")
    assert values(found) == values(calm)
    winners = [best(each.study().trials, "maximize") for each in (found, calm)]
    assert winners[0] and winners[1] and winners[0].point == winners[1].point
    assert outcome(winners[0]) == outcome(winners[1])
