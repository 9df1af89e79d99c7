"""What a search will cost, told before it is started."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search import cost
from search.check import check
from search.console import Console
from search.cost import Estimate, estimate, estimate_lines, share_of_epochs
from search.plan import Plan, pixels_of_trials, plan
from spaces.config import SearchConfig, StoppingConfig, TrialConfig
from spaces.policy import policy
from tests.search.conftest import write_digits
from tests.trainables.data.conftest import write_image
from tests.trainables.data.readers.test_spoiled import DATASETS, settings
from trainables.causes import Diverged
from trainables.data.pixels import open_many
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
    return Cost(1.0, 0.5, 100, fits=True) if config.batch_size == 8 else Cost(0.0, 0.0, 0, fits=False)


def test_what_is_summed(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "remembered", by_batch)
    found = estimate(planned)
    assert found is not None
    images = len(planned.prepared.train) + 0.5 * len(planned.prepared.validation)
    assert found.hours_each == pytest.approx(8 * images / 3600)
    assert found.hours_all == pytest.approx(10 * found.hours_each)
    assert found.hours_stopped == pytest.approx(found.hours_all * (2 + 2 / 2 + 4 / 4) / 8)
    assert found.peak == 100 and found.measured == found.kinds == 6 and 0.2 < found.infeasible < 0.8
    assert found.fit == int(1 / (found.hours_each / 2))
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
    monkeypatch.setattr(cost, "remembered", lambda *_: Cost(1.0, 0.5, 100))
    found = estimate(planned)
    assert found is not None and (found.measured, found.kinds) == (2, 6)
    assert "(2 of 6 kinds were measured)" in estimate_lines(found, planned)[0]


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
    answers = iter([diverged] + 10 * [lambda *_: Cost(1.0, 0.5, 100)])
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
        kinds=3, measured=3, hours_each=0.5, hours_all=5, hours_stopped=2.5, peak=2**30, infeasible=0.25,
        pixels=2**29, activations=0, fit=4,
    )  # fmt: skip
    lines = estimate_lines(found, planned)
    assert "0.5 CPU-hours a full trial, 5 for 10 trials, about 2.5 with early stopping" in lines[0]
    assert "up to 1.00 GiB of memory a trial; 25% of configurations don't fit" in lines[0]
    assert "0.50 GiB for decoded images" in lines[1] and "some 4 of the 10 trials fit into budget.hours: 1" in lines[2]
    assert len(estimate_lines(replace(found, fit=10), planned)) == 2
    assert "hasn't the accelerators" not in estimate_lines(None, planned)[0], "none is asked for"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has them")
def test_a_machine_without_the_accelerators_says_so(planned: Plan) -> None:
    resources = planned.config.resources.model_copy(update={"accelerators": 1.0})
    asking = replace(planned, config=planned.config.model_copy(update={"resources": resources}))
    assert estimate(asking) is None and "hasn't the accelerators" in estimate_lines(None, asking)[0]
