"""Fine-tuning on real images: the same seed, interruptions, several workers, and how a trial may fail."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaces.config import TrialConfig
from tests.trainables.digits import EVERYTHING, Digits
from trainables import checkpoint
from trainables.causes import Diverged, Infeasible
from trainables.data.parts import Part, TrialData
from trainables.data.units import Units
from trainables.epoch import EpochReport
from trainables.inference import predict
from trainables.loop import Outcome, fine_tune
from trainables.metrics import compute
from trainables.place import Place
from trainables.schedule import warmup_cosine
from trainables.value import trial_value

BACKBONES = ["dinov2_tiny", "mae_tiny"]


class Killed(Exception):
    """Stands for the end of the process."""


def told(reports: tuple[EpochReport, ...]) -> list[dict[str, Any]]:
    """What a report says, but for times."""
    return [{k: v for k, v in asdict(report).items() if k not in ("seconds", "time")} for report in reports]


def kept(part: Part, rows: np.ndarray) -> Part:
    chosen = torch.from_numpy(rows)
    units = part.units
    few = Units(np.arange(len(rows)), units.truth[rows], units.groups[rows], units.combine, {})
    return Part(part.pixels[chosen], part.labels[chosen], few, part.key + str(rows.tolist()))


def assert_same(first: Outcome, again: Outcome) -> None:
    assert told(first.reports) == told(again.reports)
    assert first.value == again.value
    assert np.array_equal(first.probabilities, again.probabilities)
    assert np.array_equal(first.earlier, again.earlier)
    states = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.fixture(scope="module", params=BACKBONES)
def uninterrupted(request: pytest.FixtureRequest, digits: Digits) -> tuple[TrialConfig, TrialData, Outcome]:
    config = digits.config(request.param, **EVERYTHING)
    data = digits.data(config)
    return config, data, fine_tune(config, data)


def test_same_seed_same_bits(uninterrupted: tuple[TrialConfig, TrialData, Outcome]) -> None:
    config, data, outcome = uninterrupted
    torch.rand(7)  # what was drawn before must not matter
    assert_same(outcome, fine_tune(config, data))
    other = fine_tune(config.model_copy(update={"seed": 4}), data)
    assert set(other.reports[0].step_losses).isdisjoint(outcome.reports[0].step_losses)


def test_same_seed_same_bits_in_a_fresh_process(
    uninterrupted: tuple[TrialConfig, TrialData, Outcome], elsewhere: dict[str, Any]
) -> None:
    config, _, outcome = uninterrupted
    found = elsewhere[config.backbone]
    assert found["losses"] == [list(report.step_losses) for report in outcome.reports]
    assert found["values"] == [report.value for report in outcome.reports]
    assert np.array_equal(np.array(found["probabilities"], np.float32), outcome.probabilities)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_interrupted_and_resumed_is_bitwise_the_same(
    uninterrupted: tuple[TrialConfig, TrialData, Outcome], after: int, tmp_path: Path
) -> None:
    config, data, outcome = uninterrupted
    before: list[EpochReport] = []
    seen: list[EpochReport] = []

    def stop(report: EpochReport) -> None:
        if report.epoch == after:  # killed once the checkpoint is there, before anybody was told
            raise Killed
        before.append(report)

    with pytest.raises(Killed):
        fine_tune(config, data, tmp_path, stop)
    torch.rand(3)
    resumed = fine_tune(config, data, tmp_path, seen.append)
    assert [report.epoch for report in before] == list(range(1, after))
    assert [report.epoch for report in seen] == [1, 2, 3], (
        "what was done is told again: the last may not have been heard"
    )
    assert_same(outcome, resumed)
    assert resumed.reports == tuple(seen) and tuple(before) == tuple(seen[: after - 1]), "times stay as they were"


def test_interrupted_after_every_epoch(uninterrupted: tuple[TrialConfig, TrialData, Outcome], tmp_path: Path) -> None:
    config, data, outcome = uninterrupted

    told: set[int] = set()

    def stop(report: EpochReport) -> None:
        if report.epoch not in told:
            told.add(report.epoch)
            raise Killed

    for _ in range(config.epochs):
        with pytest.raises(Killed):
            fine_tune(config, data, tmp_path, stop)
    assert_same(outcome, fine_tune(config, data, tmp_path, stop))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-0003"]


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_value_is_the_mean_over_the_predictions_that_are_kept(
    digits: Digits, tmp_path: Path, stopped_after: int
) -> None:
    config = digits.config(trained_blocks=0, epochs=4)
    data = digits.data(config)

    def stop(report: EpochReport) -> None:
        if report.epoch == stopped_after and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise Killed

    with pytest.raises(Killed):
        fine_tune(config, data, tmp_path, stop)
    outcome = fine_tune(config, data, tmp_path, stop)
    labels = data.validation.units.truth
    counted = [*outcome.earlier, outcome.probabilities]
    assert len(counted) == 3
    assert outcome.value == pytest.approx(np.mean([compute("balanced_accuracy", labels, p, 10) for p in counted]))
    assert len(fine_tune(config.model_copy(update={"ema": 0.1}), data).earlier) == 0, "the last epoch alone counts"


def test_checkpoint_of_other_data_is_left_aside(
    digits: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = digits.config(epochs=1, trained_blocks=0)
    data = digits.data(config)
    fine_tune(config, data, tmp_path)
    smaller = replace(data, train=kept(data.train, np.arange(96)))
    epochs: list[int] = []
    with caplog.at_level(logging.WARNING):
        outcome = fine_tune(config, smaller, tmp_path, lambda report: epochs.append(report.epoch))
    assert epochs == [1]
    assert "epoch-0001 is left aside: it belongs to another configuration, or to other data" in caplog.text
    assert_same(outcome, fine_tune(config, smaller))


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_several_workers_give_the_losses_of_one(
    elsewhere: dict[str, Any], digits: Digits, mixup: float, workers: int
) -> None:
    config = digits.config(batch_size=16, level=2, trained_blocks="all", mixup=mixup)
    outcome = fine_tune(config, digits.data(config))
    found = elsewhere[f"{'mixup' if mixup else 'plain'} {workers}"]
    alone = np.concatenate([report.step_losses for report in outcome.reports])
    together = np.concatenate(found["losses"])
    assert len(alone) == len(together) >= 20
    np.testing.assert_allclose(together[:20], alone[:20], rtol=1e-5)
    np.testing.assert_allclose(found["probabilities"], outcome.probabilities, atol=1e-3)
    np.testing.assert_allclose(found["few"], np.array(found["probabilities"])[:3], rtol=1e-5)


@pytest.mark.parametrize("workers", [2, 4])
def test_no_image_is_computed_by_two_workers(elsewhere: dict[str, Any], digits: Digits, workers: int) -> None:
    """In each epoch every training and every validation image goes through one worker's network, once; of what frozen
    blocks compute and is kept, one worker computes all and the others none."""
    data = digits.data(digits.config())
    for name in ("plain", "mixup"):
        of_workers = elsewhere[f"rows of {name} {workers}"]
        assert len(of_workers) == workers
        for part, rows in (("train", len(data.train)), ("validation", len(data.validation))):
            share = [np.array(of_one[part]).reshape(3, -1) for of_one in of_workers]  # three epochs
            assert all(one.shape == (3, rows // workers) for one in share)
            assert (np.sort(np.concatenate(share, axis=1)) == np.arange(rows)).all()
    counts = elsewhere[f"kept {workers}"]
    assert sum(one["computed"] for one in counts) == 3 * len(data.train)  # three views
    assert sum(one["read"] for one in counts) == 3 * len(data.train)


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_share_out_the_weights_give_the_losses_of_one(
    elsewhere: dict[str, Any], digits: Digits, workers: int
) -> None:
    """FSDP2: each worker holds its part of the blocks' weights alone, and with an average of weights and clipped
    gradients, losses and predictions are those of one worker."""
    config = digits.config(batch_size=16, level=2, trained_blocks="all", ema=0.1, layer_decay=0.75, clip=0.5)
    outcome = fine_tune(config, digits.data(config))
    found = elsewhere[f"shared out {workers}"]
    alone = np.concatenate([report.step_losses for report in outcome.reports])
    together = np.concatenate(found["losses"])
    assert len(alone) == len(together) >= 20
    np.testing.assert_allclose(together[:20], alone[:20], rtol=1e-5)
    np.testing.assert_allclose(found["probabilities"], outcome.probabilities, atol=1e-3)
    for one in elsewhere[f"held {workers}"]:
        assert one["own"] == pytest.approx(one["whole"] / workers, rel=0.02)


@pytest.mark.parametrize("name", ["resumed", "resumed, shared out"])
def test_several_workers_resume_exactly(elsewhere: dict[str, Any], name: str) -> None:
    found = elsewhere[name]
    assert found["told"] == [1, 2]
    assert len(found["whole"]["losses"]) == 2
    assert found["rest"] == found["whole"]
    assert not found["workers draw alike"], "each worker should drop other paths"


def test_fewer_images_than_workers_and_torn_pairs_are_infeasible(digits: Digits) -> None:
    cases = [
        ({"batch_size": 3}, 4, "a batch of 3 images is too small for 4 workers"),
        ({"batch_size": 18, "mixup": 0.2}, 2, "18 isn't a multiple of 4, twice the workers"),
        ({"batch_size": 9, "mixup": 0.2}, 2, "9 isn't a multiple of 4"),
        ({"batch_size": 512, "mixup": 0.2}, 3, "128 isn't a multiple of 6"),  # all images there are
    ]
    for changes, world, sentence in cases:
        config = digits.config(**changes)
        with pytest.raises(Infeasible, match=sentence):
            fine_tune(config, digits.data(config), place=Place(world=world))


def test_it_learns(digits: Digits) -> None:
    config = digits.config("mae_tiny", epochs=12, trained_blocks="all", batch_size=16, head_lr=0.01)
    outcome = fine_tune(config, digits.data(config))
    first, last = outcome.reports[0], outcome.reports[-1]
    assert abs(first.step_losses[0] - np.log(10)) < 0.5, "random weights should know nothing"
    assert last.train_loss < 1.8 < 2.2 < first.train_loss
    assert outcome.value > 0.25, "a tenth would be chance"


def test_reports_are_of_what_was_predicted(digits: Digits) -> None:
    config = digits.config(trained_blocks=1, ema=0.1)
    data = digits.data(config)
    outcome = fine_tune(config, data)
    last, labels = outcome.reports[-1], data.validation.labels.numpy()
    assert outcome.probabilities.shape == (len(labels), 10) and outcome.probabilities.dtype == np.float32
    assert last.value == compute("balanced_accuracy", labels, outcome.probabilities, 10)
    assert last.metrics["accuracy"] == compute("accuracy", labels, outcome.probabilities, 10)
    assert last.train_loss == pytest.approx(np.mean(last.step_losses))
    assert [len(report.step_losses) for report in outcome.reports] == [len(data.train) // 32] * 3
    json.dumps(asdict(last))


def test_the_model_is_the_one_whose_predictions_are_told(digits: Digits) -> None:
    config = digits.config(**EVERYTHING)
    data = digits.data(config)
    outcome = fine_tune(config, data)
    assert np.array_equal(predict(outcome.model, config, data.validation), outcome.probabilities)
    few = kept(data.validation, np.array([5, 2, 9]))
    np.testing.assert_allclose(predict(outcome.model, config, few), outcome.probabilities[[5, 2, 9]], rtol=1e-5)


def test_what_is_frozen_stays(digits: Digits) -> None:
    config = digits.config(epochs=1, trained_blocks=1, weight_decay=0.2)
    data = digits.data(config)
    before = fine_tune(config.model_copy(update={"head_lr": 1e-30}), data).model.state_dict()
    after = fine_tune(config, data).model.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    trained = ("head.", "backbone.trunk.blocks.1.", "backbone.trunk.norm.")
    assert changed == {name for name in after if name.startswith(trained)}


def test_nothing_is_written_without_a_folder(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = digits.config(epochs=1, trained_blocks=0)
    fine_tune(config, digits.data(config))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [(32, "the loss was (nan|inf) at step 2$"), (127, "the predictions weren't finite after step 1$")],
)
def test_divergence_names_the_step_and_gives_no_value(
    digits: Digits, tmp_path: Path, batch: int, sentence: str
) -> None:
    config = digits.config(trained_blocks=0, head_lr=3e37, warmup=0.0, batch_size=batch)
    reports: list[EpochReport] = []
    with pytest.raises(Diverged, match=sentence):
        fine_tune(config, digits.data(config), tmp_path, reports.append)
    assert not reports and not list(tmp_path.rglob("*.safetensors"))


def test_divergence_counts_the_steps_of_all_epochs(digits: Digits, tmp_path: Path) -> None:
    config = digits.config(trained_blocks=0)
    data = digits.data(config)

    def spoil(report: EpochReport) -> None:
        path = next((tmp_path / "checkpoints").iterdir())
        found = checkpoint.load(path)
        found.tensors["model/head.linear.weight"].fill_(torch.inf)
        checkpoint.save(path.parent, found)
        raise Killed

    with pytest.raises(Killed):
        fine_tune(config, data, tmp_path, spoil)
    with pytest.raises(Diverged, match="the loss was nan at step 5$"):
        fine_tune(config, data, tmp_path)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_auroc", "macro_f1"])
def test_a_metric_that_isnt_defined_is_infeasible(digits: Digits, metric: str) -> None:
    config = digits.config(trained_blocks=0, epochs=1, metric=metric)
    data = digits.data(config)
    rows = np.flatnonzero(data.validation.labels.numpy() != 7)
    reports: list[EpochReport] = []
    reason = "1 of 10 classes have no rows"
    with pytest.raises(
        Infeasible, match=f"{metric} isn't defined on the validation set after the last epochs: {reason}"
    ):
        fine_tune(config, replace(data, validation=kept(data.validation, rows)), None, reports.append)
    assert [(report.value, report.standard_error) for report in reports] == [(None, None)], "no number in its place"
    assert reason in reports[0].undefined and metric not in reports[0].metrics
    assert 0 <= reports[0].metrics["accuracy"] <= 1, "what is defined is told"


def test_undefined_in_an_epoch_that_doesnt_count_is_passed_over(digits: Digits) -> None:
    plain, averaged = digits.config(), digits.config(ema=0.1)
    assert trial_value(plain, [None, 0.2, 0.3, 0.4]) == pytest.approx(0.3)
    assert trial_value(averaged, [0.2, None, 0.4]) == 0.4
    for config, values in ((plain, [0.1, 0.2, None, 0.4]), (plain, [None]), (averaged, [0.1, None])):
        with pytest.raises(Infeasible, match="balanced_accuracy isn't defined"):
            trial_value(config, values)


def test_value_is_the_mean_of_the_last_three_epochs_unless_weights_are_averaged(digits: Digits) -> None:
    values = [0.9, 0.1, 0.2, 0.6]
    plain, averaged = digits.config(), digits.config(ema=0.1)
    assert trial_value(plain, values) == pytest.approx(0.3)
    assert trial_value(plain, values[:2]) == pytest.approx(0.5)
    assert trial_value(plain, values[:1]) == pytest.approx(0.9)
    assert trial_value(averaged, values) == 0.6
    for config in (digits.config(epochs=4, level=1), digits.config(epochs=4, level=1, ema=0.2)):
        outcome = fine_tune(config, digits.data(config))
        seen = [report.value for report in outcome.reports]
        assert len(set(seen)) > 1
        assert outcome.value == (seen[-1] if config.ema else np.mean(seen[1:]))


def test_warmup_cosine() -> None:
    assert [warmup_cosine(step, 10, 0.4) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warmup_cosine(4, 10, 0.4) == 1
    assert warmup_cosine(7, 10, 0.4) == pytest.approx(0.5)
    assert warmup_cosine(10, 10, 0.4) == pytest.approx(0)
    without = [warmup_cosine(step, 8, 0) for step in range(9)]
    assert without == pytest.approx([(1 + np.cos(np.pi * step / 8)) / 2 for step in range(9)])
    assert warmup_cosine(0, 1, 0.0) == 1
    for warmup in (0.05, 0.1, 0.33, 0.99):
        rates = [warmup_cosine(step, 50, warmup) for step in range(50)]
        peak = int(np.argmax(rates))
        assert min(rates) > 0 and max(rates) <= 1
        assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()


def test_what_was_learned_from_fits_no_thresholds(digits: Digits) -> None:
    config = digits.config(loss="regression", epochs=1, trained_blocks=0)
    data = replace(digits.data(config), task="ordinal")
    thresholds = [fine_tune(config, data, judged=judged).model.output.thresholds.tolist() for judged in (True, False)]
    assert thresholds[0] != thresholds[1] == [k + 0.5 for k in range(9)]
