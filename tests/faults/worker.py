"""A job of one trial, and a real search of which each kind of fault has struck one trial."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search.folder import SearchFolder
from tests.faults.elsewhere import given
from tests.search.conftest import Killable, write_digits
from tests.trainables.digits import Digits, write_and_prepare
from trainables import trials
from trainables.trial_files import CONFIG, trial_folder

Told = list[dict[str, Any]]
STRIKES = {1: "device memory", 2: "host memory", 4: "hang", 6: "kill"}
SETTINGS = """\
name: struck
dataset: {reader: folder, root: IMAGES, policy: digits}
backbones: [dinov2_tiny]
weights: random
space:
  resolution: {choice: [56, 112]}
  batch_size: {choice: [32, 320]}
  head_lr: {float: [1.0e-4, 1.0e+20], log: true, default: 3.0e-3}
  warmup: {choice: [0.0, 0.1]}
try:
- {trained_blocks: 1, level: 1}
- {trained_blocks: 1, level: 2}
- {trained_blocks: all, resolution: 112, batch_size: 320}
- {trained_blocks: 1, level: 3}
- {trained_blocks: 1, drop_path: 0.2}
- {trained_blocks: 1, head_lr: 1.0e+20, warmup: 0.0}
- {trained_blocks: all, level: 2, drop_path: 0.2, ema: 0.05}
expert_first: false
stopping: {rule: "off"}
budget: {trials: 7, epochs: 12}
resources: {concurrent: 1, hang: 0.3}
mlflow: "off"
storage: STORAGE
"""


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Sums in another order are other sums; and a forked process can't use its parent's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def worker_digits(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return write_and_prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def order(worker_digits: Digits, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes the order (`trainables.trials.JobOrder`) of a job with one trial, in a search's folder of its own."""
    search = tmp_path / "search"
    search.mkdir()
    (search / "data").symlink_to(worker_digits.prepared)

    def make(number: int = 0, *, hang: float = 60, **changes: Any) -> dict[str, Any]:
        config = worker_digits.config(**{"trained_blocks": 1, "epochs": 2, **changes})
        return {
            "job": f"job-{number:05d}",
            "trials": [{"number": number, "config": config.plain()}],
            "search": str(search),
            "dataset": worker_digits.dataset.plain(),
            "cache": str(worker_digits.cache),
            "activations": 0,
            "threads": 1,
            "accelerators": 0,
            "hang": hang,
        }

    return make


@pytest.fixture(scope="session")
def struck(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search of which each kind of fault has struck one trial, by tests/faults/striking.py: an
    accelerator's and the machine's memory, a hang, a learning rate beyond all measure, a kill. Not to be changed."""
    home = tmp_path_factory.mktemp("struck")
    (home / "strikes").mkdir()
    shutil.copy(Path(__file__).with_name("striking.py"), home / "strikes" / "sitecustomize.py")
    (home / "strikes" / "strikes.json").write_text(json.dumps(STRIKES))
    write_digits(home / "images", 500)
    settings = SETTINGS.replace("IMAGES", str(home / "images")).replace("STORAGE", str(home / "runs"))
    (home / "search.yaml").write_text(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(home / "strikes"), prepend=os.pathsep)
        command = Killable("search", home / "search.yaml")
    try:
        assert command.process.wait(timeout=1500) == 0
    finally:
        command.kill()
    return home / "runs" / "struck"


def struck_pids(struck: Path) -> list[tuple[int, str]]:
    """Which process began which trial, in order."""
    lines = (struck.parent.parent / "strikes" / "pids.txt").read_text().splitlines()
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def run(job: dict[str, Any]) -> Told:
    """Runs a job here; what it told."""
    told: Told = []
    trials.run(job, told.extend)
    return told


def without_times(told: Told) -> Told:
    """What isn't told of the clock."""
    return [
        {
            name: {k: v for k, v in value.items() if k not in ("seconds", "time")} if name == "epoch" else value
            for name, value in message.items()
            if name not in ("trial", "setup_seconds", "counts")
        }
        for message in told
    ]


def alone(search: Path, number: int, folder: Path) -> Told:
    """A trial of a search once more, in a fresh process and a search's folder of its own."""
    (folder / "data").symlink_to(search / "data")
    config = json.loads((trial_folder(search, number) / CONFIG).read_text())
    job = {
        "job": f"job-{number:05d}",
        "trials": [{"number": number, "config": config}],
        "search": str(folder),
        "dataset": SearchFolder(search).config().dataset.plain(),
        "cache": str(folder / "cache"),
        "activations": 1 << 30,
        "threads": 1,
        "accelerators": 0,
        "hang": 600.0,
    }
    return given(lambda: run(job), folder / "told")
