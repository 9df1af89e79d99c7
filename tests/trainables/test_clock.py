"""The machine's clock is set anew while a trial trains: durations stay right, the time stamps follow the clock."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace

import pytest

from tests.trainables.digits import Digits
from trainables import epoch, head_group, loop
from trainables.epoch import EpochReport
from trainables.head_group import fine_tune_heads
from trainables.loop import fine_tune

HOUR = 3600.0


@pytest.fixture(params=[-HOUR, HOUR], ids=["back", "ahead"])
def stepping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Each look at the clock finds it set by another hour."""
    looks, begun = count(1), time.time()
    clock = SimpleNamespace(**{**vars(time), "time": lambda: begun + next(looks) * request.param})
    for module in (epoch, loop, head_group):
        monkeypatch.setattr(module, "time", clock)
    return float(request.param)


def check(reports: list[EpochReport], took: float, step: float) -> None:
    assert len(reports) == 3 and all(0 < report.seconds <= took for report in reports)
    assert [round((b.time - a.time) / step) for a, b in zip(reports, reports[1:], strict=False)] == [1, 1]


def test_of_a_trial(digits: Digits, stepping: float) -> None:
    config = digits.config(trained_blocks=0, epochs=3)
    data, started = digits.data(config), time.perf_counter()
    check(list(fine_tune(config, data).reports), time.perf_counter() - started, stepping)


def test_of_trials_in_one_pass(digits: Digits, stepping: float) -> None:
    config = digits.config(trained_blocks=0, epochs=3)
    data, started = digits.data(config), time.perf_counter()
    [member], _ = fine_tune_heads([config], data)
    check(member.reports, time.perf_counter() - started, stepping)
