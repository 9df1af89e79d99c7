"""A real dataset, small; and what other processes make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.digits import EVERYTHING, Digits, write_and_prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return write_and_prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def elsewhere(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/trainables/elsewhere.py found in a fresh process and in groups of two and four, by what it did."""
    folder = tmp_path_factory.mktemp("elsewhere")
    several = {"batch_size": 16, "level": 2, "trained_blocks": "all"}
    configs = {
        "plain": digits.config(**several),
        "mixup": digits.config(**several, mixup=0.4),
        "resumed": digits.config(**EVERYTHING, epochs=2),
        "head": digits.config(batch_size=16, level=2, trained_blocks=0),
        "shared out": digits.config(**several, ema=0.1, layer_decay=0.75, clip=0.5),
        "dinov2_tiny": digits.config("dinov2_tiny", **EVERYTHING),
        "mae_tiny": digits.config("mae_tiny", **EVERYTHING),
    }
    order = {
        "folder": str(digits.folder),
        "dataset": digits.dataset.plain(),
        "configs": {name: config.plain() for name, config in configs.items()},
    }
    (folder / "order.json").write_text(json.dumps(order))
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainables.elsewhere", str(folder)],
        env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=ROOT, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "found.json").read_text())
