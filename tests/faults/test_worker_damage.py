"""A truncated or bit-flipped checkpoint, pixel file or array of activations is noticed, told, and made good."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.elsewhere import given
from tests.faults.worker import run, without_times
from tests.trainables.digits import EVERYTHING
from trainables import trials
from trainables.checkpoint import STATE, TENSORS
from trainables.data import stored
from trainables.trial_files import STOPPED, trial_folder


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def run_logged(job: dict[str, Any], log: Path) -> Any:
    """Runs a job as a process that has just begun, with what it logs."""
    stored._verified.clear()
    trials._warm_data.cache_clear()
    logging.basicConfig(filename=log, level=logging.WARNING, force=True, format="%(message)s")
    return run(job)


@pytest.mark.parametrize("spoil", [truncate, flip])
@pytest.mark.parametrize("what", [TENSORS, STATE])
def test_a_checkpoint(
    spoil: Callable[[Path], None],
    what: str,
    order: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passes if a trial whose newest checkpoint is damaged says so, goes on from the one before, and ends as an
    undisturbed one, to the last bit."""
    monkeypatch.setattr(trials, "PAUSE", 0.0)
    job = order(**EVERYTHING, epochs=3)
    checkpoints = trial_folder(Path(job["search"]), 0) / "checkpoints"

    def stopped_after_two() -> None:
        def tell(messages: Any) -> None:
            if messages[-1].get("epoch", {}).get("epoch") == 2:
                os._exit(0)

        trials.run(job, tell)

    right = given(lambda: run(order(1, **EVERYTHING, epochs=3)), tmp_path / "right")
    given_up = os.fork()
    if not given_up:
        stopped_after_two()
        os._exit(1)
    assert os.waitpid(given_up, 0)[1] == 0
    assert sorted(p.name for p in checkpoints.iterdir()) == ["epoch-0001", "epoch-0002"]
    spoil(checkpoints / "epoch-0002" / what)
    again = given(lambda: run_logged(job, tmp_path / "log"), tmp_path / "again")
    assert without_times(again) == without_times(right)
    assert (tmp_path / "log").read_text().startswith("checkpoint epoch-0002 is left aside: ")
    assert [p.name for p in checkpoints.iterdir()] == ["epoch-0003"]


@pytest.mark.parametrize("spoil", [truncate, flip])
@pytest.mark.parametrize("kind", ["pixels", "activations"])
def test_a_stored_array(
    spoil: Callable[[Path], None], kind: str, order: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Passes if a trial that finds its pixels or kept activations damaged says so, builds them again as they were, and
    ends as one that found them whole, to the last bit."""
    own = {"cache": str(tmp_path / "cache"), "activations": 1 << 30}
    job = {**order(trained_blocks=0), **own}
    right = given(lambda: run(job), tmp_path / "right")
    arrays = {array: array.read_bytes() for array in (tmp_path / "cache" / kind).glob("*/array")}
    assert len(arrays) == 2, "of training and of validation images"
    for array in arrays:
        spoil(array)
    another = {**order(1, trained_blocks=0), **own}
    again = given(lambda: run_logged(another, tmp_path / "log"), tmp_path / "again")
    assert without_times(again) == without_times(right)
    assert {array: array.read_bytes() for array in arrays} == arrays
    sentences = set((tmp_path / "log").read_text().splitlines())
    assert len(sentences) == 2
    assert all(s.startswith("the stored array ") and s.endswith("it is built again") for s in sentences)


def test_an_end_of_another_configuration(order: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Passes if a number that another configuration had before, as where a record was put back from a backup and went
    on, is trained, and tells what it tells in a folder of its own."""
    given(lambda: run(order(0, **EVERYTHING, epochs=2)), tmp_path / "before")
    (trial_folder(Path(order(0)["search"]), 0) / STOPPED).touch()
    other = {**EVERYTHING, "head_lr": 0.02, "epochs": 2}
    alone = given(lambda: run(order(1, **other)), tmp_path / "alone")
    again = given(lambda: run(order(0, **other)), tmp_path / "again")
    assert [m["epoch"]["epoch"] for m in again] == [1, 2] and without_times(again) == without_times(alone)
