"""A dataset ten times larger than what memory and disk may take for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.digits import Digits
from trainables.data.parts import Part, TrialData
from trainables.data.units import Units
from trainables.head_group import fine_tune_heads
from trainables.loop import fine_tune
from trainables.model import build_model
from trainables.place import Place
from trainables.prefix import ActivationStore, Prefix

IMAGES = 12_000


def own_memory() -> int:
    """Bytes of this process that no file stands behind: mapped files are the system's to drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Peak:
    memory = 0
    disk = 0


@contextmanager
def watched(store: Path) -> Iterator[Peak]:
    found, ended, before = Peak(), threading.Event(), own_memory()

    def watch() -> None:
        while not ended.wait(0.005):
            found.memory = max(found.memory, own_memory() - before)
            found.disk = max(found.disk, sum(f.stat().st_blocks * 512 for f in list(store.glob("*/array"))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def large(small: TrialData, folder: Path) -> TrialData:
    """As many images of noise, in a mapped file."""
    shape = (IMAGES, *small.train.pixels.shape[1:])
    array = np.memmap(folder / "pixels", np.uint8, "w+", shape=shape)
    generator = np.random.default_rng(0)
    for start in range(0, IMAGES, 1000):
        array[start : start + 1000] = generator.integers(0, 256, (min(1000, IMAGES - start), *shape[1:]), np.uint8)
    array.flush()
    labels = torch.arange(IMAGES) % len(small.classes)
    units = Units(np.arange(IMAGES), labels.numpy(), np.arange(IMAGES).astype(str), "mean", {})
    pixels = torch.from_numpy(np.memmap(folder / "pixels", np.uint8, "c", shape=shape))
    return replace(small, train=Part(pixels, labels, units, "noise"))


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["everything trained", "tokens", "last block", "heads"])
def test_ten_times_too_large(digits: Digits, tmp_path: Path, cut: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "everything trained": {"trained_blocks": "all", "level": 1},
        "tokens": {"trained_blocks": 0, "head": "attentive", "level": 1},
        "last block": {"trained_blocks": 1, "level": 1},
        "heads": {"trained_blocks": 0, "level": 1},
    }
    config = digits.config(**settings[cut], epochs=1, batch_size=64)
    small = digits.data(config)
    data = large(small, tmp_path)
    budget = data.train.pixels.nbytes // 10
    model = build_model(config, 10)
    kept = int(np.prod(Prefix(model, config, small.train, Place())._shape)) * 4 * IMAGES
    store = ActivationStore(tmp_path / "activations", min(budget, kept // 10))

    def run(of: TrialData) -> None:
        if cut == "heads":
            fine_tune_heads([config, config.model_copy(update={"seed": 5})], of, store=store)
        else:
            fine_tune(config, of, store=store)

    wider = replace(small, train=Part(data.train.pixels[:512], data.train.labels[:512], Units(
        np.arange(512), data.train.labels[:512].numpy(), np.arange(512).astype(str), "mean", {}), "few"))  # fmt: skip
    run(wider)  # what a trial takes by itself, whatever the number of images
    with watched(store.home) as peak:
        run(data)
    print(f"{cut}: {data.train.pixels.nbytes} bytes of pixels, {kept} of activations; own memory grew by {peak.memory}")
    assert peak.memory <= budget
    assert peak.disk <= store.budget
