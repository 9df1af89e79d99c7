"""The best epoch's value, weights and predictions, kept over interruptions; and the schedule that goes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.digits import Digits
from trainables.best_epoch import BestEpoch
from trainables.causes import Infeasible
from trainables.checkpoint import Checkpoint
from trainables.epoch import EpochReport
from trainables.head_member import can_share
from trainables.inference import predict
from trainables.loop import fine_tune
from trainables.schedule import rate_share
from trainables.value import trial_value

RISKY = {"epochs": 6, "head_lr": 0.1, "trained_blocks": "all", "backbone_lr_ratio": 0.05, "batch_size": 16}
"""A rate so high that the last epoch isn't the best."""


class Killed(Exception):
    """Stands for the end of the process."""


def test_the_first_of_the_best_is_kept_as_a_copy() -> None:
    best, weights = BestEpoch("accuracy"), {"w": torch.zeros(2)}
    best.offer(None, weights, np.zeros((1, 2)))
    assert best.value is None and not best.weights
    for value in (0.5, 0.7, 0.7, 0.6):
        weights["w"] += 1
        best.offer(value, weights, np.full((1, 2), value, np.float32))
    assert best.value == 0.7 and best.weights["w"].tolist() == [2, 2] and best.probabilities[0, 0] == np.float32(0.7)
    checkpoint = Checkpoint(4, "t")
    best.save(checkpoint)
    again = BestEpoch("accuracy")
    again.restore(checkpoint)
    assert again.value == 0.7 and torch.equal(again.weights["w"], best.weights["w"])
    assert np.array_equal(again.probabilities, best.probabilities)


def test_a_trial_is_its_best_epoch_also_after_an_interruption(digits: Digits, tmp_path: Path) -> None:
    config = digits.config(**RISKY, value="best", schedule="constant", warmup=0.1)
    data = digits.data(config)
    whole = fine_tune(config, data)
    values = [r.value for r in whole.reports if r.value is not None]
    assert whole.value == max(values) > values[-1]
    assert np.array_equal(predict(whole.model, config, data.validation), whole.probabilities)
    best = values.index(max(values)) + 1

    def kill(report: EpochReport) -> None:
        if report.epoch == min(best + 1, config.epochs - 1):
            raise Killed

    with pytest.raises(Killed):
        fine_tune(config, data, tmp_path, kill)
    for _ in range(2):  # goes on, and is asked again when everything is done
        resumed = fine_tune(config, data, tmp_path)
        assert resumed.value == whole.value and np.array_equal(resumed.probabilities, whole.probabilities)
        state = whole.model.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.model.state_dict().items())
    last = fine_tune(config.model_copy(update={"value": "last"}), data)
    assert [r.step_losses for r in last.reports] == [r.step_losses for r in whole.reports]
    assert last.value == pytest.approx(np.mean(values[-3:]))


def test_values(digits: Digits) -> None:
    config = digits.config(value="best")
    assert trial_value(config, [0.2, None, 0.6, 0.4]) == 0.6
    with pytest.raises(Infeasible, match="after any epoch"):
        trial_value(config, [None, None])
    assert not can_share(config) and not can_share(digits.config(schedule="constant")) and can_share(digits.config())


def test_a_constant_rate_stays_after_the_warm_up(digits: Digits) -> None:
    constant, cosine = digits.config(schedule="constant", warmup=0.4), digits.config(warmup=0.4)
    assert [rate_share(constant, step, 10) for step in range(4)] == [rate_share(cosine, s, 10) for s in range(4)]
    assert [rate_share(constant, step, 10) for step in range(4, 11)] == [1.0] * 7
    assert rate_share(cosine, 10, 10) == pytest.approx(0)
