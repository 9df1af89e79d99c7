"""Heads in one pass: each trial is what it would be by itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaces.config import TrialConfig
from tests.trainables.digits import Digits
from trainables import prefix, resident
from trainables.causes import Diverged, End
from trainables.epoch import EpochReport
from trainables.head_group import fine_tune_heads
from trainables.head_member import Member, can_share, shared
from trainables.head_stack import HeadStack
from trainables.loop import fine_tune
from trainables.model import build_model
from trainables.prefix import ActivationStore
from trainables.resident import RESIDENT, Resident

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
    assert members[1].ended == End("failed", str(alone.value))
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


SHORT = "CUDA out of memory. Tried to allocate 2.00 GiB."


def lacking(monkeypatch: pytest.MonkeyPatch, lacks: Callable[[Sequence[Member], int], bool]) -> list[int]:
    """A device whose memory runs out in a step of some heads; gives how many were tried, step by step.

    Args:
        lacks: of the trials and the number of steps before, whether it runs out.
    """
    step, tried = HeadStack.step, list[int]()

    def limited(self: Any, x_KBD: torch.Tensor, masses: torch.Tensor) -> torch.Tensor:
        tried.append(len(x_KBD))
        losses = step(self, x_KBD, masses)  # what it changed is lost
        if lacks(self.members, len(tried) - 1):
            raise torch.OutOfMemoryError(f"{SHORT}\nGPU 0 has ...")
        return losses

    monkeypatch.setattr(HeadStack, "step", limited)
    return tried


def assert_same(found: Member, wanted: Member) -> None:
    """But for the order of summation."""
    assert found.value == pytest.approx(wanted.value, abs=1e-9) and found.ended is None
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.earlier, wanted.earlier, atol=1e-6)
    for mine, its in zip(found.reports, wanted.reports, strict=True):
        np.testing.assert_allclose(mine.step_losses, its.step_losses, rtol=1e-5)
    np.testing.assert_allclose(found.linear.weight.detach(), wanted.linear.weight.detach(), atol=1e-6)


@pytest.mark.parametrize("before", [0, 6])
def test_heads_that_do_not_fit_at_once_train_in_several_passes(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Each is what it is in the whole group, and is told each epoch once; what was computed is computed once."""
    several = configs(digits)
    data = digits.data(several[0])
    whole, counts = fine_tune_heads(several, data, store=ActivationStore(tmp_path / "whole", 1 << 30))
    tried = lacking(monkeypatch, lambda members, steps: steps >= before and len(members) > 2)
    told: list[tuple[int, int]] = []
    members, again = fine_tune_heads(
        several,
        data,
        tmp_path,
        lambda k, report: told.append((report.epoch, k)) or True,
        store=ActivationStore(tmp_path / "parts", 1 << 30),
    )
    assert told == [(epoch, k) for epoch in (1, 2, 3) for k in range(5)] and again == counts
    steps = len(whole[0].reports[0].step_losses)
    passes = [2] * steps + [3] + [1] * steps + [2] * steps  # of five: of two, and of three, which are too many
    assert tried[: before + 1 + len(passes)] == [5] * (before + 1) + passes
    assert len(tried) == before + 2 + 3 * steps * (3 - before // steps), "found out once"
    for found, wanted in zip(members, whole, strict=True):
        assert_same(found, wanted)


def test_one_that_does_not_fit_by_itself_leaves_the_others_alone(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = configs(digits)
    data = digits.data(several[0])
    whole, _ = fine_tune_heads(several, data)
    with monkeypatch.context() as patched:
        lacking(patched, lambda members, _: any(m.config.seed == 2 for m in members))
        for _ in range(2):  # the second time from the checkpoint
            members, _ = fine_tune_heads(several, data, tmp_path)
            assert members[1].ended == End("infeasible", f"out of the accelerator's memory: {SHORT}", memory=True)
            assert members[1].value is None and not members[1].reports
    lacking(monkeypatch, lambda members, steps: steps >= 6 and any(m.config.seed == 2 for m in members))
    members, _ = fine_tune_heads(several, data)
    assert members[1].ended is not None and len(members[1].reports) == 1
    for k in (0, 2, 3, 4):
        assert_same(members[k], whole[k])


def any_copy(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A device, for which the CPU stands, that holds copies of pixels and of the group's own features, of training and
    of validation. Gives whether any is there."""
    copies: list[weakref.ref[torch.Tensor]] = []
    sent = resident._sent

    def noted(host: torch.Tensor, device: torch.device) -> torch.Tensor:
        copy = sent(host, device)
        copies.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(resident, "_sent", noted)
    monkeypatch.setattr(RESIDENT, "unused", lambda _: 1 << 30)
    monkeypatch.setattr(RESIDENT, "share", 0.5)
    monkeypatch.setattr(prefix, "resident_of", lambda _: RESIDENT)
    return lambda: any(copy() is not None for copy in copies)


@pytest.fixture(params=[True, False], ids=["kept", "live"])
def group(request: pytest.FixtureRequest, digits: Digits, tmp_path: Path) -> Callable[[], list[Member]]:
    """Trains a group of heads whose features are kept, or computed live."""
    several = configs(digits)
    store = ActivationStore(tmp_path / "activations", 1 << 30) if request.param else None
    return lambda: fine_tune_heads(several, digits.data(several[0]), store=store)[0]


def test_copies_make_way_before_a_group_is_cut(
    group: Callable[[], list[Member]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While any copy is there, no step fits."""
    whole, there = group(), any_copy(monkeypatch)
    tried = lacking(monkeypatch, lambda *_: there())
    members = group()
    RESIDENT.make_way()
    steps = len(whole[0].reports[0].step_losses)
    assert set(tried) == {5} and 3 * steps < len(tried) <= 3 * (steps + 1), "at most once an epoch it fell short"
    for found, wanted in zip(members, whole, strict=True):
        assert_same(found, wanted)


def test_copies_make_way_for_evaluation(
    digits: Digits, group: Callable[[], list[Member]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While any copy is there, not one image can be evaluated."""
    whole, there, outputs, short = group(), any_copy(monkeypatch), HeadStack.outputs, list[int]()

    def limited(self: HeadStack, k: int, features: torch.Tensor) -> torch.Tensor:
        if there():
            short.append(len(features))
            raise torch.OutOfMemoryError(SHORT)
        return outputs(self, k, features)

    monkeypatch.setattr(HeadStack, "outputs", limited)
    members = group()
    RESIDENT.make_way()
    assert short[0] == len(digits.data(configs(digits)[0]).validation) and len(short) <= 3, (
        "at most once an epoch it fell short"
    )
    for found, wanted in zip(members, whole, strict=True):
        assert_same(found, wanted)


def test_features_that_do_not_fit_the_device_stay_on_the_host(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed live, a view for each epoch: each step's are sent by themselves, and all is the same to the last bit."""
    several = configs(digits)
    data = digits.data(several[0])
    needed = len(data.train) * build_model(several[0], 10).backbone.spec.width * 4
    without_a_device, _ = fine_tune_heads(several, data)

    def run(unused: int) -> tuple[list[Member], list[bool]]:
        """On a device with so many bytes; which features, first those of validation, were copied to it."""
        sent: list[bool] = []

        class Noting(Resident):
            def copy_of(self, key: str | None, host: torch.Tensor, device: torch.device) -> torch.Tensor | None:
                copy = super().copy_of(key, host, device)
                sent.extend([copy is not None] if key is None else [])
                return copy

        resident = Noting(lambda _: unused, share=0.5)
        monkeypatch.setattr(prefix, "resident_of", lambda _: resident)
        return fine_tune_heads(several, data)[0], sent

    runs = [run(2 * needed), run(2 * needed - 1), run(0)]
    assert [sent for _, sent in runs] == [[True] * 4, [True] + [False] * 3, [False] * 4]
    for members, _ in runs:
        for mine, its in zip(members, without_a_device, strict=True):
            assert [r.step_losses for r in mine.reports] == [r.step_losses for r in its.reports]
            assert mine.value is not None and mine.value == its.value
            np.testing.assert_array_equal(mine.probabilities, its.probabilities)
            assert torch.equal(mine.linear.weight, its.linear.weight)


def test_who_can_share(digits: Digits) -> None:
    assert not can_share(digits.config(trained_blocks=1)) and not can_share(digits.config(head="attentive"))
    one = digits.config(trained_blocks=0, level=1)
    for changes in ({"level": 2}, {"batch_size": 8}, {"epochs": 9}, {"focal": 1.0}, {"view_seed": 3}, {"views": 2}):
        assert shared(one.model_copy(update=changes)) != shared(one)
    assert shared(one.model_copy(update={"head_lr": 0.1, "mixup": 0.2, "ema": 0.05, "seed": 8})) == shared(one)
