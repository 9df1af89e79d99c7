"""One process alone, and a real group of processes with gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainables import place
from trainables.place import Place, autocast, precision, this_machine


def test_alone_nothing_is_exchanged() -> None:
    place, values = Place(), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert place.first
    assert place.sum(values) is values
    assert place.gather(values, 2) is values
    assert place.collect("own") == ["own"]
    place.wait()


@pytest.mark.parametrize("world", [2, 4])
def test_group(elsewhere: dict[str, Any], world: int) -> None:
    found = elsewhere[f"place {world}"]
    assert found["sum"] == [world, sum(range(world))]
    assert found["gather"] == [[row, row * 10] for row in range(7)], "rows should be in their order, none twice"
    assert found["collect"] == [{"rank": rank} for rank in range(world)]
    assert found["first"]


def test_only_the_first_writes() -> None:
    assert not Place(rank=1, world=2).first


def test_a_process_takes_the_threads_it_is_given() -> None:
    before = torch.get_num_threads()
    try:
        assert this_machine(threads=2).device.type == "cpu"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert this_machine(accelerators=0.5, threads=before).device == torch.device("cuda", 0)


def test_accelerators_compute_in_bf16_the_cpu_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, weight = torch.device("cpu"), torch.ones(2, 2)
    assert precision(torch.device("cuda", 1)) == torch.bfloat16 and precision(cpu) == torch.float32
    with autocast(cpu):
        assert (weight @ weight).dtype == torch.float32
    monkeypatch.setattr(place, "REDUCED", {"cpu"})
    with autocast(cpu):
        assert (weight @ weight).dtype == torch.bfloat16
