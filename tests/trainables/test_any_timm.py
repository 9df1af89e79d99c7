"""Any model of timm: its row from timm's own description, its order, its weights."""

import re
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from spaces.backbone import backbone
from spaces.config import SearchConfig, TrialConfig
from spaces.library import assemble, trial_config
from spaces.mistakes import Mistake
from trainables.backbones import build
from trainables.model import build_model, trained_state

VIT, CONVNEXT, RESNET = "timm/test_vit.r160_in1k", "timm/test_convnext.r160_in1k", "timm/test_resnet.r160_in1k"


@pytest.mark.parametrize(
    ("name", "blocks", "width", "tokens", "step", "native"),
    [
        (VIT, 6, 64, 64, 16, 160),
        (CONVNEXT, 9, 64, 64, 32, 160),
        (RESNET, 4, 96, 96, 32, 160),
        ("timm/convnext_tiny.in12k", 18, 768, 768, 32, 224),
        ("timm/mobilenetv3_large_100.ra_in1k", 16, 1280, 960, 32, 224),
        ("timm/swinv2_tiny_window8_256.ms_in1k", 12, 768, 768, 32, 256),
    ],
)
def test_rows(name: str, blocks: int, width: int, tokens: int, step: int, native: int) -> None:
    spec = backbone(name)
    assert (spec.family, spec.name) == ("timm", name)
    found = (spec.blocks, spec.width, spec.token_width, spec.multiple_of, spec.native)
    assert found == (blocks, width, tokens, step, (native, native))
    assert spec.mean_std == (timm.get_pretrained_cfg(spec.timm).mean, timm.get_pretrained_cfg(spec.timm).std)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm/convnext_tinny.in12k", 'no such model or weights. Did you mean "convnext_tiny"?'),
        ("timm/convnext_tiny.in12", 'no such model or weights. Did you mean "convnext_tiny.in12k"?'),
        ("timm/caformer_s18.sail_in1k", "doesn't say in which order the parts of MetaFormer come; name another model."),
        ("timn/convnext_tiny.in12k", 'unknown backbone "timn/convnext_tiny.in12k".'),
    ],
)
def test_names_that_are_none(name: str, told: str) -> None:
    with pytest.raises(Mistake, match=re.escape(told)):
        backbone(name)


@pytest.mark.parametrize("name", [VIT, CONVNEXT, RESNET])
def test_features_are_timms_own(name: str) -> None:
    spec = backbone(name)
    model = build(name, weights="random", resolution=spec.native).eval()
    plain = timm.create_model(spec.timm, num_classes=0).eval()
    plain.load_state_dict(model.trunk.state_dict(), strict=True)
    x = torch.randn(2, 3, 160, 160)
    features = model(x)
    assert torch.equal(features.pooled, plain(x))
    unpooled = plain.forward_features(x)
    patches = unpooled[:, 1:] if name == VIT else unpooled.flatten(2).transpose(1, 2)
    assert torch.equal(features.tokens, patches)
    assert features.prefix.shape[1] == (1 if name == VIT else 0)


def test_order_is_that_of_the_network() -> None:
    model = build(CONVNEXT, weights="random", resolution=(160, 160))
    depths = model.depth_of_parameters()
    in_order = [name for name in depths if "stages" in name and name.endswith("conv_dw.weight")]
    assert [depths[name] for name in in_order] == sorted({depths[name] for name in in_order})
    assert depths["trunk.stem.0.weight"] == 0 and depths["trunk.head.norm.weight"] == model.spec.blocks + 1
    assert model.depth_of("trunk.stages.3") == model.depth_of("trunk") == 0
    assert model.depth_of("trunk.stages.3.blocks.1.drop_path") == model.depth_of("trunk.stages.3.blocks.1.norm")


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    settings = {"backbone": RESNET, "weights": "random", "metric": "accuracy", "epochs": 1, "seed": 0, "policy": "none"}
    model = build_model(
        TrialConfig.model_validate({**settings, "resolution": [160, 160], "head_lr": 1e-3, "trained_blocks": 1}), 3
    ).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("running_mean")}
    model(torch.rand(4, 3, 160, 160))
    moved = {name for name, buffer in model.named_buffers() if name in before and not torch.equal(buffer, before[name])}
    assert moved and all("layer4" in name for name in moved) and len(moved) < len(before)
    assert moved <= trained_state(model).keys()
    assert not [name for name in trained_state(model) if "layer3" in name]


def test_what_only_the_pooled_feature_needs() -> None:
    named = {"timm/test_vit.r160_in1k": set(), CONVNEXT: {"trunk.head.norm.weight", "trunk.head.norm.bias"}}
    for name, expected in named.items():
        model = build(name, weights="random", resolution=(160, 160)).train()
        model.freeze_below(2)
        flags = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
        assert model.for_pooled_alone() == expected
        assert flags == ([p.requires_grad for p in model.parameters()], [m.training for m in model.modules()])
        assert all(p.grad is None for p in model.parameters())


def test_weights_from_the_cache_and_another_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Mistake, match="huggingface.co/timm/test_vit.r160_in1k"):
        build(VIT, weights="pretrained", resolution=(160, 160))
    cached = tmp_path / "models--timm--test_vit.r160_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    whole = timm.create_model("test_vit.r160_in1k", pretrained=False)  # with its classifier, as on the hub
    save_file(whole.state_dict(), cached / "snapshots" / "abc" / "model.safetensors")
    model = build(VIT, weights="pretrained", resolution=(160, 160)).eval()
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(model(x).pooled, whole.eval().forward_head(whole.forward_features(x), pre_logits=True))
    larger = build(VIT, weights="pretrained", resolution=(192, 160))
    whole.set_input_size(img_size=(192, 160))
    assert torch.equal(larger.trunk.pos_embed, whole.pos_embed) and larger.trunk.pos_embed.shape[1] == 121


def test_in_a_search() -> None:
    settings = {"name": "a", "dataset": {"reader": "folder", "root": "x"}, "backbones": [RESNET, "mae_tiny"]}
    changes = {f"layer_decay@{RESNET}": 0.5}
    config = SearchConfig.parse({**settings, "weights": "random", "space": changes}, "s.yaml")
    space = assemble(config)
    point = space.complete({"backbone": RESNET, "trained_blocks": "all"})
    assert point["layer_decay"] == 0.5
    trial = trial_config(config, point, metric="accuracy", policy="none", seed=0)
    assert trial.resolution == (160, 160)
    assert 4 not in space.problems({"backbone": RESNET, "trained_blocks": 2})
    assert space.problems({"backbone": RESNET, "trained_blocks": 4})
