"""Checkpoints: put back exactly, verified, and passed over where they are damaged."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spaces.config import FORMAT
from trainables.checkpoint import (
    STATE,
    TENSORS,
    Checkpoint,
    DamagedCheckpoint,
    load,
    load_newest,
    optimizer_tensors,
    random_state,
    save,
    set_optimizer_tensors,
    set_random_state,
)


def made(epoch: int, trial: str = "own") -> Checkpoint:
    new = Checkpoint(epoch, trial, state={"reports": [{"value": 0.1 + epoch, "step_losses": [1.5, 2.25]}]})
    new.add("model", {"head.weight": torch.full((4, 3), float(epoch)), "head.bias": torch.arange(3)})
    new.add("random0", random_state(torch.device("cpu")))
    return new


def flip_bit(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "tensors truncated": lambda p: truncate(p / TENSORS),
    "tensors empty": lambda p: (p / TENSORS).write_bytes(b""),
    "tensors missing": lambda p: (p / TENSORS).unlink(),
    "a bit of the tensors' header": lambda p: flip_bit(p / TENSORS, 0.01),
    "a bit of a tensor": lambda p: flip_bit(p / TENSORS, 1.0),
    "state truncated": lambda p: truncate(p / STATE),
    "state missing": lambda p: (p / STATE).unlink(),
    "state is a list": lambda p: (p / STATE).write_text("[]") and None,
    "state is null": lambda p: (p / STATE).write_text("null") and None,
    "state isn't UTF-8": lambda p: (p / STATE).write_bytes(b"\xff" + (p / STATE).read_bytes()) and None,
    "a bit of the state": lambda p: flip_bit(p / STATE, 0.9),
    "a number in the state": lambda p: (p / STATE).write_text((p / STATE).read_text().replace("2.25", "2.26")) and None,
}


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save(tmp_path, made(7))
    assert path == tmp_path / "epoch-0007"
    found = load_newest(tmp_path, "own")
    assert found is not None and found.epoch == 7 and found.state == made(7).state
    assert found.kind("model").keys() == {"head.weight", "head.bias"}
    assert torch.equal(found.kind("model")["head.weight"], torch.full((4, 3), 7.0))
    assert found.kind("model")["head.bias"].dtype == torch.int64
    assert found.kind("mod") == {} and found.kind("optimizer") == {}


def test_others_may_read_it_where_they_may_read_new_files(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    files = list(save(tmp_path, made(1)).iterdir())
    assert len(files) == 2 and {f.stat().st_mode for f in files} == {(tmp_path / "new").stat().st_mode}


def test_keeps_the_newest(tmp_path: Path) -> None:
    for epoch in range(1, 4):
        save(tmp_path, made(epoch), keep=1)
        assert [p.name for p in tmp_path.iterdir()] == [f"epoch-{epoch:04d}"]
    for epoch in range(4, 7):
        save(tmp_path, made(epoch))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-0005", "epoch-0006"]


def test_what_another_trial_left_of_later_epochs_takes_no_place(tmp_path: Path) -> None:
    save(tmp_path, made(8, "other"))
    save(tmp_path, made(1), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-0001"]


def test_nothing_there(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none", "own") is None
    assert load_newest(tmp_path, "own") is None
    with pytest.raises(DamagedCheckpoint):
        load(tmp_path / "none")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, made(1))
    path = save(tmp_path, made(2))
    DAMAGES[damage](path)
    with pytest.raises(DamagedCheckpoint):
        load(path, "own")
    with caplog.at_level(logging.WARNING):
        found = load_newest(tmp_path, "own")
    assert found is not None and found.epoch == 1
    assert "checkpoint epoch-0002 is left aside" in caplog.text
    DAMAGES[damage](tmp_path / "epoch-0001")
    assert load_newest(tmp_path, "own") is None
    save(tmp_path, made(2))  # training again reaches the damaged one's epoch, and takes its place
    again = load_newest(tmp_path, "own")
    assert again is not None and again.epoch == 2


def test_another_trials_or_formats_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, made(1))
    save(tmp_path, made(2, "other"))
    found = load_newest(tmp_path, "own")
    assert found is not None and found.epoch == 1
    assert "epoch-0002 is left aside: it belongs to another configuration" in caplog.text
    assert load(tmp_path / "epoch-0002").trial == "other"


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("trainables.checkpoint.FORMAT", FORMAT + 1)
        path = save(tmp_path, made(1))
    with pytest.raises(DamagedCheckpoint, match=f"format {FORMAT + 1}, expected {FORMAT}"):
        load(path)


def test_killed_before_the_rename_leaves_the_earlier_one(tmp_path: Path) -> None:
    save(tmp_path, made(1))
    code = """
import os, sys
from pathlib import Path
import trainables.checkpoint as checkpoint
from tests.trainables.test_checkpoint import made
Path.rename = lambda *_: os.kill(os.getpid(), 9)  # everything is written by then
checkpoint.save(Path(sys.argv[1]), made(2))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2, "the half-written one should be there under its hidden name"
    found = load_newest(tmp_path, "own")
    assert found is not None and found.epoch == 1
    save(tmp_path, made(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-0001", "epoch-0002"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))


def names(module: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in module.named_parameters()}


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> Tensor:
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    loss = module(inputs).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimizer_goes_on_exactly(tmp_path: Path, fused: bool) -> None:
    whole = model()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.05, weight_decay=0.1, fused=fused)
    for seed in range(5):
        step(whole, optimizer, seed)
    new = Checkpoint(5, "own")
    new.add("model", whole.state_dict())
    new.add("optimizer", optimizer_tensors(optimizer, names(whole)))
    found = load(save(tmp_path, new))

    again = model()
    restored = torch.optim.AdamW(again.parameters(), lr=0.05, weight_decay=0.1, fused=fused)
    again.load_state_dict(found.kind("model"))
    set_optimizer_tensors(restored, found.kind("optimizer"), names(again))
    for own, put in zip(optimizer.state.values(), restored.state.values(), strict=True):
        assert own.keys() == put.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for what in own:
            assert torch.equal(own[what], put[what]) and own[what].dtype == put[what].dtype
    for seed in range(5, 9):
        assert torch.equal(step(whole, optimizer, seed), step(again, restored, seed))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert torch.equal(found.kind("optimizer")["0.weight/step"], torch.tensor(5.0)), "what was loaded stays as it was"


def test_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.rand(3)
    new = Checkpoint(1, "own")
    new.add("random0", random_state(torch.device("cpu")))
    path = save(tmp_path, new)
    expected = torch.rand(4)
    set_random_state(load(path).kind("random0"), torch.device("cpu"))
    assert torch.equal(torch.rand(4), expected)


def test_the_state_is_plain_json(tmp_path: Path) -> None:
    data = json.loads((save(tmp_path, made(3)) / STATE).read_text())
    assert data["format"] == FORMAT and data["epoch"] == 3 and data["state"] == made(3).state
