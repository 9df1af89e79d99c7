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
from search.cost import Estimate, estimate, estimate_lines, share_of_epochs, trials_within, wall_hours
from search.plan import Plan, pixels_of_trials, plan
from spaces.config import ResourcesConfig, SearchConfig, StoppingConfig, TrialConfig
from spaces.policy import policy
from tests.search.conftest import write_digits
from tests.trainables.data.conftest import write_image
from tests.trainables.data.readers.test_spoiled import DATASETS, settings
from trainables import probe as probing
from trainables.causes import Diverged
from trainables.data.pixels import open_many
from trainables.kinds import kind
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
    assert found.wall_hours == pytest.approx(found.hours_all), "one after another"
    assert found.wall_stopped == pytest.approx(found.hours_stopped)
    assert found.fit == int(1 / (found.hours_each / 2))
    assert found.device_memory == 0 and found.host_memory > 100
    assert not found.smaller and not found.diverged and not found.unreached, "what doesn't fit was measured"
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
    assert found is not None and (found.measured, found.kinds, found.unreached) == (2, 6, 4)
    cost_line, *others = estimate_lines(found, planned)
    assert "(2 of 6 kinds were measured)" in cost_line
    [line] = [line for line in others if line.startswith("Memory")]
    assert line.endswith("a whole batch: 4 had no turn within 3 s (the next check goes on with them).")


def test_what_does_not_fit_keeps_nothing_else_from_its_turn(
    planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind takes all the time there is, and is tried once before any is tried again."""
    here, now, tried = with_(planned, 1, cache=str(tmp_path)), [0.0], list[str]()

    def probe(config: TrialConfig, *_: object) -> Cost:
        now[0] += cost.SECONDS
        tried.append(kind(config))
        return by_batch(config)

    monkeypatch.setattr(cost.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(probing, "probe", probe)
    shares = [found.infeasible for _ in range(6) if (found := estimate(here))]
    assert len(tried) == len(set(tried)) == 6
    known = sum(not by_batch(config).fits for config in cost._drawn(here)) / len(cost._drawn(here))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(known), "what one check found the next ones know"
    found = estimate(here)
    assert tried[6] in tried[:6] and found is not None
    assert (found.measured, found.earlier) == (4, 2), "three that fit, which are remembered, and one of the others"
    assert found.unreached == 0 and found.infeasible == pytest.approx(known)
    line = estimate_lines(found, here)[0]
    assert line.endswith(
        f"; {known:.0%} of configurations don't fit in memory (2 kinds didn't in an earlier check, and had no turn in "
        "this one)."
    )


def test_what_diverged_is_no_want_of_memory_afterwards(
    planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = with_(planned, 1, cache=str(tmp_path))

    def probe(config: TrialConfig, *_: object) -> Cost:
        if config.batch_size == 8:
            return Cost(1.0, 0.5, 0, 100)
        raise Diverged("the loss was nan at step 1")

    monkeypatch.setattr(probing, "probe", probe)
    now = estimate(here)
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    later = estimate(here)
    for found in (now, later):
        assert found is not None and (found.measured, found.diverged) == (3, 3)
        assert (found.earlier, found.unreached, found.infeasible) == (0, 0, 0)


def by_memory(config: TrialConfig, *_: object) -> Cost:
    """A kind of each sort: measured whole, too slow for that, and too large."""
    if config.trained_blocks == 0:
        return Cost(1.0, 0.5, 0, 200)
    return Cost(1.0, 0.5, 0, 100, whole=False) if config.batch_size == 8 else Cost(0.0, 0.0, 0, 0, fits=False)


def test_memory_that_was_not_measured_is_said(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "own_memory", lambda _: 1000)
    monkeypatch.setattr(cost, "remembered", by_memory)
    found = estimate(planned)
    assert found is not None and found.host_memory == 1200 and 0 < found.smaller < found.kinds
    [line] = [line for line in estimate_lines(found, planned) if line.startswith("Memory")]
    assert line.startswith("Memory of a trial: at least 0.00 GiB of the host")
    assert line.endswith(
        f"{found.smaller} of {found.kinds} kinds weren't measured with a whole batch: {found.smaller} would take long."
    )


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
    assert one.wall_hours == pytest.approx(one.hours_all / 2), "two at once"
    assert found.wall_hours == pytest.approx(one.wall_hours / faster)
    assert found.wall_stopped == pytest.approx(wall_hours(10, 2, one.hours_each / faster, 0.5))
    assert found.fit == trials_within(1, 2, one.hours_each / faster, 0.5)


@pytest.mark.parametrize(
    ("trials", "at_once", "share", "lengths"),
    [
        (5, 4, 1, 2), (4, 4, 1, 1), (8, 4, 1, 2), (3, 8, 1, 1), (10, 1, 1, 10),
        (10, 1, 0.5, 5), (4, 4, 0.5, 1), (5, 4, 0.5, 1.375), (100, 4, 0.5, 13.25), (3, 2, 0.1, 1),
    ],
)  # fmt: skip
def test_a_trial_is_not_shared_out(trials: int, at_once: int, share: float, lengths: float) -> None:
    """The fifth of four at once begins when another one has ended; one of those that are stopped goes on to its end."""
    assert wall_hours(trials, at_once, 3.0, share) == pytest.approx(3 * lengths)
    assert trials_within(3 * lengths * 1.001, at_once, 3.0, share) >= trials


def test_trials_that_are_over_in_time() -> None:
    assert [trials_within(hours, 4, 1.0, 1) for hours in (0.9, 1, 1.9, 2.1)] == [0, 4, 4, 8]
    assert [trials_within(hours, 4, 1.0, 0.5) for hours in (0.9, 1, 1.375, 13.25)] == [0, 4, 5, 100]


def test_what_was_not_measured_costs_as_the_backbones_others(planned: Plan) -> None:
    first = cost._drawn(planned)[0]

    def of(backbone: str, batch: int) -> TrialConfig:
        return first.model_copy(update={"backbone": backbone, "batch_size": batch})

    costs = {
        kind(of("mae_tiny", 8)): Cost(1.0, 0.5, 0, 0),
        kind(of("dinov2_tiny", 8)): Cost(5.0, 2.5, 0, 0),
        kind(of("mae_tiny", 32)): Cost(0.0, 0.0, 0, 0, fits=False),
    }
    backbones = {kind(of(name, batch)): name for name in ("mae_tiny", "dinov2_tiny") for batch in (8, 32)}

    def hours(backbone: str, batch: int) -> float:
        return cost._hours(planned, of(backbone, batch), costs, backbones)

    one = hours("mae_tiny", 8)
    assert hours("mae_tiny", 16) == pytest.approx(one) and hours("dinov2_tiny", 16) == pytest.approx(5 * one)
    assert hours("sam2_tiny", 16) == pytest.approx(3 * one), "of none of its backbone's, as the mean of all"


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
    assert found is not None and (found.measured, found.kinds, found.diverged) == (5, 6, 1) and found.infeasible == 0
    assert "1 of 6 kinds weren't measured with a whole batch: 1 had no finite loss on noise." in " ".join(
        estimate_lines(found, planned)
    )


def test_shares_of_epochs() -> None:
    assert share_of_epochs(8, replace_rule("off")) == 1
    assert share_of_epochs(8, HALVING) == pytest.approx((2 + 1 + 1) / 8)
    assert share_of_epochs(8, HALVING, folds=2) == pytest.approx((8 + 8 / 2) / 16)


def replace_rule(rule: str) -> StoppingConfig:
    return StoppingConfig.model_validate({"rule": rule})


def test_sentences(planned: Plan) -> None:
    found = Estimate(
        kinds=3, measured=3, hours_each=0.5, hours_all=5, hours_stopped=2.5, wall_hours=1.25, wall_stopped=0.75, fit=4,
        device_memory=0, host_memory=2**30, smaller=0, diverged=0, earlier=0, unreached=0, infeasible=0.25,
        pixels=2**29, activations=0,
    )  # fmt: skip
    hours, time, fit, memory, disk = estimate_lines(found, planned)
    assert "0.5 CPU-hours a full trial, 5 for 10 trials, about 2.5 with early stopping" in hours
    assert "25% of configurations don't fit in memory" in hours
    assert time == (
        "Time: about 1.25 hours for 10 trials, 1 at once, if none is stopped early, and about 0.75 with early stopping."
    )
    assert fit.startswith("WARNING: with early stopping some 4 of the 10 trials fit into budget.hours: 1; give more")
    assert memory == "Memory of a trial: about 1.00 GiB of the host, mapped images left out."
    assert "0.50 GiB for decoded images" in disk
    accelerated = replace(found, device_memory=2**31, fit=20)
    lines = estimate_lines(accelerated, planned)
    assert lines[2] == "With early stopping some 20 trials would fit into budget.hours: 1."
    unstopped = estimate_lines(replace(found, hours_stopped=5, wall_stopped=1.25), planned)
    assert unstopped[1] == "Time: about 1.25 hours for 10 trials, 1 at once."
    assert unstopped[2].startswith("WARNING: some 4 of the 10 trials fit into")
    assert "about 2.00 GiB of its accelerator, 1.00 GiB of the host" in lines[3]
    assert len(estimate_lines(replace(found, fit=None), planned)) == 4, "without limits all of them fit"
    assert "hasn't the accelerators" not in estimate_lines(None, planned)[0], "none is asked for"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has them")
def test_a_machine_without_the_accelerators_says_so(planned: Plan) -> None:
    resources = planned.config.resources.model_copy(update={"accelerators": 1.0})
    asking = replace(planned, config=planned.config.model_copy(update={"resources": resources}))
    assert estimate(asking) is None and "hasn't the accelerators" in estimate_lines(None, asking)[0]
