"""Freezing by depth: what is trained, what stays as it was, and how parameters are grouped."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from spaces.backbone import backbone, table
from spaces.config import TrialConfig
from spaces.mistakes import Mistake
from trainables.backbones import build
from trainables.freezing import freeze, parameter_groups
from trainables.heads import build_head
from trainables.model import Model
from trainables.outputs import Output

TINY = [name for name in table() if name.endswith("_tiny")]
SMALL = [*TINY, "timm/test_vit.r160_in1k", "timm/test_convnext.r160_in1k", "timm/test_resnet.r160_in1k"]
Trained = int | Literal["all"]
TRAINED: list[Trained] = [0, 1, 2, "all"]


def first_trained(model: Model, trained: Trained) -> int:
    """The first trained depth."""
    blocks = model.backbone.spec.blocks
    return 0 if trained == "all" else blocks + 2 if trained == 0 else blocks + 1 - trained


def block(model: Model, number: int) -> nn.Module:
    """One of the backbone's blocks, from 0."""
    depth_of, named = model.backbone.depth_of, model.backbone.named_modules()
    return next(module for name, module in named if name and depth_of(name) == number + 1)


def tiny(name: str, trained: Trained, drop_path: float = 0.0) -> Model:
    torch.manual_seed(0)
    made = build(name, weights="random", resolution=backbone(name).native, drop_path=drop_path)
    if "/" in name:  # timm starts the last norm of a residual branch at 0, which stops all gradients to it
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.01)
    freeze(made, trained)
    settings = {"backbone": name, "weights": "random", "metric": "accuracy", "epochs": 1, "seed": 0, "policy": "none"}
    config = TrialConfig.model_validate({**settings, "resolution": backbone(name).native, "head_lr": 1e-3})
    return Model(made, build_head("linear", made.spec, 3), Output(config, 3))


def groups(model: Model, **changes: float) -> list[dict]:
    settings = {
        "head_lr": 0.1,
        "backbone_lr_ratio": 0.5,
        "layer_decay": 0.8,
        "weight_decay": 0.05,
        "head_weight_decay": 0.01,
    }
    return parameter_groups(model, **{**settings, **changes})


def step(model: Model, images: Tensor) -> None:
    optimizer = torch.optim.AdamW(groups(model, weight_decay=0.0, head_weight_decay=0.0))
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("name", SMALL)
def test_after_a_step_exactly_the_trained_parameters_moved(name: str, trained: Trained) -> None:
    model = tiny(name, trained)
    blocks, first = model.backbone.spec.blocks, first_trained(model, trained)
    boundary = min(max(first - 1, 0), blocks)
    if "/" in name and boundary < blocks:
        boundary = 0  # can't be cut between
    assert freeze(model.backbone, trained) == model.backbone.boundary == boundary
    images = torch.rand(4, 3, *model.backbone.spec.native)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hidden = model.hidden(images).detach()
    step(model.train(), images)
    depths = {f"backbone.{name}": depth for name, depth in model.backbone.depth_of_parameters().items()}
    for key, parameter in model.named_parameters():
        expected = depths.get(key, 99) >= first
        assert torch.equal(parameter, before[key]) != expected, key
        assert (parameter.grad is not None) == parameter.requires_grad == expected, key
    constant = trained != "all" or "/" in name  # there, what is hidden is the image itself
    assert torch.equal(model.hidden(images), hidden) == constant


@pytest.mark.parametrize("name", TINY)
def test_frozen_parts_stay_in_eval_mode_and_store_nothing(name: str) -> None:
    model = tiny(name, 1, drop_path=0.5).train()
    frozen, trained = (block(model, model.backbone.spec.blocks - count) for count in (2, 1))
    assert not any(module.training for module in frozen.modules())
    assert all(module.training for module in trained.modules()) and model.head.training
    images = torch.rand(4, 3, *model.backbone.spec.native)
    stored: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: stored.append(tensor) or tensor, lambda tensor: tensor
    ):
        assert model.hidden(images).grad_fn is None
        assert not stored
        model(images)
        assert stored
    assert not torch.equal(model(images), model(images)), "drop-path should be on in the trained block"
    model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_dropout_is_off() -> None:
    model = tiny("mae_tiny", 1)
    for block in model.backbone.trunk.blocks:
        block.attn.proj_drop.p = block.mlp.drop1.p = block.attn.attn_drop.p = 0.5
    images = torch.rand(4, 3, 64, 64)
    assert torch.equal(model.train().hidden(images), model.eval().hidden(images))


@pytest.mark.parametrize("name", TINY)
def test_with_the_head_alone_there_is_no_drop_path(name: str) -> None:
    model = tiny(name, 0, drop_path=0.5)
    images = torch.rand(4, 3, *model.backbone.spec.native)
    assert torch.equal(model.train()(images), model.eval()(images))


def test_freezing_again_replaces_the_first() -> None:
    model = tiny("mae_tiny", 0).train()
    assert freeze(model.backbone, "all") == 0
    assert all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())
    assert freeze(model.backbone, 0) == 2
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not any(block.training for block in model.backbone.trunk.blocks)


@pytest.mark.parametrize("trained", [3, -1])
def test_more_blocks_than_there_are(trained: int) -> None:
    with pytest.raises(Mistake, match=f"mae_tiny has 2 blocks, found {trained}; write all"):
        freeze(build("mae_tiny", weights="random", resolution=(64, 64)), trained)


EXEMPT = ("cls_token", "reg_token", "pos_embed", "pos_embed_window", "query", "A_logs", "dt_projs_bias")


def exempt(name: str, parameter: Tensor) -> bool:
    return parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in EXEMPT


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("name", SMALL)
def test_groups_hold_each_trained_parameter_once(name: str, trained: Trained) -> None:
    model = tiny(name, trained)
    found = groups(model)
    assert len({group["name"] for group in found}) == len(found)
    where = {id(p): group for group in found for p in group["params"]}
    assert len(where) == sum(len(group["params"]) for group in found)
    assert where.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    last = model.backbone.spec.blocks + 1
    for key, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            group = where[id(parameter)]
            assert group["lr"] == pytest.approx(0.05 * 0.8 ** (last - model.backbone.depth_of(key))), key
            assert group["weight_decay"] == (0.0 if exempt(key, parameter) else 0.05), key
    assert where[id(model.head.linear.weight)]["lr"] == where[id(model.head.linear.bias)]["lr"] == 0.1
    assert where[id(model.head.linear.weight)]["weight_decay"] == 0.01
    assert where[id(model.head.linear.bias)]["weight_decay"] == 0.0


def test_groups_go_from_the_stem_to_the_head() -> None:
    names = [group["name"] for group in groups(tiny("dinov2_reg_tiny", "all"))]
    parts = list(dict.fromkeys(name.removesuffix(", no decay") for name in names))
    assert parts == ["stem", "block 1", "block 2", "last norm", "head"]
    assert [g["name"] for g in groups(tiny("mae_tiny", 0))] == ["head", "head, no decay"]
