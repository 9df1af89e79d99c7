"""What stays on a device: copied once, within its room, given up for training. The CPU stands for a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.digits import Digits
from trainables import prefix, trials
from trainables.data.parts import TrialData
from trainables.loop import Outcome, fine_tune
from trainables.prefix import ActivationStore
from trainables.resident import RESIDENT, SHARE, Resident, Rows

CPU = torch.device("cpu")


def numbers(start: int) -> torch.Tensor:
    return torch.arange(start, start + 100, dtype=torch.float32)  # 400 bytes


def test_a_tensor_is_copied_once() -> None:
    resident = Resident(lambda _: 10_000)
    host = numbers(0)
    first = resident.copy_of("a", host, CPU)
    assert first is not None and torch.equal(first, host) and first.data_ptr() != host.data_ptr()
    assert resident.copy_of("a", host, CPU) is first
    assert resident.copy_of("b", numbers(5), CPU) is not first


def test_what_was_not_wanted_for_longest_makes_room() -> None:
    free = 1800  # half of which may be taken: two tensors
    resident = Resident(lambda _: free - sum(t.nbytes for t in resident.held.values()))
    for key in "ab":
        resident.copy_of(key, numbers(0), CPU)
    resident.copy_of("a", numbers(0), CPU)
    resident.copy_of("c", numbers(0), CPU)
    assert [key for key, _ in resident.held] == ["a", "c"]
    assert resident.copy_of("large", torch.zeros(300), CPU) is None
    assert [key for key, _ in resident.held] == ["a", "c"], "what can't fit drives nothing out"


def test_rows_come_from_the_host_once_the_copy_is_given_up() -> None:
    resident = Resident(lambda _: 10_000)
    rows = Rows(numbers(7), "a", CPU, resident)
    asked = torch.tensor([3, 99, 3])
    assert rows.gather(asked) is None, "nothing is to be gathered where a copy lies on the device"
    assert rows.give(asked, None).tolist() == [10, 106, 10]
    assert resident.make_way() and not resident.make_way()
    assert rows.give(asked, None).tolist() == [10, 106, 10]
    gathered = rows.gather(asked)
    assert gathered is not None and rows.give(asked, gathered).tolist() == [10, 106, 10]
    assert resident.share == 0.125, "it takes less from now on"


def test_what_nobody_else_can_want_drives_nothing_out() -> None:
    resident = Resident(lambda _: 1000)  # half of which may be taken
    resident.copy_of("a", numbers(0), CPU)
    own = resident.copy_of(None, numbers(5), CPU)
    assert own is not None and torch.equal(own, numbers(5))
    assert resident.copy_of(None, torch.zeros(126), CPU) is None, "of 504 bytes"
    assert [key for key, _ in resident.held] == ["a"]
    rows = Rows(numbers(5), None, CPU, resident)
    for there in (True, False):
        assert (rows.gather(torch.tensor([3])) is None) == there
        assert rows.give(torch.tensor([3, 99]), None).tolist() == [8, 104]
        assert resident.make_way() == there, "it makes way like the others, once"
    another = Rows(numbers(5)[:10], None, CPU, resident)
    assert another.gather(torch.tensor([3])) is None and len(resident.lent) == 2
    del rows, another
    assert not resident.lent, "it goes with who asked for it"


@pytest.mark.parametrize("unused", [0, 10_000])
def test_some_rows_are_numbered_anew(unused: int) -> None:
    resident = Resident(lambda _: unused)
    rows = Rows(numbers(7), "a", CPU, resident)
    some = rows.at(torch.tensor([4, 2, 0]))
    asked = torch.tensor([2, 0])
    assert bool(resident.held) == bool(unused)
    assert some.give(asked, None).tolist() == some.give(asked, some.gather(asked)).tolist() == [7, 11]
    assert some.between(0, 3).tolist() == [11, 9, 7] and some.between(1, 2).tolist() == [9]
    assert rows.at(None).give(asked, None).tolist() == [9, 7]


def test_what_one_trial_needed_says_nothing_of_the_next() -> None:
    resident = Resident(lambda _: 1000)  # half of which may be taken
    assert resident.copy_of("a", numbers(0), CPU) is not None and resident.make_way()
    assert resident.copy_of("a", numbers(0), CPU) is None
    resident.begin()
    assert resident.copy_of("a", numbers(0), CPU) is not None


def test_processes_that_share_a_device_take_their_part_of_it() -> None:
    resident = Resident(lambda _: 1000)
    resident.begin(0.5)
    assert resident.copy_of("a", numbers(0), CPU) is None
    assert resident.copy_of("b", numbers(0)[:50], CPU) is not None, "a quarter of 1000 bytes holds 200"


def test_a_job_says_which_part_is_its_own(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RESIDENT, "share", 0.01)  # as after a trial that ran out of memory
    shares: list[float] = []
    monkeypatch.setattr(trials, "_run_trial", lambda *_: shares.append(RESIDENT.share))
    for fraction in (0, 1, 0.25):
        order = {"trials": [{"number": 0, "config": digits.config().plain()}], "job": "job-00000"}
        order |= {"search": str(tmp_path), "hang": 60.0, "threads": 1, "accelerators": fraction}
        trials.run(order, lambda _: None)
    assert shares == [SHARE, SHARE, SHARE / 4]


@pytest.mark.parametrize(
    "settings", [{"trained_blocks": "all", "level": 2}, {"trained_blocks": 1, "level": 0}, {"trained_blocks": 0}]
)
def test_a_trial_on_resident_pixels_is_the_same(
    digits: Digits, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """From the host, resident, and from the host ahead in a thread: the same to the last bit; pixels and what is kept
    are copied once for two trials."""
    config = digits.config(**settings, epochs=2)
    data: TrialData = digits.data(config)

    def run(name: str) -> Outcome:
        return fine_tune(config, data, store=ActivationStore(tmp_path / name, 1 << 30))

    from_host = run("host")
    copies: list[str] = []

    class Counting(Resident):
        def copy_of(self, key: str | None, host: torch.Tensor, device: torch.device) -> torch.Tensor | None:
            copies.extend([key] if key is not None and (key, device) not in self.held else [])
            return super().copy_of(key, host, device)

    resident = Counting(lambda _: 1 << 30)
    monkeypatch.setattr(prefix, "resident_of", lambda _: resident)
    here = run("resident")
    needed = len(copies)
    again = run("resident")
    assert 1 <= needed == len(copies) == len(set(copies))
    monkeypatch.setattr(prefix, "resident_of", lambda _: None)
    init = prefix.Prefix.__init__

    def with_thread(self: prefix.Prefix, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        self.ahead = 2

    monkeypatch.setattr(prefix.Prefix, "__init__", with_thread)
    in_thread = run("ahead")
    for other in (here, again, in_thread):
        assert [r.step_losses for r in other.reports] == [r.step_losses for r in from_host.reports]
        np.testing.assert_array_equal(other.probabilities, from_host.probabilities)
