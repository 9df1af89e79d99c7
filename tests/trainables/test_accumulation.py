"""Batches cut into parts when a device's memory runs out. That it does is forced: a pass of too many images raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.digits import Digits
from trainables import accumulation
from trainables.accumulation import Pieces
from trainables.causes import end_of
from trainables.loop import Outcome, fine_tune
from trainables.mixup import MixedForward
from trainables.resident import RESIDENT


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accumulation, "_known", {})


@contextmanager
def room_for(images: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A device on which a training pass of more images doesn't fit; gives the sizes that were tried."""
    forward, tried = MixedForward.forward, list[int]()

    def limited(self: MixedForward, given: torch.Tensor, share: torch.Tensor | None = None) -> torch.Tensor:
        tried.append(len(given))
        outputs = forward(self, given, share)  # what it draws and computes before is lost
        if len(given) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return outputs

    with monkeypatch.context() as patched:
        patched.setattr(MixedForward, "forward", limited)
        yield tried


def losses(outcome: Outcome) -> np.ndarray:
    return np.array([loss for report in outcome.reports for loss in report.step_losses])


@pytest.mark.parametrize(
    "settings",
    [
        {"trained_blocks": "all", "level": 2, "label_smoothing": 0.1, "mixup": 0.4, "ema": 0.1},
        {"trained_blocks": 1, "level": 1, "batch_size": 24},
        {"trained_blocks": 0, "head": "attentive"},
    ],
)
def test_a_batch_in_parts_is_the_same_batch(
    digits: Digits, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = digits.config(**settings)
    data = digits.data(config)
    whole = fine_tune(config, data)
    with room_for(9, monkeypatch) as tried:
        cut = fine_tune(config, data)
    size = config.batch_size
    assert tried[:3] == [size, size // 2, size // 4] and set(tried[2:]) == {size // 4}, "it is found out once"
    np.testing.assert_allclose(losses(cut), losses(whole), rtol=1e-5)
    np.testing.assert_allclose(cut.probabilities, whole.probabilities, atol=2e-4)
    with room_for(9, monkeypatch) as tried:
        fine_tune(config.model_copy(update={"seed": 9, "epochs": 1}), data)
    assert set(tried) == {size // 4}, "the next trial of the kind begins with that"


def test_what_was_drawn_in_vain_changes_nothing(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    config = digits.config(trained_blocks="all", drop_path=0.3, epochs=1)
    data = digits.data(config)
    with room_for(16, monkeypatch):
        found_out = fine_tune(config, data)
        known = fine_tune(config, data)
    assert losses(found_out).tolist() == losses(known).tolist()


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({"trained_blocks": "all"}, 0),  # not a single image
        ({"trained_blocks": 1, "head": "bn_linear"}, 16),  # its statistics are the batch's
        ({"trained_blocks": "all", "mixup": 0.4, "batch_size": 18}, 9),  # nine images are no pairs
    ],
)
def test_what_cannot_be_cut_is_infeasible(
    digits: Digits, settings: dict[str, Any], images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = digits.config(**settings)
    data = digits.data(config)
    with room_for(images, monkeypatch), pytest.raises(torch.OutOfMemoryError) as raised:
        fine_tune(config, data)
    end = end_of(raised.value)
    assert end is not None and end.state == "infeasible" and end.memory
    assert end.cause.startswith("out of the accelerator's memory: CUDA out of memory")


def test_copies_make_way_before_a_batch_is_cut(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    config = digits.config(trained_blocks="all", epochs=1)
    data = digits.data(config)
    monkeypatch.setattr(RESIDENT, "unused", lambda _: 1 << 30)
    monkeypatch.setattr(RESIDENT, "share", 0.5)
    assert RESIDENT.copy_of("pixels", torch.zeros(100), torch.device("cpu")) is not None
    forward = MixedForward.forward

    def full(self: MixedForward, given: torch.Tensor, share: torch.Tensor | None = None) -> torch.Tensor:
        if RESIDENT.held:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert len(given) == config.batch_size
        return forward(self, given, share)

    monkeypatch.setattr(MixedForward, "forward", full)
    fine_tune(config, data)
    assert not RESIDENT.held


def test_evaluation_takes_what_fits() -> None:
    tried: list[int] = []

    def doubled(rows: torch.Tensor) -> torch.Tensor:
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * rows

    pieces = Pieces(8, torch.device("cpu"))
    assert pieces.of(torch.arange(7), doubled).tolist() == list(range(0, 14, 2))
    assert tried == [7, 3, 3, 1]
    assert pieces.of(torch.arange(4), doubled).tolist() == [0, 2, 4, 6] and tried[4:] == [3, 1]

    def never(rows: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        pieces.of(torch.arange(3), never)
