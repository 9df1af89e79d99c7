"""Device-hours: counted over all launches, capped, and told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.mirror import Mirror
from search.record import State
from search.spent import Shared, device_seconds, devices, shared
from spaces.config import BudgetConfig, ResourcesConfig
from tests.search.test_scheduler import CONFIG, driver, epoch
from trainables.trial_files import END, trial_folder


def test_what_a_trial_occupies() -> None:
    assert devices(ResourcesConfig(cpus=4)) == 4
    assert devices(ResourcesConfig(cpus=4, accelerators=0.5)) == 0.5
    assert devices(ResourcesConfig(cpus=4, accelerators=1, workers=8)) == 8


def test_the_cap_ends_a_search_resumably_and_over_launches(tmp_path: Path) -> None:
    budget = BudgetConfig(trials=4, epochs=8, device_hours=5 / 3600)
    config = CONFIG.model_copy(update={"budget": budget, "resources": ResourcesConfig(cpus=2)})
    one = driver(tmp_path, config)
    assert one.next_job() is not None
    assert one.told([epoch(0, 1, 0.9)], [0]) and one.spent == 2  # an epoch of a second on two CPUs
    assert one.told([epoch(0, 1, 0.9)], [0]) and one.spent == 2, "told again, it costs nothing"
    again = driver(tmp_path, config)
    assert again.spent == 2 == device_seconds(again.study.trials, config.resources)
    assert again.next_job() == {"trials": [{"number": 0}]}
    assert again.told([epoch(0, 2, 0.9)], [0])
    assert not again.told([epoch(0, 3, 0.9)], [0]), "spent: the job is stopped"
    assert again.study.trials[0].state is State.RUNNING and again.next_job() is None
    assert again.over == "0.00167 device-hours of 0.00139 are spent (raise budget.device_hours)"
    more = config.model_copy(update={"budget": budget.model_copy(update={"device_hours": 1.0})})
    assert driver(tmp_path, more).next_job() == {"trials": [{"number": 0}]}


def test_what_was_shared(tmp_path: Path) -> None:
    one = driver(tmp_path)
    for _ in range(3):
        one.next_job()
    for number, counts in ((0, {"computed": 100, "read": 0}), (1, {"computed": 0, "read": 300})):
        folder = trial_folder(tmp_path, number)
        folder.mkdir(parents=True)
        (folder / END).write_text(json.dumps([{"counts": counts}]))
    found = shared(tmp_path, one.study.trials)
    assert found == Shared(computed=100, read=300) and found.saved == pytest.approx(0.75)
    assert Shared(0, 0).saved == 0


def test_mlflow_counts_all_workers_of_a_trial() -> None:
    settings = {"resources.accelerators": "1", "resources.cpus": "4", "resources.workers": "4"}
    mirror: Any = SimpleNamespace(search=SimpleNamespace(settings=settings))
    trial: Any = SimpleNamespace(seconds=1800.0)
    assert (
        Mirror._device_hours(mirror, trial) == 2.0 == 0.5 * devices(ResourcesConfig(cpus=4, accelerators=1, workers=4))
    )
