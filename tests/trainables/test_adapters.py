"""Adapters: nothing at the start, alone in being trained, each with a gradient, merged without a trace."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces.backbone import backbone, table
from spaces.config import TrialConfig
from spaces.mistakes import Mistake
from trainables.adapters import MARK, add_adapters, merge_adapters
from trainables.backbones import build, weights_digest
from trainables.freezing import freeze, parameter_groups
from trainables.model import Model, build_model, load_trained_state, merged, trained_state

TINY = [name for name in table() if name.endswith("_tiny")]
LAYERS = {"all": 4, "attention": 2}
"""Linear layers of a block, for most families."""


def config(name: str, **changes: Any) -> TrialConfig:
    settings = {
        "backbone": name,
        "weights": "random",
        "metric": "accuracy",
        "epochs": 1,
        "seed": 0,
        "resolution": backbone(name).native,
        "policy": "none",
        "head_lr": 1e-3,
        "trained_blocks": "all",
        "adapter": "lora",
        "adapter_rank": 2,
        **changes,
    }
    return TrialConfig.model_validate(settings)


def built(name: str, **changes: Any) -> Model:
    torch.manual_seed(0)
    return build_model(config(name, **changes), 3)


def images(model: Model) -> Tensor:
    return torch.rand(4, 3, *model.backbone.resolution, generator=torch.Generator().manual_seed(1))


def loss(model: Model) -> Tensor:
    return nn.functional.cross_entropy(model(images(model)), torch.tensor([0, 1, 2, 0]))


def step(model: Model) -> None:
    groups = parameter_groups(
        model, head_lr=0.01, backbone_lr_ratio=1.0, layer_decay=1.0, weight_decay=0.0, head_weight_decay=0.0
    )
    optimizer = torch.optim.AdamW(groups)
    for _ in range(2):  # an update's second factor starts at 0, so the first one has a gradient from the second step on
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", TINY)
def test_same_at_the_start_all_trained_and_merged(name: str, kind: str) -> None:
    model, plain = built(name, adapter=kind), built(name, adapter="none")
    x = images(model)
    assert torch.allclose(model.eval()(x), plain.eval()(x), atol=1e-5)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    step(model.train())
    adapters = {key for key in before if MARK in key}
    depths = {model.backbone.depth_of(key.removeprefix("backbone.")) for key in adapters}
    assert depths == set(range(1, model.backbone.spec.blocks + 1))
    for key, parameter in model.named_parameters():
        trained = key in adapters or key.startswith("head.")
        assert parameter.requires_grad == trained, key
        assert torch.equal(parameter, before[key]) != trained, key
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == trained, key
    logits = model.eval()(x)
    same = merged(model, config(name, adapter=kind))
    assert same == config(name, adapter="none")
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(model(x), logits, atol=1e-4) and not torch.allclose(logits, plain(x), atol=1e-3)
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain(x), model(x))


@pytest.mark.parametrize("targets", ["all", "attention"])
@pytest.mark.parametrize("name", ["mae_tiny", "aimv2_tiny", "sam2_tiny", "vmamba_tiny"])
def test_where_they_are(name: str, targets: str) -> None:
    model = built(name, trained_blocks=1, adapter_targets=targets)
    where = {key.rsplit(f".{MARK}", 1)[0] for key, _ in model.backbone.named_parameters() if MARK in key}
    last = model.backbone.spec.blocks - 1
    assert all(f"blocks.{last}." in key for key in where)
    expected = LAYERS[targets] + (name == "aimv2_tiny" and targets == "all")
    assert len(where) == expected, where
    assert all(any(part in key for part in ("attn", "ss2d")) for key in where) == (targets == "attention")
    assert model.backbone.boundary == last


def test_change_of_stage_in_sam2_is_adapted_too() -> None:
    where = {key for key, _ in built("sam2_tiny").backbone.named_parameters() if MARK in key}
    assert any("blocks.1.proj." in key for key in where) and not any(
        "patch_embed" in key or "neck" in key for key in where
    )


@pytest.mark.parametrize("trained", [1, "all"])
def test_what_lies_before_them_is_constant(trained: int | str) -> None:
    model = built("dinov2_tiny", trained_blocks=trained)
    hidden = model.hidden(images(model))
    assert hidden.grad_fn is None
    step(model.train())
    assert torch.equal(model.hidden(images(model)), hidden)


def test_rank_and_scale() -> None:
    model = built("mae_tiny", adapter_rank=4)
    layer = model.backbone.trunk.blocks[0].attn.qkv
    assert layer.lora_A["default"].weight.shape == (4, 64) and layer.scaling["default"] == 2


def test_with_nothing_trained_there_are_none() -> None:
    model = built("mae_tiny", trained_blocks=0)
    assert not [key for key, _ in model.named_parameters() if MARK in key]
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_a_backbone_without_linear_layers() -> None:
    resnet = build("timm/test_resnet.r160_in1k", weights="random", resolution=(160, 160))
    freeze(resnet, "all")
    with pytest.raises(Mistake, match="no linear layers to adapt; write adapter: none"):
        add_adapters(resnet, "lora", 4)


def test_a_layer_whose_weight_is_read_instead_of_called_is_left_alone() -> None:
    small = {"build": {"embed_dim": 64, "depth": 2, "num_heads": 2}, "blocks": 2, "width": 64, "token_width": 64}
    spec = backbone("timm/beit_base_patch16_224.in22k_ft_in22k").model_copy(update=small)
    beit = build(spec, weights="random", resolution=(224, 224))
    names = beit.linear_layers()
    assert "blocks.0.attn.proj" in names and "blocks.0.attn.qkv" not in names
    assert beit.training


def test_head_and_backbone_are_what_they_are_without() -> None:
    model, plain = built("mae_tiny"), built("mae_tiny", adapter="none")
    assert torch.equal(model.head.linear.weight, plain.head.linear.weight)
    merge_adapters(model.backbone)
    assert weights_digest(model.backbone) == weights_digest(plain.backbone)


def test_trained_state_is_small_and_enough() -> None:
    model = built("vmamba_tiny")
    step(model.train())
    state = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    assert all(MARK in name or name.startswith("head.") for name in state)
    torch.manual_seed(5)
    fresh = build_model(config("vmamba_tiny"), 3)
    load_trained_state(fresh, state)
    assert torch.equal(fresh.eval()(images(model)), model.eval()(images(model)))


@pytest.mark.parametrize("name", ["mae_tiny", "vmamba_tiny"])
def test_one_graph_and_bfloat16(name: str) -> None:
    model = built(name).train()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images(model)), model(images(model)))
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(model)
    half.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_checkpointing_changes_nothing() -> None:
    gradients = []
    for enabled in (False, True):
        model = built("mae_tiny", grad_checkpointing=enabled).train()
        assert model.backbone.grad_checkpointing == enabled
        loss(model).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
