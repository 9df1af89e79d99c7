"""What frozen blocks gave: kept and live are the same, what would make it something else misses, once is enough."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spaces.backbone import backbone, table
from spaces.sources import sources_digest
from tests.trainables.digits import Digits
from trainables.augment import Augment
from trainables.data.parts import TrialData
from trainables.data.pixels import DECODERS
from trainables.data.stored import ACTIVATIONS, stored
from trainables.loop import Outcome, fine_tune
from trainables.model import build_model
from trainables.place import Place
from trainables.prefix import (
    CODE,
    COMPUTING,
    SHARE_OF_DISK,
    ActivationStore,
    Prefix,
    activation_budget,
    view_of,
    worth_keeping,
)

ROOM = 1 << 30
DEEP = "dinov2_deep"


@pytest.fixture(scope="module", autouse=True)
def deep() -> Iterator[None]:
    """A vision transformer with more blocks than the tiny rows have: what lies before its last one is worth keeping."""
    row = backbone("dinov2_tiny")
    table()[DEEP] = row.model_copy(update={"name": DEEP, "blocks": 6, "build": {**row.build, "depth": 6}})
    yield
    del table()[DEEP]
    backbone.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return ActivationStore(tmp_path / "activations", ROOM)


def losses(outcome: Outcome) -> np.ndarray:
    return np.array([loss for report in outcome.reports for loss in report.step_losses])


CUTS: dict[str, dict[str, Any]] = {
    "pooled": {"trained_blocks": 0, "level": 2},
    "tokens": {"trained_blocks": 0, "head": "attentive", "level": 0},
    "last block": {"trained_blocks": 1, "level": 2, "drop_path": 0.2, "ema": 0.1},
    "mixup": {"trained_blocks": 1, "level": 2, "mixup": 0.4},
    "one view": {"trained_blocks": 0, "level": 3, "views": 1},
    "adapters": {"trained_blocks": 1, "adapter": "lora", "level": 1},
}


LONG = {"epochs": 5, "batch_size": 12}
"""Fifty steps."""
KEPT = [
    *((DEEP, cut) for cut in CUTS),
    *(("sam2_tiny", cut) for cut in ("last block", "mixup")),
    *(("vmamba_tiny", cut) for cut in ("tokens", "last block")),
]


def runs(digits: Digits, store: ActivationStore, name: str, cut: str) -> tuple[Outcome, Outcome, Outcome]:
    """A trial whose frozen part is computed live, kept, and read by the next; the store is what it is said to be."""
    config = digits.config(name, **CUTS[cut], **LONG)
    data = digits.data(config)
    live, first, again = (fine_tune(config, data, store=kept) for kept in (None, store, store))
    images, views = len(losses(live)) * LONG["batch_size"], view_of(LONG["epochs"] - 1, config) + 1
    assert len(losses(live)) == 50 and worth_keeping(live.model)
    assert (live.counts.computed, live.counts.read) == (images, 0)
    assert (first.counts.computed, first.counts.read) == (views * len(data.train), images)
    assert (again.counts.computed, again.counts.read) == (0, images)
    np.testing.assert_array_equal(losses(again), losses(first))
    return live, first, again


@pytest.mark.parametrize(("name", "cut"), KEPT)
def test_kept_and_live_are_the_same(digits: Digits, store: ActivationStore, name: str, cut: str) -> None:
    live, first, _ = runs(digits, store, name, cut)
    np.testing.assert_allclose(losses(first), losses(live), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first.probabilities, live.probabilities, atol=1e-5)


@pytest.mark.parametrize(("name", "cut"), [(DEEP, "pooled"), (DEEP, "last block"), (DEEP, "mixup")])
def test_kept_and_live_are_the_same_in_bf16(
    digits: Digits, store: ActivationStore, name: str, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an accelerator computes and keeps."""
    monkeypatch.setattr("trainables.place.REDUCED", {"cpu"})
    live, first, _ = runs(digits, store, name, cut)
    np.testing.assert_allclose(losses(first), losses(live), rtol=5e-3)
    np.testing.assert_allclose(first.probabilities, live.probabilities, atol=5e-3)
    assert {array.dtype.itemsize for array in kept_arrays(store)} == {2}


def kept_arrays(store: ActivationStore) -> list[np.memmap]:
    found = [stored(store.home, file.parent.name) for file in store.home.glob("*/array")]
    return [array for array in found if array is not None]


@pytest.mark.parametrize("name", ["sam2_tiny", "coca_tiny", "aimv2_tiny", "clip_tiny", "mae_tiny", "dinov3_tiny"])
def test_every_family_can_be_kept(digits: Digits, store: ActivationStore, name: str) -> None:
    config = digits.config(name, trained_blocks=1, epochs=1)
    data = digits.data(config)
    model = build_model(config, 10)
    live = Prefix(model, config, data.train, Place())
    kept = Prefix(model, config, data.train, Place(), store=store)
    kept.store = store  # whether it pays or not
    rows = torch.tensor([5, 3, 90])
    live.look_at(0), kept.look_at(0)
    torch.testing.assert_close(kept(rows), live(rows), rtol=1e-5, atol=1e-5)
    assert kept.counts.read == 3 and live.counts.read == 0


def test_nothing_is_kept_where_the_stem_is_trained(digits: Digits, store: ActivationStore) -> None:
    config = digits.config(trained_blocks="all", epochs=1)
    outcome = fine_tune(config, digits.data(config), store=store)
    assert not store.home.exists()
    assert (outcome.counts.computed, outcome.counts.read) == (0, 0)


def test_whatever_changes_the_numbers_changes_the_key(
    digits: Digits, store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(
        epoch: int = 0,
        place: Place | None = None,
        part: str = "train",
        row: dict[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        name = changes.pop("backbone", "dinov2_tiny")
        config = digits.config(name, **{"trained_blocks": 0, "level": 1, "view_seed": 7, **changes})
        data = replace(digits, dataset=digits.dataset.model_copy(update=dataset or {})).data(config)
        augment = Augment(config) if part == "train" else None
        model = build_model(config, 10)
        model.backbone.spec = model.backbone.spec.model_copy(update=row or {})
        prefix = Prefix(model, config, getattr(data, part), place or Place(), augment, store)
        prefix._view = view_of(epoch, config) if augment else 0
        return prefix.key()

    weights = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    state = build_model(digits.config(), 10).backbone.trunk.state_dict()
    save_file({name: (tensor + 0.01).contiguous() for name, tensor in state.items()}, weights)
    keys = {
        "as it is": key(),
        "another backbone": key(backbone="mae_tiny"),
        "other weights": key(weights=str(weights)),
        "another level": key(level=2),
        "another view": key(epoch=1),
        "another seed of the views": key(view_seed=8),
        "another policy": key(policy="natural"),
        "another boundary": key(trained_blocks=1),
        "tokens": key(head="attentive"),
        "CLS of two blocks": key(feature="cls2"),
        "and the mean": key(feature="cls2_mean"),
        "another part": key(part="validation"),
        "another resolution": key(resolution=(42, 56)),
        "another type": key(place=Place(torch.device("cuda"))),
        "another normalisation": key(row={"normalisation": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}),
        "another argument of the constructor": key(row={"build": {"embed_dim": 64, "depth": 2, "num_heads": 4}}),
        "another pooling": key(row={"pooled": "mean"}),
        "another count of blocks": key(row={"blocks": 3}),
        "padded images": key(dataset={"fit": "pad"}),
        "their middle": key(dataset={"centre": 0.9}),
        "what is cut out": key(dataset={"crop": "disc"}),
        "a side": key(dataset={"crop": "breast", "side": "left"}),
    }
    for what, name, value in (
        ("other code", "trainables.prefix.CODE", "other"),
        ("another timm", "trainables.prefix.VERSIONS", {"torch": torch.__version__, "timm": "0.1"}),
        ("other code that decodes", "trainables.data.pixels.CODE", "other"),
        ("another Pillow", "trainables.data.pixels.DECODERS", {**DECODERS, "pillow": "0.1"}),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(name, value)
            keys[what] = key()
    assert len(set(keys.values())) == len(keys)
    same = [key(), key(row={"licence": "another", "dimensions": {"level": 0}})]
    same += [key(seed=99), key(head_lr=1e-4), key(mixup=0.3), key(batch_size=8), key(epochs=50), key(head="bn_linear")]
    assert set(same) == {keys["as it is"]}, "what doesn't reach the frozen part must not miss"

    def drawn(**changes: Any) -> list[str]:
        return [key(**changes), key(view_seed=8, **changes), key(epoch=1, **changes)]

    plain, resampled, augmented = drawn(level=0), drawn(policy="none"), drawn(level=1)
    assert len(set(plain)) == len(set(resampled)) == 1, "where nothing is drawn, neither seed nor view matters"
    assert len({*plain, *resampled, *augmented}) == 5
    assert plain[0] == key(level=0, policy="natural")


EDITED = ("backbones/vit.py", "backbones/scan.py", "augment.py", "model.py", "prefix.py", "place.py")


@pytest.mark.parametrize("edited", EDITED)
def test_an_edit_of_the_code_changes_every_key(edited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources_digest(COMPUTING) == CODE
    read = Path.read_bytes

    def with_edit(file: Path) -> bytes:
        return read(file) + (b"#" if file.as_posix().endswith(f"trainables/{edited}") else b"")

    monkeypatch.setattr(Path, "read_bytes", with_edit)
    assert sources_digest(COMPUTING) != CODE


def test_searches_share_what_is_not_augmented(digits: Digits, store: ActivationStore) -> None:
    config = digits.config(trained_blocks=0, level=0, epochs=1, view_seed=1)
    data = digits.data(config)
    assert fine_tune(config, data, store=store).counts.computed == len(data.train)
    assert fine_tune(config.model_copy(update={"view_seed": 2}), data, store=store).counts.computed == 0


def _build(digits: Digits, home: Path, start: Any, found: Any) -> None:
    torch.set_num_threads(1)
    config = digits.config(trained_blocks=0, level=0, epochs=1)
    start.wait()
    counts = fine_tune(config, digits.data(config), store=ActivationStore(home, ROOM)).counts
    found.put(counts.computed)


def test_processes_that_want_the_same_build_it_once(digits: Digits, store: ActivationStore) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, found = spawn.Event(), spawn.Queue()
    several = [spawn.Process(target=_build, args=(digits, store.home, start, found)) for _ in range(2)]
    for process in several:
        process.start()
    start.set()
    computed = [found.get(timeout=120) for _ in several]
    for process in several:
        process.join()
    config = digits.config(trained_blocks=0, level=0, epochs=1)
    assert sorted(computed) == [0, len(digits.data(config).train)]


def test_a_damaged_array_is_built_again(digits: Digits, store: ActivationStore, monkeypatch: Any) -> None:
    config = digits.config(trained_blocks=0, level=0, epochs=1)
    data = digits.data(config)
    first = fine_tune(config, data, store=store)
    for array in store.home.glob("*/array"):
        damaged = bytearray(array.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        array.write_bytes(damaged)
    monkeypatch.setattr("trainables.data.stored._verified", set())  # as in a new process
    again = fine_tune(config, data, store=store)
    assert again.counts.computed == len(data.train)
    np.testing.assert_array_equal(losses(again), losses(first))


def test_what_does_not_fit_is_computed_live(digits: Digits, store: ActivationStore) -> None:
    config = digits.config(trained_blocks=0, level=2, epochs=3)
    data = digits.data(config)
    width = build_model(config, 10).backbone.spec.width
    view = len(data.train) * width * 4
    small = replace(store, budget=3 * view - 1)  # of three views
    outcome = fine_tune(config, data, store=small)
    assert outcome.counts.read == 0 and outcome.counts.computed > 0
    kept = fine_tune(config, data, store=replace(store, budget=3 * view))
    assert kept.counts.computed == 3 * len(data.train)
    np.testing.assert_allclose(losses(kept), losses(outcome), rtol=1e-5)


def test_ten_times_the_budget_stays_within_it(digits: Digits, store: ActivationStore) -> None:
    """Trials with views of their own, one after the other, each of which fits by itself."""
    config = digits.config(trained_blocks=0, level=2, epochs=2)
    data: TrialData = digits.data(config)
    view = len(data.train) * build_model(config, 10).backbone.spec.width * 4
    small = replace(store, budget=int(2.5 * view))
    for seed in range(10):
        fine_tune(config.model_copy(update={"view_seed": seed}), data, store=small)
        taken = sum(array.stat().st_size for array in small.home.glob("*/array"))
        assert taken <= small.budget
    outcome = fine_tune(config.model_copy(update={"view_seed": 0}), data, store=small)
    assert outcome.counts.computed == 2 * len(data.train), "the first was driven out long ago"


def test_what_another_process_removes_meanwhile_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / ACTIVATIONS / "kept" / "array"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"8 bytes.")
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda home, pattern: [*glob(home, pattern), home / "gone" / "array"])
    monkeypatch.setattr("trainables.prefix.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert activation_budget(tmp_path, "auto") == int(SHARE_OF_DISK * 1008)
