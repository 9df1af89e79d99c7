"""The configurations that would come first are those that come first."""

from pathlib import Path

import pytest

from search.dry_run import dry_run, line
from search.plan import Plan, plan
from spaces.config import SearchConfig
from tests.search.conftest import write_digits
from tests.search.test_report import SETTINGS
from tests.search.test_scheduler import driver


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry-run")
    write_digits(folder / "secret-folder", 150)
    return folder


def planned(data: Path, **changes: object) -> Plan:
    config = SearchConfig.parse({**SETTINGS, "storage": str(data / "runs"), **changes}, "test")
    return plan(config, data, decoded=False)


def test_own_configurations_first_then_the_samplers(data: Path) -> None:
    trials = dry_run(planned(data), 20)
    assert [trial.number for trial in trials] == list(range(20))
    assert trials[0].point["backbone"] == "mae_tiny" and trials[0].point["head_lr"] == 5e-3
    whys = [trial.why for trial in trials]
    assert whys[0] == "first configurations" and whys[-1] == "tpe"
    assert len({str(sorted(trial.point.items())) for trial in trials}) == 20
    assert line(trials[0]).strip().startswith("0 mae_tiny: ") and "head_lr 0.005" in line(trials[0])


def test_they_are_what_a_driver_orders(data: Path, tmp_path: Path) -> None:
    one = planned(data)
    real = driver(tmp_path, one.config, one.first)
    while real.next_job() is not None:
        pass
    assert [t.point for t in dry_run(one, 30)] == [t.point for t in real.study.trials]


def test_no_more_than_the_budget_has(data: Path) -> None:
    assert len(dry_run(planned(data, budget={"trials": 3, "epochs": 4}), 20)) == 3


def test_no_pixel_is_decoded_and_nothing_is_started(data: Path) -> None:
    dry_run(planned(data), 3)
    assert not (data / "runs" / "cache" / "pixels").exists() and not (data / "runs" / "found").exists()
