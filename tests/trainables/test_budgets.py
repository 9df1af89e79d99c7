"""Datasets and trials ten times larger than what memory and disk may take for them. Both are kept to, but by a pass of
heads: it holds a view's features where the store has no room for them, which is counted before a search is started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.trainables.digits import Digits
from trainables.data.parts import Part, TrialData
from trainables.data.units import Units
from trainables.head_group import fine_tune_heads
from trainables.head_memory import held
from trainables.loop import fine_tune
from trainables.model import build_model
from trainables.place import Place
from trainables.prefix import ActivationStore, Counts, Prefix
from trainables.probe import own_memory

IMAGES = 12_000


def taken(store: Path) -> int:
    """Bytes of the arrays that are there, half-built ones too."""
    total = 0
    for array in list(store.glob("*/array")):
        with suppress(FileNotFoundError):  # driven out meanwhile
            total += array.stat().st_size
    return total


class Peak:
    memory = 0
    disk = 0


@contextmanager
def watched(store: Path) -> Iterator[Peak]:
    found, ended, process = Peak(), threading.Event(), psutil.Process()
    before = own_memory(process)

    def watch() -> None:
        while not ended.wait(0.005):
            found.memory = max(found.memory, own_memory(process) - before)
            found.disk = max(found.disk, taken(store))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def large(small: TrialData, folder: Path, images: int = IMAGES) -> TrialData:
    """As many images of noise in colour, in a mapped file."""
    shape = (images, 3, *small.train.pixels.shape[2:])
    array = np.memmap(folder / "pixels", np.uint8, "w+", shape=shape)
    generator = np.random.default_rng(0)
    for start in range(0, images, 1000):
        array[start : start + 1000] = generator.integers(0, 256, (min(1000, images - start), *shape[1:]), np.uint8)
    array.flush()
    labels = torch.arange(images) % len(small.classes)
    units = Units(np.arange(images), labels.numpy(), np.arange(images).astype(str), "mean", {})
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
    kept = int(np.prod(Prefix(model, config, small.validation, Place())._shape)) * 4 * IMAGES
    store = ActivationStore(tmp_path / "activations", min(budget, kept // 10))
    two = [config, config.model_copy(update={"seed": 5})]

    def run(of: TrialData, store: ActivationStore | None = None) -> None:
        if cut == "heads":
            fine_tune_heads(two, of, store=store)
        else:
            fine_tune(config, of, store=store)

    wider = replace(small, train=Part(data.train.pixels[:512], data.train.labels[:512], Units(
        np.arange(512), data.train.labels[:512].numpy(), np.arange(512).astype(str), "mean", {}), "few"))  # fmt: skip
    run(wider)
    with watched(store.home) as alone:
        run(wider)  # what a trial takes by itself, whatever the number of images
    with watched(store.home) as peak:
        run(data, store)
    grown = peak.memory - alone.memory
    print(f"{cut}: {data.train.pixels.nbytes} bytes of pixels, {kept} of activations; own memory grew by {grown}")
    more = 0
    if cut == "heads":
        more = held(two, 2, (IMAGES, len(data.validation)), 10, "classification", store.budget, Place(), 1).host
    assert grown <= budget + more
    assert peak.disk <= store.budget


@pytest.mark.slow
def test_views_that_drive_each_other_out(digits: Digits, tmp_path: Path) -> None:
    """Trials whose own views fit the store, while those of all are ten times too large for it."""
    config = digits.config(trained_blocks=0, level=1, epochs=2, batch_size=64)
    data = large(digits.data(config), tmp_path, 3000)
    images, each = len(data.train), build_model(config, 10).backbone.spec.width * 4
    store = ActivationStore(tmp_path / "activations", 5 * images * each // 2)
    several = [config.model_copy(update={"view_seed": seed}) for seed in range(13)]
    assert 2 * len(several) * images * each > 10 * store.budget
    with watched(store.home) as peak:
        outcomes = [fine_tune(one, data, store=store) for one in [*several, several[0], several[0]]]
    again = outcomes.pop()
    assert all(o.counts == Counts(computed=2 * images, read=2 * (images // 64 * 64)) for o in outcomes)
    assert again.counts.computed == 0, "which was driven out, and built again"
    print(f"store of {store.budget} bytes: at most {peak.disk} on disk, with {len(several)} times {2 * images * each}")
    assert 2 * images * each <= peak.disk <= store.budget
    live = fine_tune(several[0], data)
    for kept in (outcomes[0], outcomes[-1], again):
        for mine, its in zip(kept.reports, live.reports, strict=True):
            np.testing.assert_allclose(mine.step_losses, its.step_losses, rtol=1e-5)
