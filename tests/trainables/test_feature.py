"""What a linear head reads: CLS tokens of the last blocks, with or without the mean of the patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spaces.backbone import backbone, table
from spaces.feature import Feature, parse_feature
from spaces.mistakes import Mistake
from tests.trainables.digits import Digits
from tests.trainables.test_backbones import GOLDEN, golden
from tests.trainables.test_head_group import configs
from trainables.backbones import Backbone, build
from trainables.head_group import fine_tune_heads
from trainables.head_member import shared
from trainables.loop import fine_tune
from trainables.model import build_model
from trainables.prefix import ActivationStore

TINY = [name for name in table() if name.endswith("_tiny")]
WITH_CLS = [name for name in TINY if backbone(name).cls_of_blocks]
READ = [(name, feature) for name in WITH_CLS for feature in ("pooled", "cls1", "cls1_mean", "cls2", "cls2_mean")]
READ += [("sam2_tiny", "trunk")]


def deep(name: str, blocks: int = 5) -> Backbone:
    """A tiny model with more blocks than its row has."""
    row = backbone(name)
    spec = row.model_copy(update={"name": "deep", "blocks": blocks, "build": {**row.build, "depth": blocks}})
    return build(spec, weights="random", resolution=(spec.native[0], 2 * spec.native[1]))


def images(model: Backbone) -> Tensor:
    return torch.randn(2, 3, *model.resolution, generator=torch.Generator().manual_seed(0))


def test_those_that_have_them() -> None:
    assert {backbone(name).family for name in WITH_CLS} == {"dinov2", "dinov3", "mae", "clip"}


@pytest.mark.parametrize(("name", "blocks", "mean"), [("cls1", 1, False), ("cls4_mean", 4, True), ("cls12", 12, False)])
def test_names(name: str, blocks: int, mean: bool) -> None:
    assert parse_feature(name) == Feature(blocks, mean) and Feature(blocks, mean).name == name
    assert backbone("dinov2_base").feature_width(name) == 768 * (blocks + mean)
    assert parse_feature("pooled").name == "pooled" and backbone("dinov2_base").feature_width("pooled") == 768
    assert parse_feature("trunk").name == "trunk" and backbone("sam2_b_plus").feature_width("trunk") == 896


@pytest.mark.parametrize("name", ["cls", "cls0", "cls04", "mean", "cls4_max", "Cls4", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"should be pooled, clsN .* clsN_mean .* or trunk"):
        parse_feature(name)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_reg", "mae", "clip_laion", "dinov3_tiny"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_tokens_are_those_of_timms_intermediate_layers(name: str, blocks: int) -> None:
    """timm's own way to what DINOv2's linear evaluation reads, with the authors' layout of weights."""
    model = (build(name, weights="random", resolution=(64, 64)) if name == "dinov3_tiny" else golden(name)).eval()
    x = images(model)
    layers: Any = model.trunk.forward_intermediates(
        x, blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    cls = torch.cat([prefix[:, 0] for _, prefix in layers], dim=1)
    for feature, expected in (
        (f"cls{blocks}", cls),
        (f"cls{blocks}_mean", torch.cat([cls, layers[-1][0].mean(dim=1)], dim=1)),
    ):
        model.give(feature)
        torch.testing.assert_close(model(x).pooled, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", WITH_CLS)
def test_cut_anywhere_it_is_bitwise_the_same(name: str) -> None:
    model = deep(name).eval()
    x = images(model)
    plain = model(x)
    for feature in ("cls1", "cls4", "cls5_mean"):
        model.give(feature)
        whole = model(x)
        assert torch.equal(whole.tokens, plain.tokens) and torch.equal(whole.prefix, plain.prefix)
        assert whole.pooled.shape[1] == model.spec.feature_width(feature)
        for boundary in model.boundaries:
            hidden = model.prefix(x, boundary)
            assert hidden.shape[1] == model.prefix(x, 0).shape[1] + model.carried(boundary)
            assert torch.equal(model.suffix(hidden, boundary).pooled, whole.pooled)
    assert [model.carried(boundary) for boundary in model.boundaries] == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "feature"), READ)
def test_a_trials_network_reads_it(digits: Digits, name: str, feature: str) -> None:
    for trained in (0, 1, "all"):
        torch.manual_seed(0)
        model = build_model(digits.config(name, feature=feature, trained_blocks=trained, drop_path=0.2), 10).train()
        assert model.head.linear.in_features == backbone(name).feature_width(feature)
        x = torch.rand(4, 3, *model.backbone.resolution)
        model(x).square().sum().backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        model.eval()
        assert torch.equal(model.from_hidden(model.hidden(x)), model(x))
        if trained == 0:
            assert model.cut == feature and model.hidden(x).shape == (4, model.head.linear.in_features)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("case", ["", "_alt"])
def test_sam2s_trunk_is_the_authors_before_the_neck(case: str) -> None:
    reference = load_file(GOLDEN / "sam2" / "reference.safetensors")
    x = reference[f"input{case}"]
    model = golden("sam2", tuple(x.shape[-2:])).eval()
    model.give("trunk")
    expected = reference[f"trunk_last{case}"].mean(dim=(2, 3))
    expected = (expected - expected.mean(dim=1, keepdim=True)) / (
        expected.var(dim=1, correction=0, keepdim=True) + 1e-6
    ).sqrt()
    for boundary in model.boundaries:
        found = model.suffix(model.prefix(x, boundary), boundary)
        torch.testing.assert_close(found.pooled, expected, rtol=1e-5, atol=1e-5)
    behind = reference[f"tokens{case}"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found.tokens, behind, rtol=1e-5, atol=1e-5)


def test_a_neck_that_nothing_reads_is_not_trained(digits: Digits) -> None:
    def neck(**changes: Any) -> set[bool]:
        model = build_model(digits.config("sam2_tiny", trained_blocks="all", **changes), 10)
        return {p.requires_grad for p in model.backbone.trunk.neck.parameters()}

    assert neck(feature="trunk") == {False} and neck() == {True}


def test_under_a_batch_norm_and_beside_heads_that_read_tokens(digits: Digits) -> None:
    model = build_model(digits.config(feature="cls2_mean", head="bn_linear", trained_blocks=0), 10)
    assert model.head.norm.num_features == 192
    attentive = build_model(digits.config(feature="cls2_mean", head="attentive", trained_blocks=0), 10)
    assert attentive.head.linear.in_features == 64 and attentive.cut == "tokens"


@pytest.mark.parametrize("trained", [0, 1])
def test_kept_and_live_are_the_same(digits: Digits, trained: int, tmp_path: Any) -> None:
    store = ActivationStore(tmp_path / "activations", 1 << 30)
    results = []
    for feature in ("pooled", "cls2", "cls2_mean"):
        config = digits.config(feature=feature, trained_blocks=trained, level=1, epochs=1)
        data = digits.data(config)
        live, kept, again = (fine_tune(config, data, store=where) for where in (None, store, store))
        np.testing.assert_allclose(kept.reports[0].step_losses, live.reports[0].step_losses, rtol=1e-5)
        np.testing.assert_array_equal(again.reports[0].step_losses, kept.reports[0].step_losses)
        if trained == 0:
            assert kept.counts.computed == len(data.train) and again.counts.computed == 0
        results.append(live.reports[0].step_losses)
    assert len(set(results)) == 3


def test_heads_in_one_pass(digits: Digits) -> None:
    several = configs(digits, feature="cls2_mean", level=1, epochs=2)
    data = digits.data(several[0])
    members, _ = fine_tune_heads(several, data)
    for config, member in zip(several, members, strict=True):
        alone = fine_tune(config, data)
        for mine, its in zip(member.reports, alone.reports, strict=True):
            np.testing.assert_allclose(mine.step_losses, its.step_losses, rtol=1e-5)
    assert shared(several[0].model_copy(update={"feature": "cls2"})) != shared(several[0])


@pytest.mark.parametrize("name", sorted(set(TINY) - set(WITH_CLS)))
def test_families_that_have_none(digits: Digits, name: str) -> None:
    with pytest.raises(Mistake) as caught:
        build_model(digits.config(name, feature="cls1"), 10)
    assert str(caught.value) == f"feature: {name} has no CLS token in its blocks, found cls1; write pooled."


@pytest.mark.parametrize("name", sorted(set(TINY) - {"sam2_tiny"}))
def test_families_without_a_neck(digits: Digits, name: str) -> None:
    with pytest.raises(Mistake, match=f"feature: {name} has no neck, found trunk; write pooled"):
        build_model(digits.config(name, feature="trunk"), 10)


def test_more_blocks_than_there_are(digits: Digits) -> None:
    with pytest.raises(Mistake, match="feature: dinov2_tiny has 2 blocks, found cls4"):
        build_model(digits.config(feature="cls4"), 10)
