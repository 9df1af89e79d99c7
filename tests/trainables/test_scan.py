"""The linear recurrence: exact in both ways, for every length and however small the decays; its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainables.backbones import scan
from trainables.backbones.scan import in_blocks, linear_scan, step_by_step

KINDS = ("slow", "strong", "zeros", "ones")


def decays(kind: str, *shape: int) -> Tensor:
    a = torch.rand(*shape, dtype=torch.float64)
    if kind == "slow":
        return 0.9 + 0.1 * a
    if kind == "strong":
        return torch.exp(-3 * torch.nn.functional.softplus(2 * torch.randn(*shape, dtype=torch.float64)))
    return torch.where(a < 0.1, 0.0, a) if kind == "zeros" else torch.ones(*shape, dtype=torch.float64)


def expected(a: Tensor, b: Tensor) -> Tensor:
    """As it is defined, in the precision given."""
    h, states = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.sampled_from(KINDS), st.integers(0, 1000))
def test_both_ways_are_the_recurrence(length: int, kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = decays(kind, 3, length, 2), torch.randn(3, length, 2, dtype=torch.float64)
    for way in (step_by_step, in_blocks, linear_scan):
        found = way(a, b)
        assert found.is_contiguous() and torch.allclose(found, expected(a, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", [step_by_step, in_blocks])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_single_precision_loses_nothing_but_rounding(kind: str, way: object) -> None:
    torch.manual_seed(0)
    a, b = decays(kind, 2, 3136, 4), torch.randn(2, 3136, 4, dtype=torch.float64)
    found = way(a.float(), b.float())  # type: ignore[operator]
    exact = expected(a.float().double(), b.float().double())
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max().clamp(min=1)


def test_which_way_is_a_matter_of_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = decays("slow", 2, 200, 3), torch.randn(2, 200, 3, dtype=torch.float64)
    taken = []
    for name, way in (("step_by_step", step_by_step), ("in_blocks", in_blocks)):

        def noted(a: Tensor, b: Tensor, name: str = name, way: object = way) -> Tensor:
            taken.append(name)
            return way(a, b)  # type: ignore[operator]

        monkeypatch.setattr(scan, name, noted)
    narrow = linear_scan(a, b)
    linear_scan(a[:, :64], b[:, :64])
    monkeypatch.setattr(scan, "WIDE", 6)
    assert torch.allclose(linear_scan(a, b), narrow, rtol=1e-12)
    assert taken == ["in_blocks", "step_by_step", "step_by_step"]


@pytest.mark.parametrize("length", [1, 2, 7, 70])
def test_gradients(length: int) -> None:
    torch.manual_seed(0)
    a = decays("zeros", 2, length, 1).requires_grad_()
    b = torch.randn(2, length, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_scan, (a, b))


def test_as_an_operation_of_torchs() -> None:
    a, b = (torch.rand(2, 70, 3, requires_grad=True) for _ in range(2))
    torch.library.opcheck(linear_scan, (a, b))
    torch.library.opcheck(linear_scan, (a.transpose(0, 2), b.transpose(0, 2)))


def test_inputs_stay_as_they_are() -> None:
    a, b = torch.rand(2, 70, 3), torch.rand(2, 70, 3)
    kept = a.clone(), b.clone()
    out = linear_scan(a, b)
    out.zero_()
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])
