"""Checkpoints beside the training, and reports once they are on disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.trainables.digits import Digits
from trainables import checkpoint, saver, watchdog
from trainables.checkpoint import Checkpoint
from trainables.epoch import EpochReport
from trainables.loop import fine_tune
from trainables.place import Place
from trainables.saver import Saver
from trainables.telling import Stopped, Telling


def epochs_on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("epoch-*"))


def test_training_goes_on_while_a_checkpoint_is_written(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = digits.config(trained_blocks=0)
    data = digits.data(config)
    steps, told, training = [0], list[int](), threading.Event()

    def slow(folder: Path, new: Checkpoint, keep: int) -> None:
        assert training.wait(30), "the training waits for the disk"
        checkpoint.save(folder, new, keep)

    def beat() -> None:
        steps[0] += 1
        if steps[0] == len(data.train) // config.batch_size + 3:  # in the second epoch
            assert not told
            training.set()

    def report(new: EpochReport) -> None:
        told.append(new.epoch)
        assert f"epoch-{new.epoch:04d}" in epochs_on_disk(tmp_path)

    monkeypatch.setattr(saver, "save", slow)
    monkeypatch.setattr(watchdog, "beat", beat)
    fine_tune(config, data, tmp_path, report)
    assert told == [1, 2, 3] and epochs_on_disk(tmp_path) == ["epoch-0003"]


def test_the_last_checkpoint_leaves_the_optimizer_out(digits: Digits, tmp_path: Path) -> None:
    config = digits.config(trained_blocks=1, epochs=2)
    kinds: dict[int, set[str]] = {}

    def look(report: EpochReport) -> None:
        [folder] = (tmp_path / "checkpoints").glob(f"epoch-{report.epoch:04d}")
        kinds[report.epoch] = {name.partition("/")[0] for name in checkpoint.load(folder).tensors}

    fine_tune(config, digits.data(config), tmp_path, look)
    assert kinds[1] - kinds[2] == {"optimizer"} and "model" in kinds[2]


def test_a_full_disk_ends_the_trial_as_it_did(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = digits.config(trained_blocks=0)
    told: list[EpochReport] = []

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saver, "save", full)
    with pytest.raises(OSError, match="No space left"):
        fine_tune(config, digits.data(config), tmp_path, told.append)
    assert not told


def test_nothing_is_written_once_a_trial_is_over(digits: Digits, tmp_path: Path) -> None:
    config = digits.config(trained_blocks=0, epochs=9)
    with pytest.raises(Stopped):
        fine_tune(config, digits.data(config), tmp_path, lambda report: report.epoch < 2)
    assert epochs_on_disk(tmp_path)[-1] in ("epoch-0002", "epoch-0003")
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint")]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_pause_is_kept_between_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint a second, or less often where writing takes more than a twentieth of that; the last one always."""
    clock, saved = [0.0], list[float]()
    monkeypatch.setattr("trainables.telling.time.monotonic", lambda: clock[0])
    reports: list[int] = []
    told: list[int] = []

    def save(to: Saver) -> None:
        saved.append(clock[0])
        to.seconds = 0.2
        clock[0] += 0.05

    with Telling(reports, save, lambda r: bool(told.append(r)) or True, Place(), pause=1.0) as telling:
        for epoch in range(1, 41):
            clock[0] += 0.4
            reports.append(epoch)
            telling.close_epoch(last=epoch == 40)
    assert saved == pytest.approx([1.2, 6.45, 11.7, 16.15], abs=0.3)
    assert told == list(range(1, 41))
