"""Nothing within a step waits for the device. On the CPU nothing would; the operators show what would on a device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainables.digits import EVERYTHING, Digits
from trainables import prefix
from trainables.head_group import fine_tune_heads
from trainables.loop import fine_tune
from trainables.resident import Resident

WAITING = ("local_scalar_dense", "nonzero", "linalg_inv", "linalg_solve", "linalg_check", "masked_select", "unique")
"""In the names of operators whose result the host needs before it can go on; linear algebra checks for errors."""


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waiting(self) -> Counter[str]:
        return Counter({name: n for name, n in self.calls.items() if any(part in name for part in WAITING)})


@pytest.mark.parametrize("settings", [EVERYTHING, {"trained_blocks": 1, "level": 3, "class_weights": "inverse"}])
def test_more_steps_wait_no_more_often(
    digits: Digits, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "resident_of", lambda _: Resident(lambda _: 1 << 30))
    found = []
    for batch in (32, 16):  # four steps an epoch, and eight
        config = digits.config(**settings, batch_size=batch, epochs=1, policy="natural")
        data = digits.data(config)
        with Operators() as operators:
            fine_tune(config, data)
        found.append(operators)
    few, many = found
    assert many.calls["aten._fused_adamw_.default"] > few.calls["aten._fused_adamw_.default"] > 0
    assert many.waiting == few.waiting


def test_a_pass_of_heads_neither(digits: Digits) -> None:
    found = []
    for batch in (32, 16):
        configs = [
            digits.config(trained_blocks=0, batch_size=batch, epochs=1, head_lr=rate, level=2, policy="natural")
            for rate in (1e-3, 1e-2)
        ]
        with Operators() as operators:
            fine_tune_heads(configs, digits.data(configs[0]))
        found.append(operators)
    few, many = found
    assert many.calls["aten.baddbmm.default"] == 2 * few.calls["aten.baddbmm.default"] > 0
    assert many.waiting == few.waiting


def test_it_would_be_seen() -> None:
    with Operators() as operators:
        torch.ones(1).item()
        torch.linalg.inv(torch.eye(2))
    assert len(operators.waiting) >= 2
