"""A crash at every point where a worker commits something: before each change of the disk, one after the other."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults.elsewhere import given, killed_before
from tests.faults.worker import run, without_times
from tests.trainables.digits import Digits
from trainables import checkpoint, trials
from trainables.checkpoint import Checkpoint
from trainables.data import stored
from trainables.data.manifest import Manifest
from trainables.data.pixels import PixelSpec, open_many
from trainables.data.prepared import Prepared
from trainables.trial_files import END, trial_folder

SPECS = [PixelSpec(height=n, width=n) for n in (6, 8)]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are checked as in a process that has just begun."""
    monkeypatch.setattr(stored, "_verified", set())


def made(epoch: int) -> Checkpoint:
    new = Checkpoint(epoch, "own", state={"reports": [0.1] * epoch})
    new.add("model", {"head": torch.full((50,), float(epoch))})
    return new


def test_a_checkpoint(tmp_path: Path) -> None:
    """Passes if, killed before any change of the disk, the newest readable checkpoint is the one before or the new one,
    and saving again gives what an undisturbed process has."""

    def save_third() -> None:
        checkpoint.save(tmp_path / "run", made(3))

    commits = 0
    while True:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        checkpoint.save(tmp_path / "run", made(1))
        checkpoint.save(tmp_path / "run", made(2))
        there = killed_before(commits, save_third)
        found = checkpoint.load_newest(tmp_path / "run", "own")
        assert found is not None and found.epoch in (2, 3) and len(found.state["reports"]) == found.epoch
        save_third()
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["epoch-0002", "epoch-0003"]
        again = checkpoint.load_newest(tmp_path / "run", "own")
        assert again is not None and torch.equal(again.kind("model")["head"], torch.full((50,), 3.0))
        if not there:
            break
        commits += 1
    print(f"checkpoint: killed before each of {commits} changes of the disk")
    assert commits >= 8


def test_pixel_files(worker_digits: Digits, tmp_path: Path, fresh: None, caplog: pytest.LogCaptureFixture) -> None:
    """Passes if, killed before any change of the disk while two pixel files are built together, the next process maps
    or builds both with every pixel right, and nothing half-built stays."""
    manifest: Manifest = Prepared.load(worker_digits.prepared).manifest.take(np.arange(6))
    cache = tmp_path / "cache"
    right = [np.array(p.array) for p in open_many(manifest, SPECS, tmp_path / "right", workers=1)]
    commits = 0
    while True:
        shutil.rmtree(cache, ignore_errors=True)
        there = killed_before(commits, lambda: open_many(manifest, SPECS, cache, workers=1))
        with caplog.at_level(logging.WARNING):
            pixels = open_many(manifest, SPECS, cache, workers=1)
        assert all(np.array_equal(p.array, r) for p, r in zip(pixels, right, strict=True))
        names = {p.name for p in (cache / "pixels").iterdir()}
        assert names == {p.key for p in pixels} | {f"{p.key}.lock" for p in pixels}
        if not there:
            break
        commits += 1
    print(f"pixel files: killed before each of {commits} changes of the disk")
    assert commits >= 12 and not caplog.text, "what is half-built is never taken for one that is damaged"


def test_kept_activations(tmp_path: Path, fresh: None, caplog: pytest.LogCaptureFixture) -> None:
    """Passes if, killed before any change of the disk while an array of activations is built and an older one makes
    room for it, the next process maps or builds it with every number right, within the budget."""
    home, numbers = tmp_path / "activations", np.arange(300, dtype=np.float32)

    def fill(array: np.memmap) -> None:
        array[:] = numbers

    def build() -> np.memmap | None:
        return stored.built(home, "new", (300,), numbers.dtype, fill, budget=2000)

    commits = 0
    while True:
        shutil.rmtree(home, ignore_errors=True)
        stored.built(home, "old", (300,), numbers.dtype, fill, budget=2000)
        (home / f"other{stored.PARTIAL}").mkdir()  # what a process left that was killed long ago
        (home / f"other{stored.PARTIAL}" / "array").write_bytes(bytes(1900))
        there = killed_before(commits, build)
        with caplog.at_level(logging.WARNING):
            array = build()
        assert array is not None and np.array_equal(array, numbers)
        taken = sum(p.stat().st_size for p in home.rglob("*") if p.is_file())
        assert taken <= 2000 and not list(home.glob("*.partial"))
        if not there:
            break
        commits += 1
    print(f"activations: killed before each of {commits} changes of the disk")
    assert commits >= 10 and not caplog.text


def test_what_was_told_to_a_driver_that_died_is_told_again(
    order: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes if a trial that came to its end while nobody wrote down what it told tells every epoch and its end again
    when its job is ordered again, without training."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)
    told = given(lambda: run(order()), tmp_path / "told")
    assert [m["epoch"]["epoch"] for m in told] == [1, 2] and told[-1]["end"]["state"] == "complete"
    shutil.rmtree(trial_folder(tmp_path / "search", 0) / "checkpoints")
    assert given(lambda: run(order()), tmp_path / "told") == told
    assert not (trial_folder(tmp_path / "search", 0) / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_whole_trial(order: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes if, killed before any change of the disk from its order to its end, a trial tried again tells every epoch
    and its end exactly as an undisturbed one: losses and value to the last bit."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)  # a checkpoint after every epoch
    job = {**order(level=2, drop_path=0.3, ema=0.1), "activations": 1 << 30, "cache": str(tmp_path / "cache")}
    folder = trial_folder(Path(job["search"]), 0)

    right = without_times(given(lambda: run(job), tmp_path / "told"))
    assert [m["epoch"]["epoch"] for m in right] == [1, 2] and right[-1]["end"]["state"] == "complete"
    commits = 0
    while True:
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "cache")
        there = killed_before(commits, lambda: run(job))
        assert without_times(given(lambda: run(job), tmp_path / "told")) == right
        assert json.loads((folder / END).read_text())[-1]["end"] == right[-1]["end"]
        if not there:
            break
        commits += 1
    print(f"a trial: killed before each of {commits} changes of the disk")
    assert commits >= 40
