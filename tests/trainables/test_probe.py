"""What a kind of configuration costs, measured on noise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from spaces.config import TrialConfig
from trainables import probe as probing
from trainables.causes import Diverged
from trainables.kinds import kind
from trainables.place import Place
from trainables.probe import own_memory, past, probe, remembered

PLACE = Place()


def config(**changes: Any) -> TrialConfig:
    settings = {"backbone": "mae_tiny", "weights": "pretrained", "metric": "accuracy", "epochs": 50, "seed": 3}
    settings |= {"resolution": 32, "policy": "natural", "level": 2, "head_lr": 1e-3, "batch_size": 8, "ema": 0.1}
    return TrialConfig.model_validate(settings | changes)


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("multiclass", {}),
        ("multiclass", {"trained_blocks": "all", "adapter": "lora", "grad_checkpointing": True}),
        ("multilabel", {"metric": "macro_auroc", "trained_blocks": 1, "views": 3}),
        ("ordinal", {"metric": "quadratic_weighted_kappa", "loss": "ordinal", "value": "best"}),
    ],
)
def test_every_task_is_measured_without_its_weights(task: Any, changes: dict[str, Any]) -> None:
    found = probe(config(**changes), 3, task, PLACE)
    assert found.fits and found.training > 0 and found.evaluating > 0
    assert found.device_bytes == 0 and found.host_bytes > 0 and found.whole


def test_a_kind_is_what_decides_the_cost() -> None:
    assert kind(config()) == kind(config(head_lr=0.1, seed=9, mixup=0.2, level=0))
    others = [config(trained_blocks=1), config(batch_size=16), config(resolution=64), config(head="attentive")]
    assert len({kind(other) for other in [config(), *others]}) == 5


def told(cache: Path) -> str:
    return past(config(), 3, "multiclass", PLACE, cache)


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = remembered(config(), 3, "multiclass", PLACE, tmp_path)
    other = replace(first, training=first.training + 1)
    monkeypatch.setattr(probing, "probe", lambda *_: other)
    assert remembered(config(seed=4), 3, "multiclass", PLACE, tmp_path) == first
    assert remembered(config(batch_size=4), 3, "multiclass", PLACE, tmp_path) == other
    [kept, _] = sorted((tmp_path / "costs").iterdir(), key=lambda file: file.stat().st_mtime)
    kept.write_text("{")
    assert told(tmp_path) == "untried"
    assert remembered(config(), 3, "multiclass", PLACE, tmp_path) == other


def test_a_batch_that_takes_too_long_is_not_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "QUICK", 0.0)
    found = probe(config(), 3, "multiclass", PLACE)
    assert found.fits and found.training > 0 and found.host_bytes > 0 and not found.whole


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_is_an_answer_for_now(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an accelerator's or the host's memory, which another process may have had: it is measured again."""

    def exhausted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(probing, "fine_tune", exhausted)
    assert told(tmp_path) == "untried"
    assert not remembered(config(), 3, "multiclass", PLACE, tmp_path).fits
    assert not list((tmp_path / "costs").glob("*.json")) and told(tmp_path) == "failed"
    monkeypatch.undo()
    assert remembered(config(), 3, "multiclass", PLACE, tmp_path).fits
    [kept] = (tmp_path / "costs").iterdir()
    assert kept.suffix == ".json" and told(tmp_path) == "measured"


def test_other_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(probing, "fine_tune", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        remembered(config(), 3, "multiclass", PLACE, tmp_path)
    assert not list((tmp_path / "costs").glob("*.json")) and told(tmp_path) == "failed"


@pytest.mark.parametrize("before", [None, MemoryError(), Diverged("the loss was nan at step 1")])
@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), SystemExit(130)])
def test_who_stops_it_learns_nothing(
    before: Exception | None, stopped: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the kind that was under way; what was known of it before stays known."""
    raised: list[BaseException | None] = [before]

    def broken(*_: Any, **__: Any) -> None:
        assert raised[0] is not None
        raise raised[0]

    monkeypatch.setattr(probing, "fine_tune", broken)
    if isinstance(before, Diverged):
        with pytest.raises(Diverged):
            remembered(config(), 3, "multiclass", PLACE, tmp_path)
    elif before is not None:
        remembered(config(), 3, "multiclass", PLACE, tmp_path)
    known = told(tmp_path)
    assert known == {type(None): "untried", MemoryError: "failed", Diverged: "diverged"}[type(before)]
    raised[0] = stopped
    with pytest.raises(type(stopped)):
        remembered(config(), 3, "multiclass", PLACE, tmp_path)
    assert told(tmp_path) == known


def test_mapped_files_are_not_own_memory(tmp_path: Path) -> None:
    process, size = psutil.Process(), 64 << 20
    file = np.memmap(tmp_path / "array", np.uint8, "w+", shape=size)
    before = own_memory(process)
    assert file.sum() == 0 and own_memory(process) - before < size // 4
    held = np.ones(size, np.uint8)
    assert own_memory(process) - before > size // 2 and held.all()
