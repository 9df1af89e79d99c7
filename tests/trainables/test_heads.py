"""Heads: features to logits."""

import pytest
import torch
from torch import nn

from spaces.backbone import backbone
from spaces.config import Head, TrialConfig
from trainables.backbones import Features
from trainables.heads import HEADS, DeitHead, build_head
from trainables.model import build_model


def config(head: Head) -> TrialConfig:
    settings = {"weights": "random", "metric": "accuracy", "epochs": 1, "policy": "none", "head_lr": 1e-3, "seed": 0}
    native = backbone("mae_tiny").native
    return TrialConfig.model_validate({"backbone": "mae_tiny", "resolution": native, "head": head, **settings})


def features(width: int, batch: int = 3) -> Features:
    return Features(torch.randn(batch, 4, width), torch.randn(batch, 1, width), torch.randn(batch, width))


def read(head: nn.Module, given: Features) -> torch.Tensor:
    return given.tokens if head.reads_tokens else given.pooled


def made(kind: Head) -> nn.Module:
    return DeitHead(64, 5, depth=2, inner=48, heads=3) if kind == "deit" else build_head(kind, backbone("mae_tiny"), 5)


@pytest.mark.parametrize("kind", list(HEADS))
def test_logits_and_gradients(kind: Head) -> None:
    torch.manual_seed(0)
    head = made(kind)
    logits = head(read(head, features(64)))
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("kind", list(HEADS))
def test_reads_what_it_says(kind: Head) -> None:
    model = build_model(config(head="attentive" if kind == "deit" else kind), 5).eval()
    model.head = made(kind).eval()
    images = torch.rand(2, 3, *backbone("mae_tiny").native)
    features = model.backbone((images - model.mean) / model.std)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.head(read(model.head, features)))
    assert model.cut == ("tokens" if kind in ("attentive", "deit") else "pooled")


@pytest.mark.parametrize("kind", ["attentive", "deit"])
def test_tokens_have_no_order_of_their_own(kind: Head) -> None:
    head = made(kind).eval()
    tokens = features(64).tokens
    assert torch.allclose(head(tokens.flip(1)), head(tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "width", "heads"), [("aimv2_large", 1024, 16), ("sam2_l", 256, 4), ("coca_tiny", 48, 1)]
)
def test_attentive_takes_the_width_of_the_tokens(name: str, width: int, heads: int) -> None:
    head = build_head("attentive", backbone(name), 2)
    assert head.pool.num_heads == heads and head.linear.in_features == width
    assert head(features(width).tokens).shape == (3, 2)


def test_attentive_is_small_and_the_papers_head_is_not() -> None:
    with torch.device("meta"):
        count = {
            kind: sum(p.numel() for p in build_head(kind, backbone("dinov2_base"), 5).parameters()) for kind in HEADS
        }
    assert count["linear"] == count["bn_linear"] == 768 * 5 + 5
    assert count["attentive"] == pytest.approx(1.2e6, rel=0.05)
    assert count["deit"] == pytest.approx(85.6e6, rel=0.01)


def test_batchnorm_is_batchnorm() -> None:
    head = made("bn_linear")
    given = features(64, batch=50).pooled * 7 + 3
    expected = head.linear((given - given.mean(0)) / given.std(0, correction=0))
    assert torch.allclose(head(given), expected, atol=1e-4)
    for _ in range(100):
        head(given)
    assert torch.allclose(head.eval()(given), expected, atol=0.1)


def test_linear_reads_the_pooled_feature_alone() -> None:
    torch.manual_seed(0)
    head = build_head("linear", backbone("dinov2_base"), 10)
    weight, bias = head.linear.weight, head.linear.bias
    assert 0.018 < weight.std() < 0.022 and weight.abs().max() < 0.1 and not bias.any()
    given = features(768).pooled
    assert torch.allclose(head(given), given @ weight.T + bias, atol=1e-5)


def test_initialised_from_the_global_random_state() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build_head("linear", backbone("mae_tiny"), 2).linear.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("outputs", [-1, 0])
def test_no_outputs(outputs: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least 1, found {outputs}"):
        build_head("linear", backbone("mae_tiny"), outputs)


@pytest.mark.parametrize("kind", list(HEADS))
def test_the_last_layer_is_in_fp32_whatever_computes_before_it(kind: Head) -> None:
    head = made(kind).eval()
    given = read(head, features(64)).bfloat16()
    seen: list[torch.Tensor] = []
    head.linear.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(given)
    before, output = seen
    assert logits.dtype == torch.float32
    torch.testing.assert_close(output, before.float() @ head.linear.weight.T + head.linear.bias, atol=1e-5, rtol=1e-5)
    if not head.reads_tokens:
        assert torch.equal(logits, head(given.float())), "nothing of it is in bf16"
