"""What a search will cost, told before it is started."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from search import cost
from search.check import check
from search.console import Console
from search.cost import Estimate, estimate, estimate_lines, share_of_epochs
from search.plan import Plan, pixels_of_trials, plan
from spaces.config import ResourcesConfig, SearchConfig, StoppingConfig, TrialConfig
from spaces.policy import policy
from tests.search.conftest import write_digits
from tests.trainables.data.conftest import write_image
from tests.trainables.data.readers.test_spoiled import DATASETS, settings
from trainables.causes import Diverged
from trainables.data.pixels import open_many
from trainables.place import Place
from trainables.probe import Cost

assert write_image  # the fixture
HALVING = StoppingConfig(grace=0.25, eta=2)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    place = tmp_path_factory.mktemp("digits")
    write_digits(place / "images", 150)
    settings = {
        "name": "digits", "dataset": {"reader": "folder", "root": "images", "policy": "digits"},
        "backbones": ["mae_tiny"], "weights": "random", "storage": str(place / "runs"), "mlflow": "off",
        "space": {"batch_size": {"choice": [8, 16]}, "head": "linear", "resolution": 32},
        "budget": {"trials": 10, "epochs": 8, "hours": 1}, "metric": "accuracy", "resources": {"concurrent": 1},
    }  # fmt: skip
    return plan(SearchConfig.model_validate(settings), place)


def by_batch(config: TrialConfig, *_: object) -> Cost:
    """One second an image with small batches; large ones don't fit."""
    return Cost(1.0, 0.5, 0, 100) if config.batch_size == 8 else Cost(0.0, 0.0, 0, 0, fits=False)


def test_what_is_summed(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "remembered", by_batch)
    found = estimate(planned)
    assert found is not None
    images = len(planned.prepared.train) + 0.5 * len(planned.prepared.validation)
    assert found.hours_each == pytest.approx(8 * images / 3600)
    assert found.hours_all == pytest.approx(10 * found.hours_each)
    assert found.hours_stopped == pytest.approx(found.hours_all * (2 + 2 / 2 + 4 / 4) / 8)
    assert found.measured == found.kinds == 6 and 0.2 < found.infeasible < 0.8
    assert found.wall_hours == pytest.approx(found.hours_stopped)
    assert found.fit == int(1 / (found.hours_each / 2))
    assert found.device_memory == 0 and found.host_memory > 100
    assert found.unmeasured == 0, "what doesn't fit was measured"
    policies = [policy("digits", {})]
    parts = pixels_of_trials(planned.config, planned.space, planned.prepared, policies)
    opened = [open_many(planned.prepared.manifest.take(rows), specs, planned.cache) for rows, specs in parts]
    exact = sum(pixels.array.nbytes for each in opened for pixels in each)
    assert exact <= found.pixels <= 3 * exact  # grey images take a third


def test_what_was_not_measured_is_said(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    assert estimate(planned) is None  # nothing is known of anything
    ticks = iter(range(1000))
    monkeypatch.setattr(cost.time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(cost, "SECONDS", 3.0)
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 0, 100))
    found = estimate(planned)
    assert found is not None and (found.measured, found.kinds, found.unmeasured) == (2, 6, 4)
    assert "(2 of 6 kinds were measured)" in estimate_lines(found, planned)[0]


def by_memory(config: TrialConfig, *_: object) -> Cost:
    """A kind of each sort: measured whole, too slow for that, and too large."""
    if config.trained_blocks == 0:
        return Cost(1.0, 0.5, 0, 200)
    return Cost(1.0, 0.5, 0, 100, whole=False) if config.batch_size == 8 else Cost(0.0, 0.0, 0, 0, fits=False)


def test_memory_that_was_not_measured_is_said(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "own_memory", lambda _: 1000)
    monkeypatch.setattr(cost, "remembered", by_memory)
    found = estimate(planned)
    assert found is not None and found.host_memory == 1200 and 0 < found.unmeasured < found.kinds
    [line] = [line for line in estimate_lines(found, planned) if line.startswith("Memory")]
    assert line.startswith("Memory of a trial: at least 0.00 GiB of the host")
    assert f"{found.unmeasured} of {found.kinds} kinds weren't measured with a whole batch" in line


@pytest.mark.parametrize(
    ("resources", "device_hours", "faster"),
    [
        ({"cpus": 2}, 2, 1),
        ({"accelerators": 0.5}, 0.5, 1),
        ({"accelerators": 1, "cpus": 4}, 1, 1),
        ({"workers": 2}, 1, 2),
        ({"workers": 2, "accelerators": 1}, 1, 2),
    ],
)
def test_what_a_trial_occupies_is_not_how_long_it_takes(
    planned: Plan, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], device_hours: float, faster: int
) -> None:
    """A trial takes as many hours on however many devices; several workers share its images out."""
    monkeypatch.setattr(cost, "_has_devices", lambda _: True)
    monkeypatch.setattr(cost, "this_machine", lambda *_: Place())
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 0, 100))
    one = estimate(with_(planned, 2))
    found = estimate(with_(planned, 2, resources=ResourcesConfig(**resources)))
    assert one is not None and found is not None
    assert found.hours_each == pytest.approx(one.hours_each * device_hours)
    assert one.wall_hours == pytest.approx(one.hours_stopped / 2), "two at once"
    assert found.wall_hours == pytest.approx(one.wall_hours / faster)
    assert found.fit == int(10 * faster / one.wall_hours), "of ten trials, in an hour"


def test_the_tighter_budget_counts(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 0, 100))
    one = estimate(planned)
    assert one is not None and one.fit is not None
    stopped = one.hours_stopped / 10
    for hours, device_hours, fit in ((None, 7, 7), (100, 7, 7), (3, 70, 3), (None, None, None)):
        limits = {"hours": hours, "device_hours": device_hours}
        limits = {name: many and many * stopped * 1.001 for name, many in limits.items()}
        budget = planned.config.budget.model_copy(update=limits)
        found = estimate(with_(planned, 1, budget=budget))
        assert found is not None and found.fit == fit


def with_(planned: Plan, concurrent: int, **changes: object) -> Plan:
    """The plan with as many trials at once and with other settings."""
    return replace(planned, config=planned.config.model_copy(update=changes), concurrent=concurrent)


@pytest.mark.parametrize("reader", sorted(DATASETS))
def test_the_space_of_every_reader_is_measured(
    reader: str, tmp_path: Path, write_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that the reader's own space asks for: weights of classes and logit adjustment too, of which the noise
    that is trained on has fewer images than there are classes."""
    good, _ = DATASETS[reader]
    config = settings(reader, tmp_path / "data", good(tmp_path / "data", write_image))
    monkeypatch.setattr(cost, "SECONDS", 5.0)
    output = io.StringIO()
    check(config, tmp_path, Console(output))
    assert "Cost, measured on this machine" in output.getvalue()


def test_what_diverges_on_noise_is_not_measured(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverged(*_: object) -> Cost:
        raise Diverged("the loss was nan at step 1")

    monkeypatch.setattr(cost, "remembered", diverged)
    assert estimate(planned) is None
    assert "none of the kinds" in estimate_lines(None, planned)[0]
    answers = iter([diverged] + 10 * [lambda *_: Cost(1.0, 0.5, 0, 100)])
    monkeypatch.setattr(cost, "remembered", lambda *given: next(answers)(*given))
    found = estimate(planned)
    assert found is not None and (found.measured, found.kinds) == (5, 6) and found.infeasible == 0


def test_shares_of_epochs() -> None:
    assert share_of_epochs(8, replace_rule("off")) == 1
    assert share_of_epochs(8, HALVING) == pytest.approx((2 + 1 + 1) / 8)
    assert share_of_epochs(8, HALVING, folds=2) == pytest.approx((8 + 8 / 2) / 16)


def replace_rule(rule: str) -> StoppingConfig:
    return StoppingConfig.model_validate({"rule": rule})


def test_sentences(planned: Plan) -> None:
    found = Estimate(
        kinds=3, measured=3, hours_each=0.5, hours_all=5, hours_stopped=2.5, wall_hours=1.25, fit=4, device_memory=0,
        host_memory=2**30, unmeasured=0, infeasible=0.25, pixels=2**29, activations=0,
    )  # fmt: skip
    hours, time, fit, memory, disk = estimate_lines(found, planned)
    assert "0.5 CPU-hours a full trial, 5 for 10 trials, about 2.5 with early stopping" in hours
    assert "25% of configurations don't fit in memory" in hours
    assert time == "Time: about 1.25 hours for 10 trials, 1 at once."
    assert fit.startswith("WARNING: some 4 of the 10 trials fit into budget.hours: 1; give more")
    assert memory == "Memory of a trial: about 1.00 GiB of the host, mapped images left out."
    assert "0.50 GiB for decoded images" in disk
    accelerated = replace(found, device_memory=2**31, fit=20)
    lines = estimate_lines(accelerated, planned)
    assert lines[2] == "Some 20 trials would fit into budget.hours: 1."
    assert "about 2.00 GiB of its accelerator, 1.00 GiB of the host" in lines[3]
    assert len(estimate_lines(replace(found, fit=None), planned)) == 4, "without limits all of them fit"
    assert "hasn't the accelerators" not in estimate_lines(None, planned)[0], "none is asked for"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has them")
def test_a_machine_without_the_accelerators_says_so(planned: Plan) -> None:
    resources = planned.config.resources.model_copy(update={"accelerators": 1.0})
    asking = replace(planned, config=planned.config.model_copy(update={"resources": resources}))
    assert estimate(asking) is None and "hasn't the accelerators" in estimate_lines(None, asking)[0]
