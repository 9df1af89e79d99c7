"""Nothing that a worker reads can run code: weights, checkpoints, predictions and prepared data."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spaces.mistakes import Mistake
from tests.trainables.digits import Digits
from trainables.checkpoint import STATE, TENSORS, Checkpoint, _digest, _self_digest, load_newest, save
from trainables.data.manifest import Manifest
from trainables.loop import fine_tune
from trainables.predictions import Predictions


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that nobody makes; it is seen here that the pickle would."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Evil(path)))
    assert path.exists()
    path.unlink()
    return path


def zipped(content: Any, file: Path) -> None:
    torch.save(content, file)


def legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def bare(content: Any, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [zipped, legacy, bare])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights(
    write: Callable[[Any, Path], None], name: str, worker_digits: Digits, tmp_path: Path, canary: Path
) -> None:
    """Passes if a trial whose weights file is a pickle that runs code is refused with a sentence, and the code isn't
    run."""
    write({"model": {"a": torch.zeros(1)}, "evil": Evil(canary)}, tmp_path / name)
    config = worker_digits.config(weights=str(tmp_path / name), trained_blocks=0, epochs=1)
    with pytest.raises(Mistake):
        fine_tune(config, worker_digits.data(config))
    assert not canary.exists()


@pytest.mark.parametrize("write", [zipped, legacy, bare])
def test_a_checkpoint(
    write: Callable[[Any, Path], None], tmp_path: Path, canary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Passes if a checkpoint whose tensors are a pickle that runs code, with digests to match, is left aside for the
    one before, and the code isn't run."""
    for epoch in (1, 2):
        new = Checkpoint(epoch, "own")
        new.add("model", {"head": torch.ones(3)})
        path = save(tmp_path / "run", new)
    write({"model/head": torch.ones(3), "evil": Evil(canary)}, path / TENSORS)
    state = json.loads((path / STATE).read_text())
    del state["self"]
    state["tensors"] = _digest(path / TENSORS)
    (path / STATE).write_text(json.dumps({**state, "self": _self_digest(state)}))
    with caplog.at_level(logging.WARNING):
        found = load_newest(tmp_path / "run", "own")
    assert found is not None and found.epoch == 1
    assert "checkpoint epoch-0002 is left aside: can't be read (SafetensorError)" in caplog.text
    assert not canary.exists()


@pytest.mark.parametrize("load", [Predictions.load, Manifest.load])
def test_arrays_of_objects(load: Callable[[Path], Any], tmp_path: Path, canary: Path) -> None:
    """Passes if predictions and manifests that hold a pickled object that runs code can't be read, and the code isn't
    run."""
    evil = np.array([Evil(canary)], dtype=object)
    names = ("probabilities", "truth", "groups", "fold", "paths", "labels", "contents", "header")
    np.savez(tmp_path / "file.npz", **dict.fromkeys(names, evil))  # type: ignore[arg-type]
    with pytest.raises((Mistake, ValueError)):
        load(tmp_path / "file.npz")
    assert not canary.exists()
