"""Heads: features to logits."""

import pytest
import torch

from spaces.backbone import backbone
from trainables.backbones import Features
from trainables.heads import HEADS, build_head


def features(width: int, batch: int = 3) -> Features:
    return Features(torch.randn(batch, 4, width), torch.randn(batch, 1, width), torch.randn(batch, width))


@pytest.mark.parametrize("kind", list(HEADS))
def test_logits_and_gradients(kind: str) -> None:
    head = build_head(kind, backbone("mae_tiny"), 5)  # type: ignore[arg-type]
    logits = head(features(64))
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_linear_reads_the_pooled_feature_alone() -> None:
    torch.manual_seed(0)
    head = build_head("linear", backbone("dinov2_base"), 10)
    weight, bias = head.linear.weight, head.linear.bias
    assert 0.018 < weight.std() < 0.022 and weight.abs().max() < 0.1 and not bias.any()
    given = features(768)
    assert torch.allclose(head(given), given.pooled @ weight.T + bias, atol=1e-5)


def test_initialised_from_the_global_random_state() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build_head("linear", backbone("mae_tiny"), 2).linear.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("classes", [-1, 0, 1])
def test_one_class_is_none(classes: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least 2, found {classes}"):
        build_head("linear", backbone("mae_tiny"), classes)
