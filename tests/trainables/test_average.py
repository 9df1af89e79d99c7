"""The moving average of weights, against its formula written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.average import Average


def values(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "weight": torch.randn(3, 2, generator=generator),
        "bias": torch.randn(2, generator=generator),
        "counter": torch.tensor(step),
    }


@pytest.mark.parametrize("span", [0.5, 1.0, 4.0, 50.0])
def test_formula_with_its_warm_up(span: float) -> None:
    average = Average(values(0), span)
    expected = values(0)["weight"].double()
    for step in range(1, 40):
        average.update(values(step))
        decay = min(1 - 1 / max(span, 1.0), (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * values(step)["weight"].double()
        torch.testing.assert_close(average.tensors["weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert average.steps == 39
    assert average.tensors["counter"] == 39, "what isn't a float is taken over"


def test_a_constant_stays_and_the_start_is_forgotten() -> None:
    average = Average({"weight": torch.zeros(1)}, span=10)
    for _ in range(100):
        average.update({"weight": torch.ones(1)})
    assert 0.999 < average.tensors["weight"].item() < 1
    assert average.decay == pytest.approx(0.9)


def test_parameters_go_on_unchanged_and_are_no_part_of_a_graph() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    average = Average({"weight": parameter}, span=2)
    with torch.no_grad():
        parameter.add_(1)
    average.update({"weight": parameter})
    assert not average.tensors["weight"].requires_grad
    assert torch.equal(parameter, torch.full((2,), 2.0))
    assert 1 < average.tensors["weight"][0] < 2


def test_in_place_of_and_back_exactly_even_after_an_error() -> None:
    own = values(1)
    before = {name: tensor.clone() for name, tensor in own.items()}
    average = Average(values(0), 8)
    average.update(own)
    with pytest.raises(ZeroDivisionError), average.in_place_of(own):
        assert all(torch.equal(own[name], average.tensors[name]) for name in own)
        assert not torch.equal(own["weight"], before["weight"])
        raise ZeroDivisionError
    assert all(torch.equal(own[name], before[name]) for name in own)
    average.put_in_place_of(own)
    assert all(torch.equal(own[name], average.tensors[name]) for name in own)


def test_loaded_it_goes_on_exactly() -> None:
    whole = Average(values(0), 6)
    first = Average(values(0), 6)
    for step in range(1, 6):
        whole.update(values(step))
        first.update(values(step))
    second = Average(values(9), 6)
    second.load({name: tensor.clone() for name, tensor in first.tensors.items()}, first.steps)
    for step in range(6, 12):
        whole.update(values(step))
        second.update(values(step))
    assert second.steps == whole.steps
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in whole.tensors.items())
