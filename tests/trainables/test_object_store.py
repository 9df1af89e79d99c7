"""Checkpoints that lie elsewhere: the same states, whole or not there, and gone when they are pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainables.digits import EVERYTHING, Digits
from tests.trainables.test_checkpoint import made
from tests.trainables.test_loop import Killed, assert_same
from trainables.checkpoint import STATE, TENSORS, load_newest, save
from trainables.epoch import EpochReport
from trainables.loop import fine_tune
from trainables.object_store import ObjectFolder, below, link, linked


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Of a trial's checkpoints, which lie in `tmp_path / "store"`."""
    link(tmp_path / "trial" / "checkpoints", f"file://{tmp_path / 'store'}")
    return tmp_path / "trial" / "checkpoints"


def test_a_place_is_linked_once(place: Path, tmp_path: Path) -> None:
    link(place, "s3://other/place")
    found = linked(place)
    assert found is not None and found.address == f"file://{tmp_path / 'store'}"
    (tmp_path / "own" / "checkpoints").mkdir(parents=True)
    link(tmp_path / "own" / "checkpoints", "s3://other/place")
    assert linked(tmp_path / "own" / "checkpoints") is None, "what lies here stays here"
    assert below("s3://bucket/runs?region=eu", "a/trials/00001") == "s3://bucket/runs/a/trials/00001?region=eu"


def test_the_newest_comes_back_and_older_ones_go(place: Path, tmp_path: Path) -> None:
    assert load_newest(place, "own") is None
    for epoch in (1, 2, 3):
        save(place, made(epoch))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["epoch-0002", "epoch-0003"]
    found = load_newest(place, "own")
    assert found is not None and found.epoch == 3 and found.state == made(3).state
    assert all(torch.equal(tensor, found.tensors[name]) for name, tensor in made(3).tensors.items())
    save(place, made(2))
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["epoch-0002"], "the trial went on from before"


@pytest.mark.parametrize("spoil", ["half written", "damaged"])
def test_one_that_is_not_whole_is_passed_over(place: Path, tmp_path: Path, spoil: str) -> None:
    for epoch in (1, 2):
        save(place, made(epoch))
    newest = tmp_path / "store" / "epoch-0002"
    if spoil == "half written":  # the state is the last to come
        (newest / STATE).unlink()
    else:
        (newest / TENSORS).write_bytes((newest / TENSORS).read_bytes()[:-5])
    found = load_newest(place, "own")
    assert found is not None and found.epoch == 1
    save(place, made(2))
    found = load_newest(place, "own")
    assert found is not None and found.epoch == 2


def test_a_trial_goes_on_from_there_exactly(place: Path, tmp_path: Path, digits: Digits) -> None:
    config = digits.config(**EVERYTHING)
    data = digits.data(config)

    def die(report: EpochReport) -> None:
        if report.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        fine_tune(config, data, place.parent, die)
    again = fine_tune(config, data, place.parent)
    assert place.is_file() and list((tmp_path / "store").glob("epoch-*/*"))
    assert_same(again, fine_tune(config, data))


def test_what_is_there_is_measured_and_removed(place: Path, tmp_path: Path) -> None:
    save(place, made(1))
    found = linked(place)
    assert found is not None
    assert found.size() == sum(file.stat().st_size for file in (tmp_path / "store").rglob("*") if file.is_file())
    found.empty()
    found.empty()
    assert not (tmp_path / "store").exists() and load_newest(place, "own") is None


def test_whether_it_can_be_used(tmp_path: Path) -> None:
    assert ObjectFolder(f"file://{tmp_path / 'new'}").refused() == ""
    assert not list((tmp_path / "new").iterdir()), "the mark is removed"
    assert ObjectFolder("file:///proc/none").refused() != ""
    assert "nonsense" in ObjectFolder("nonsense://place").refused()
