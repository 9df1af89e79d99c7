"""The benchmark of the driver: a simulated search goes through the driver's own code to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.driver import at, average, large, settings, simulate, table, unit
from search.record import State
from search.study import JOURNAL, Study, open_storage


def test_every_trial_ends_and_is_in_the_record(tmp_path: Path) -> None:
    config = settings(24, 8)
    costs = simulate(tmp_path, config, 6)
    trials = Study.read(open_storage(tmp_path, None), config.name).trials
    assert len(trials) == len(costs.asks) == len(costs.sampler) == 24
    assert all(trial.state in (State.COMPLETE, State.PRUNED) for trial in trials)
    assert sum(trial.done for trial in trials) == len(costs.reports) + len(costs.at_rungs)
    assert {trial.state for trial in trials} == {State.COMPLETE, State.PRUNED}, "rungs are judged"
    assert costs.journal == (tmp_path / JOURNAL).stat().st_size
    assert len(table(costs, 24)) == 11
    told = "\n".join(large(costs))
    assert "10000 trials" in told and "512 at once" in told and "nan" not in told


def test_lines_through_figures() -> None:
    line = [(size, 0.001 + 0.002 * size) for size in range(100)]
    assert at(line, 1000) == pytest.approx(2.001) and average(line, 10, 12) == pytest.approx(0.022)
    falling = [(size, 1.0 - size / 200) for size in range(100)]
    assert at(falling, 10_000) == pytest.approx(average(falling)), "nothing becomes free by growing"


def test_a_trials_cost_is_its_reports_and_its_ask(tmp_path: Path) -> None:
    costs = simulate(tmp_path, settings(12, 4, "random"), 3)
    one = unit(costs, 12)
    assert one.trial == pytest.approx(one.reports * one.report + one.ask + one.tpe)
    assert one.reports == pytest.approx((len(costs.reports) + len(costs.at_rungs)) / 12)
