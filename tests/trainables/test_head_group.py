"""Heads in one pass: each trial is what it would be by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spaces.config import TrialConfig
from tests.trainables.digits import Digits
from trainables.causes import Diverged
from trainables.epoch import EpochReport
from trainables.head_group import can_share, fine_tune_heads, shared
from trainables.loop import fine_tune
from trainables.prefix import ActivationStore

VARIED: list[dict[str, Any]] = [
    {"head_lr": 3e-3, "seed": 1},
    {"head_lr": 3e-2, "seed": 2, "head_weight_decay": 0.05, "label_smoothing": 0.1},
    {"head_lr": 1e-3, "seed": 3, "ema": 0.1, "warmup": 0.3},
    {"head_lr": 1e-2, "seed": 4, "mixup": 0.4, "clip": 0.5},
    {"head_lr": 1e-2, "seed": 5, "sampling": "balanced", "class_weights": "inverse"},
]


def configs(digits: Digits, varied: list[dict[str, Any]] = VARIED, **same: Any) -> list[TrialConfig]:
    settings = {"trained_blocks": 0, "level": 2, "epochs": 3, "view_seed": 11, **same}
    return [digits.config(**settings, **own) for own in varied]


@pytest.mark.parametrize("same", [{}, {"focal": 2.0, "logit_adjustment": 1.0}])
def test_each_is_what_it_would_be_by_itself(digits: Digits, tmp_path: Path, same: dict[str, Any]) -> None:
    several = configs(digits, **same)
    assert len({shared(config) for config in several}) == 1 and all(can_share(config) for config in several)
    data = digits.data(several[0])
    told: list[tuple[int, EpochReport]] = []
    store = ActivationStore(tmp_path / "activations", 1 << 30)
    members, counts = fine_tune_heads(several, data, report=lambda k, r: told.append((k, r)) or True, store=store)
    assert [(r.epoch, k) for k, r in told] == [(epoch, k) for epoch in (1, 2, 3) for k in range(5)]
    assert counts.computed == 3 * len(data.train)
    for config, member in zip(several, members, strict=True):
        alone = fine_tune(config, data)
        assert member.value is not None
        np.testing.assert_allclose(member.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(member.earlier, alone.earlier, atol=1e-5)
        assert member.value == pytest.approx(alone.value, abs=1e-9)
        for mine, its in zip(member.reports, alone.reports, strict=True):
            np.testing.assert_allclose(mine.step_losses, its.step_losses, rtol=1e-5)
            assert mine.value == pytest.approx(its.value, abs=1e-9)
        np.testing.assert_allclose(
            member.model.head.linear.weight.detach(), alone.model.head.linear.weight.detach(), atol=1e-5
        )


@pytest.mark.parametrize("same", [{}, {"level": 0, "feature": "cls2_mean"}])
def test_each_is_what_it_would_be_by_itself_in_bf16(
    digits: Digits, tmp_path: Path, same: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, where backbones compute in bf16 and what they gave is kept so; heads are in fp32."""
    monkeypatch.setattr("trainables.place.REDUCED", {"cpu"})
    several = configs(digits, **same)
    data = digits.data(several[0])
    store = ActivationStore(tmp_path / "activations", 1 << 30)
    members, _ = fine_tune_heads(several, data, store=store)
    for config, member in zip(several, members, strict=True):
        alone = fine_tune(config, data, store=store)
        assert alone.counts.computed == 0, "both read the same features"
        np.testing.assert_allclose(member.probabilities, alone.probabilities, atol=1e-5)
        for mine, its in zip(member.reports, alone.reports, strict=True):
            np.testing.assert_allclose(mine.step_losses, its.step_losses, rtol=1e-5)


def test_one_that_is_stopped_leaves_the_others_alone(digits: Digits) -> None:
    several = configs(digits)
    data = digits.data(several[0])
    whole, _ = fine_tune_heads(several, data)
    members, _ = fine_tune_heads(several, data, report=lambda k, r: not (k == 1 and r.epoch == 2))
    assert [len(m.reports) for m in members] == [3, 2, 3, 3, 3]
    assert members[1].value is None and members[1].stopped
    assert [m.value for k, m in enumerate(members) if k != 1] == [m.value for k, m in enumerate(whole) if k != 1]


def test_one_that_diverges_leaves_the_others_alone(digits: Digits) -> None:
    several = configs(digits, [{"seed": 1}, {"seed": 2, "head_lr": 3e37, "warmup": 0.0}, {"seed": 3}])
    data = digits.data(several[0])
    members, _ = fine_tune_heads(several, data)
    with pytest.raises(Diverged) as alone:
        fine_tune(several[1], data)
    assert isinstance(members[1].ended, Diverged) and str(members[1].ended) == str(alone.value)
    for k in (0, 2):
        assert members[k].value == pytest.approx(fine_tune(several[k], data).value, abs=1e-9)


def test_a_group_goes_on_from_its_checkpoint(digits: Digits, tmp_path: Path) -> None:
    several = configs(digits)
    data = digits.data(several[0])
    whole, _ = fine_tune_heads(several, data)

    class Killed(Exception):
        pass

    def until(k: int, report: EpochReport) -> bool:
        if report.epoch == 2 and k == 3:
            raise Killed
        return True

    with pytest.raises(Killed):
        fine_tune_heads(several, data, tmp_path, until)
    told: list[tuple[int, int]] = []
    left = [0, 2, 3, 4]  # one has ended meanwhile
    again, _ = fine_tune_heads(
        [several[k] for k in left], data, tmp_path, lambda k, r: told.append((r.epoch, k)) or True
    )
    assert told == [(epoch, k) for epoch in (1, 2, 3) for k in range(4)]
    for k, member in zip(left, again, strict=True):
        assert member.value == whole[k].value
        np.testing.assert_array_equal(member.probabilities, whole[k].probabilities)
        np.testing.assert_array_equal(member.earlier, whole[k].earlier)


def test_who_can_share(digits: Digits) -> None:
    assert not can_share(digits.config(trained_blocks=1)) and not can_share(digits.config(head="attentive"))
    one = digits.config(trained_blocks=0, level=1)
    for changes in ({"level": 2}, {"batch_size": 8}, {"epochs": 9}, {"focal": 1.0}, {"view_seed": 3}, {"views": 2}):
        assert shared(one.model_copy(update=changes)) != shared(one)
    assert shared(one.model_copy(update={"head_lr": 0.1, "mixup": 0.2, "ema": 0.05, "seed": 8})) == shared(one)
