"""Backbones: the authors' own outputs, one contract for all families, and every way that weights can be wrong."""

import json
import math
import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor

from spaces.backbone import BackboneSpec, backbone, table
from spaces.mistakes import Mistake
from trainables import sharding
from trainables.backbones import Backbone, build, weights_digest
from trainables.backbones.families import FAMILIES
from trainables.backbones.weights import source_of

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
LAYOUTS = {
    # the row of the table that the tiny model of this layout is like
    "dinov2": "dinov2_small",
    "dinov2_reg": "dinov2_reg_small",
    "dinov2_swiglu": "dinov2_giant",
    "mae": "mae_base",
    "aimv2": "aimv2_large",
    "aimv2_hf": "aimv2_large",
    "clip_openai": "clip_base",
    "clip_laion": "clip_laion_base",
    "coca": "coca_base",
    "sam2": "sam2_t",
    "vmamba_t": "vmamba_t",
    "vmamba_s": "vmamba_s",
}
CASES = [
    (layout, case)
    for layout in LAYOUTS
    for case in ("", "_alt", "_rect")
    if f"input{case}" in load_file(GOLDEN / layout / "reference.safetensors")
]
TINY = [name for name in table() if name.endswith("_tiny")]
SMALL = [*TINY, "timm/test_vit.r160_in1k", "timm/test_convnext.r160_in1k", "timm/test_resnet.r160_in1k"]


def golden_spec(layout: str) -> BackboneSpec:
    config = json.loads((GOLDEN / layout / "config.json").read_text())
    row = backbone(LAYOUTS[layout])
    original = config["build"]
    blocks, width, multiple_of = config["depth"], config["embed_dim"], row.multiple_of
    build = {"embed_dim": width, "depth": blocks, "num_heads": config["heads"]}
    if layout == "coca":
        width, multiple_of = config["out_dim"], config["patch"]
        build |= {"patch_size": config["patch"], "pooler_heads": config["pooler_heads"], "queries": config["n_queries"]}
    elif layout == "sam2":
        width, blocks = 256, sum(original["trunk"]["stages"])
        names = ("embed_dim", "num_heads", "stages", "global_att_blocks")
        build = {name: original["trunk"][name] for name in names}
    elif layout.startswith("vmamba"):
        dims, depths = original["dims"], original["depths"]
        blocks, width = sum(depths), dims[-1]
        build = {"depths": depths, "width": dims[0], "ssm_ratio": original["ssm_ratio"]}
    native = config["img_size"]
    changes = {
        "name": f"golden_{layout}",
        "trunk_width": 8 * config["embed_dim"] if layout == "sam2" else None,
        "build": build,
        "blocks": blocks,
        "width": width,
        "multiple_of": multiple_of,
        "native": (native, native) if isinstance(native, int) else tuple(native),
    }
    return row.model_copy(update=changes)


def golden_file(layout: str) -> Path:
    return next((GOLDEN / layout).glob("checkpoint.*"))


def golden(layout: str, resolution: tuple[int, int] | None = None, **options: float) -> Backbone:
    spec = golden_spec(layout)
    return build(spec, weights=golden_file(layout), resolution=resolution or spec.native, **options)


def images(spec: BackboneSpec, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *spec.native, generator=torch.Generator().manual_seed(0))


def flat(layout: str) -> dict[str, Tensor]:
    path = golden_file(layout)
    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return dict(content.get("model", content))


def sentences(spec: BackboneSpec | str, weights: str | Path, resolution: tuple[int, int] | None = None) -> str:
    native = (backbone(spec) if isinstance(spec, str) else spec).native
    with pytest.raises(Mistake) as caught:
        build(spec, weights=weights, resolution=resolution or native)
    return str(caught.value)


@pytest.mark.parametrize(("layout", "case"), CASES)
def test_features_are_the_authors_own(layout: str, case: str) -> None:
    reference = load_file(GOLDEN / layout / "reference.safetensors")
    x = reference[f"input{case}"]
    height, width = x.shape[-2:]
    with torch.no_grad():
        features = golden(layout, (height, width)).eval()(x)
    for name in ("tokens", "prefix", "pooled"):
        found = getattr(features, name)
        if name + case not in reference:
            assert name == "prefix" and found.shape[1] == 0
            continue
        expected = reference[name + case]
        expected = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected  # maps as tokens
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_dinov3_is_timms(tmp_path: Path) -> None:
    """There is no reference of its authors here: timm's model, with random numbers in every weight, stands for it."""
    spec = backbone("dinov3_tiny")
    plain = timm.create_model(spec.timm, num_classes=0, global_pool="", **spec.build).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(plain.state_dict(), tmp_path / "file.pth")
    features = build(spec, weights=tmp_path / "file.pth", resolution=(96, 64)).eval()(x := torch.randn(2, 3, 96, 64))
    assert torch.equal(torch.cat([features.prefix, features.tokens], dim=1), plain.forward_features(x))


def test_dinov3_in_its_authors_layout(tmp_path: Path) -> None:
    """Their keys, of which the key's bias, masked there, is anything; timm's own conversion is the reference."""
    spec = backbone("dinov3_tiny")
    plain = timm.create_model(spec.timm, num_classes=0, global_pool="", **spec.build).eval()
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    torch.manual_seed(0)
    file: dict[str, Tensor] = {"mask_token": torch.randn(1, 64), "rope_embed.periods": torch.randn(8)}
    for key, tensor in plain.state_dict().items():
        if not key.endswith("_bias"):
            file[re.sub("|".join(names), lambda match: names[match[0]], key)] = torch.randn_like(tensor)
    for block in range(spec.blocks):
        file[f"blocks.{block}.attn.qkv.bias"] = torch.randn(192)
        file[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(192)
    torch.save(file, tmp_path / "file.pth")
    plain.load_state_dict(checkpoint_filter_fn(file, plain), strict=True)
    found = build(spec, weights=tmp_path / "file.pth", resolution=(64, 96)).eval()
    features = found(x := torch.randn(2, 3, 64, 96))
    assert torch.equal(torch.cat([features.prefix, features.tokens], dim=1), plain.forward_features(x))
    torch.save(plain.state_dict(), tmp_path / "timm.pth")
    assert weights_digest(build(spec, weights=tmp_path / "timm.pth", resolution=(64, 96))) == weights_digest(found)
    assert "looks like DINOv3;" in sentences("mae_base", tmp_path / "file.pth")


def test_files_of_several_processes(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{key}": t for key, t in flat("clip_laion").items()}}, tmp_path / "file.pt")
    found = build(golden_spec("clip_laion"), weights=tmp_path / "file.pt", resolution=(80, 80))
    assert weights_digest(found) == weights_digest(golden("clip_laion"))


class Nested(torch.nn.Module):
    """Modules within modules, with weights of given names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            head, _, rest = key.partition(".")
            if rest:
                inner.setdefault(head, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(head, torch.nn.Parameter(tensor))
            else:
                self.register_buffer(head, tensor)
        for name, weights in inner.items():
            self.add_module(name, Nested(weights))

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("half", [False, True])
def test_openais_own_layout_is_torchscript(tmp_path: Path, half: bool) -> None:
    """Their files are archives of scripted modules, in half precision."""
    state = {k: t.half() if half and t.is_floating_point() else t for k, t in flat("clip_openai").items()}
    torch.jit.script(Nested(state)).save(str(tmp_path / "ViT-B-16.pt"))
    found = build(
        golden_spec("clip_openai"), weights=tmp_path / "ViT-B-16.pt", resolution=golden_spec("clip_openai").native
    )
    for key, tensor in golden("clip_openai").state_dict().items():
        expected = tensor.half().float() if half else tensor
        assert torch.equal(found.state_dict()[key], expected)


def test_torchscript_that_runs_code_or_is_another_model(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    assert "is of no layout known here" in sentences(golden_spec("clip_openai"), tmp_path / "script.pt")
    canary = tmp_path / "ran"
    with zipfile.ZipFile(tmp_path / "script.pt") as good, zipfile.ZipFile(tmp_path / "evil.pt", "w") as evil:
        for name in good.namelist():
            content = pickle.dumps(Touching(canary), 2) if name.endswith("/data.pkl") else good.read(name)
            evil.writestr(name, content)
    told = sentences(golden_spec("clip_openai"), tmp_path / "evil.pt")
    assert "objects that could run code" in told and not canary.exists()


class Touching:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(("taller", "wider"), [(1, 1), (0, 2), (3, -1)])
@pytest.mark.parametrize("layout", ["aimv2", "clip_laion", "coca", "dinov2_reg"])
def test_positions_are_resampled_with_antialiasing(layout: str, taller: int, wider: int) -> None:
    spec = golden_spec(layout)
    height, width = spec.native
    native = golden(layout)
    larger = golden(layout, (height + taller * spec.multiple_of, width + wider * spec.multiple_of))
    grid, new = ([side // spec.multiple_of for side in m.resolution] for m in (native, larger))
    others = 0 if native.trunk.no_embed_class else native.trunk.num_prefix_tokens
    expected = resample_abs_pos_embed(native.trunk.pos_embed, new, grid, num_prefix_tokens=others, antialias=True)
    assert torch.allclose(larger.trunk.pos_embed, expected, atol=1e-6)


@pytest.mark.parametrize("resolution", [(64, 64), (96, 64), (144, 112)])
def test_mae_positions_are_resampled_without_antialiasing(resolution: tuple[int, int]) -> None:
    grid = [side // 16 for side in resolution]
    expected = resample_abs_pos_embed(flat("mae")["pos_embed"], grid, [6, 6], num_prefix_tokens=1, antialias=False)
    assert torch.allclose(golden("mae", resolution).trunk.pos_embed, expected, atol=1e-6)


def test_a_file_made_for_another_square_size_than_the_row_says() -> None:
    spec = golden_spec("dinov2").model_copy(update={"native": (518, 518)})
    found = build(spec, weights=golden_file("dinov2"), resolution=(70, 70))
    assert torch.equal(found.trunk.pos_embed, golden("dinov2", (70, 70)).trunk.pos_embed)


MILLIONS = {
    # as published; without classifier and text tower, SAM2 without its neck, VMamba with 1,000 classes
    "dinov2_small": 22, "dinov2_base": 87, "dinov2_large": 304, "dinov2_giant": 1136,
    "dinov2_reg_small": 22, "dinov2_reg_base": 87, "dinov2_reg_large": 304, "dinov2_reg_giant": 1136,
    "dinov3_small": 22, "dinov3_base": 86, "dinov3_large": 303,
    "mae_base": 86, "mae_large": 303, "mae_huge": 631,
    "aimv2_large": 309, "aimv2_huge": 681,
    "sam2_t": 27, "sam2_s": 34, "sam2_b_plus": 69, "sam2_l": 212,
    "clip_base": 86, "clip_large": 303, "clip_laion_base": 86,
    "coca_base": 89, "coca_large": 307,
    "vmamba_t": 30.249, "vmamba_s": 50.148, "vmamba_b": 88.558,
}  # fmt: skip


@pytest.mark.parametrize("name", list(table()))
def test_the_table_says_what_the_models_are(name: str) -> None:
    spec = backbone(name)
    trunk = FAMILIES[spec.family].trunk(spec, spec.native, 0.0, "meta")  # compares blocks and width itself
    if spec.pretrained:
        counted = trunk.hiera if spec.family == "sam2" else trunk
        classifier = 1000 * spec.width + 1000 if spec.family == "vmamba" else 0
        digits = 3 if spec.family == "vmamba" else 0
        millions = (sum(p.numel() for p in counted.parameters()) + classifier) / 1e6
        assert round(millions, digits) == MILLIONS[name]
    patches = getattr(trunk, "patch_embed", None)
    assert patches is None or patches.patch_size == (spec.multiple_of, spec.multiple_of)
    if spec.pretrained:
        source = source_of(spec)
        assert source.address.startswith("https://")
        assert source.repository or source.address.endswith(f"/{source.file}")
    if spec.pretrained and spec.timm:
        known = timm.get_pretrained_cfg(spec.timm)
        assert (known.mean, known.std) == spec.mean_std
        assert known.input_size == (3, *spec.native)


def test_the_table_s_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="says 3 blocks of width 64, the model has 2 of width 64"):
        build(backbone("mae_tiny").model_copy(update={"blocks": 3}), weights="random", resolution=(64, 64))


PREFIX = {"dinov2_tiny": 1, "dinov2_reg_tiny": 5, "dinov3_tiny": 5, "mae_tiny": 1, "clip_tiny": 1, "coca_tiny": 1}


@pytest.mark.parametrize("name", TINY)
def test_shapes(name: str) -> None:
    spec = backbone(name)
    resolution = (spec.native[0] + spec.multiple_of, spec.native[1])
    model = build(name, weights="random", resolution=resolution).eval()
    features = model(torch.randn(3, 3, *resolution))
    stride = {"sam2_tiny": 16, "vmamba_tiny": 32}.get(name, spec.multiple_of)
    patches = math.prod(math.ceil(side / stride) for side in resolution)
    assert features.tokens.shape == (3, 8 if name == "coca_tiny" else patches, spec.width)
    assert features.prefix.shape == (3, PREFIX.get(name, 0), spec.width)
    assert features.pooled.shape == (3, spec.width)


@pytest.mark.parametrize("name", SMALL)
def test_cut_anywhere_features_are_bitwise_the_same(name: str) -> None:
    model = build(name, weights="random", resolution=backbone(name).native).eval()
    x = images(model.spec)
    whole = model(x)
    assert model.boundaries == ((0, model.spec.blocks) if "/" in name else tuple(range(model.spec.blocks + 1)))
    for boundary in model.boundaries:
        hidden = model.prefix(x, boundary)
        assert isinstance(hidden, Tensor) and len(hidden) == len(x)
        for cut, uncut in zip(model.suffix(hidden, boundary), whole, strict=True):
            assert torch.equal(cut, uncut)
    beyond = model.spec.blocks + 1
    with pytest.raises(ValueError, match=f"boundaries 0 .*{beyond - 1}, found {beyond}"):
        model.suffix(hidden, beyond)


STEMS = {
    "aimv2_tiny": {"trunk.pos_embed", "trunk.patch_embed.proj.weight", "trunk.patch_embed.norm.weight"},
    "clip_tiny": {"trunk.cls_token", "trunk.pos_embed", "trunk.patch_embed.proj.weight", "trunk.norm_pre.weight"},
    "dinov3_tiny": {"trunk.cls_token", "trunk.reg_token", "trunk.patch_embed.proj.weight"},
    "sam2_tiny": {"trunk.hiera.pos_embed", "trunk.hiera.pos_embed_window", "trunk.hiera.patch_embed.proj.weight"},
    "vmamba_tiny": {"trunk.stem.first.weight", "trunk.stem.second_norm.weight"},
}
TAILS = {
    "coca_tiny": {"trunk.pooler.query", "trunk.pooler.q.weight", "trunk.pooler.proj.weight"},
    "aimv2_tiny": {"trunk.norm.weight"},
    "sam2_tiny": {"trunk.neck.lateral.weight", "trunk.neck.deep.bias"},
}


@pytest.mark.parametrize("name", TINY)
def test_depth_goes_from_stem_to_last_norm(name: str) -> None:
    model = build(name, weights="random", resolution=backbone(name).native)
    depths = model.depth_of_parameters()
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert set(depths.values()) == set(range(model.spec.blocks + 2))
    by_depth = {depth: {name for name, d in depths.items() if d == depth} for depth in set(depths.values())}
    stem = STEMS.get(name, {"trunk.cls_token", "trunk.pos_embed", "trunk.patch_embed.proj.weight"})
    assert stem <= by_depth[0]
    assert all(".blocks.1." in name for name in by_depth[2])
    assert TAILS.get(name, {"trunk.norm.weight", "trunk.norm.bias"}) <= by_depth[model.spec.blocks + 1]
    assert not any(".blocks." in name for name in by_depth[0] | by_depth[model.spec.blocks + 1])


@pytest.mark.parametrize("name", SMALL)
def test_one_graph(name: str) -> None:
    model = build(name, weights="random", resolution=backbone(name).native).eval()
    x = images(model.spec)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x).pooled, model(x).pooled)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_finite(name: str) -> None:
    model = build(name, weights="random", resolution=backbone(name).native).eval()
    x = images(model.spec)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = model(x)
    assert all(part.isfinite().all() for part in half)
    assert torch.allclose(half.pooled.float(), model(x).pooled, atol=0.1)


@pytest.mark.parametrize("name", [*TINY, "timm/test_vit.r160_in1k", "timm/test_convnext.r160_in1k"])
def test_grad_checkpointing_changes_memory_only(name: str) -> None:
    gradients = []
    for enabled in (False, True):
        model = build(name, weights="random", resolution=backbone(name).native, drop_path=0.5)
        model.set_grad_checkpointing(enabled)
        kept: list[int] = []
        torch.manual_seed(1)

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.train()(images(model.spec)).pooled.square().sum()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        gradients[-1]["kept"] = torch.tensor(float(sum(kept)))
    plain, checkpointed = gradients
    assert checkpointed.pop("kept") < 0.6 * plain.pop("kept")
    for key, gradient in plain.items():
        assert gradient is not None and torch.equal(gradient, checkpointed[key]), key


@pytest.mark.parametrize("name", TINY)
def test_blocks_can_be_shared_out(name: str) -> None:
    """The modules whose weights several workers share out hold all that belongs to blocks and nothing else, and are
    called themselves, since their weights are together only then."""
    spec = backbone(name)
    built = build(name, weights="random", resolution=spec.native)
    shared = list(sharding.blocks(built))
    called: set[int] = set()
    for module in shared:
        module.register_forward_hook(lambda module, given, result: called.add(id(module)))
    built(images(spec))
    assert called == {id(module) for module in shared}
    held = [id(weight) for module in shared for weight in module.parameters()]
    of_blocks = {id(p) for n, p in built.named_parameters() if 1 <= built.depth_of(n) <= spec.blocks}
    assert len(set(held)) == len(held) and set(held) == of_blocks


def test_drop_path_rises_with_depth() -> None:
    spec = backbone("mae_tiny").model_copy(update={"blocks": 3, "build": {"embed_dim": 64, "depth": 3, "num_heads": 2}})
    model = build(spec, weights="random", resolution=spec.native, drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.trunk.blocks]
    assert rates == pytest.approx([0.0, 0.15, 0.3])


def test_random_weights_are_the_backbone_s_own() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = build("mae_tiny", weights="random", resolution=(64, 64))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    again = build("mae_tiny", weights="random", resolution=(64, 64), drop_path=0.2)
    assert weights_digest(first) == weights_digest(again)
    other = backbone("mae_tiny").model_copy(update={"name": "mae_other"})
    assert weights_digest(build(other, weights="random", resolution=(64, 64))) != weights_digest(first)
    larger = build("mae_tiny", weights="random", resolution=(96, 64))
    assert torch.equal(larger.trunk.blocks[1].mlp.fc1.weight, first.trunk.blocks[1].mlp.fc1.weight)


def test_digest_sees_every_bit_name_and_shape() -> None:
    model = build("mae_tiny", weights="random", resolution=(64, 64))
    digests = {weights_digest(model)}
    with torch.no_grad():
        model.trunk.norm.bias[0] = 1e-30
        digests.add(weights_digest(model))
        model.trunk.norm.bias[0] = 0.0
    assert weights_digest(model) in digests
    model.trunk.cls_token = torch.nn.Parameter(model.trunk.cls_token.detach().reshape(1, 64, 1))
    digests.add(weights_digest(model))
    model.trunk.other_token = model.trunk.cls_token
    del model.trunk.cls_token
    digests.add(weights_digest(model))
    assert len(digests) == 4 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_training_leaves_the_file_alone(tmp_path: Path) -> None:
    for path in (tmp_path / "weights.pth", tmp_path / "weights.safetensors"):
        save_file(flat("mae"), path) if path.suffix == ".safetensors" else torch.save(flat("mae"), path)
        before = path.read_bytes()
        model = build(golden_spec("mae"), weights=path, resolution=(96, 96))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        del model
        assert path.read_bytes() == before


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def test_layouts_in_circulation(tmp_path: Path) -> None:
    expected = weights_digest(golden("mae"))
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 64)}
    other = {key: tensor + 1 for key, tensor in flat("mae").items()}
    contents: dict[str, object] = {
        "flat": flat("mae"),
        "with decoder": {"model": flat("mae") | decoder},
        "training": {"model": flat("mae"), "args": Namespace(lr=1.0), "epoch": 3},
        "state_dict": {"state_dict": flat("mae")},
        "with an average": {"model": flat("mae"), "model_ema": other, "optimizer": {"state": {}}, "scaler": None},
        "average before": {"state_dict_ema": other, "state_dict": flat("mae")},
        "average alone": {"model_ema": flat("mae"), "epoch": 3},
        "torch's average": {f"module.{key}": t for key, t in flat("mae").items()} | {"n_averaged": torch.tensor(3)},
    }
    for name, content in contents.items():
        for save in (torch.save, save_legacy):
            save(content, tmp_path / "file.pth")
            found = build(golden_spec("mae"), weights=tmp_path / "file.pth", resolution=(96, 96))
            assert weights_digest(found) == expected, name
    half = {key: tensor.half() for key, tensor in flat("mae").items()}
    torch.save(half, tmp_path / "half.pth")
    parameters = build(golden_spec("mae"), weights=tmp_path / "half.pth", resolution=(96, 96)).parameters()
    assert {p.dtype for p in parameters} == {torch.float32}


@pytest.mark.parametrize("layout", ["dinov2", "dinov2_reg"])
def test_pretrained_comes_from_the_cache_without_network(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's own files on the hub have timm's layout; the cache is laid out as huggingface_hub does it."""
    spec = golden_spec(layout)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    told = sentences(spec, "pretrained")
    assert f"weights of golden_{layout}: not in the Hugging Face cache" in told and "offline mode is on" in told
    file = Path(timm.get_pretrained_cfg(spec.timm).url).name
    assert f"dl.fbaipublicfiles.com/dinov2/dinov2_vits14/{file}" in told
    assert f"weights: {{golden_{layout}: /path/to/{file}}}" in told
    assert f"https://huggingface.co/timm/{spec.timm}" in told

    cached = tmp_path / f"models--timm--{spec.timm}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    native = golden(layout)
    state = {key: tensor.detach().contiguous() for key, tensor in native.trunk.state_dict().items()}
    save_file(state, cached / "snapshots" / "abc" / "model.safetensors")
    found = build(spec, weights="pretrained", resolution=(56, 70))
    assert weights_digest(found) == weights_digest(golden(layout, (56, 70)))


def test_tiny_models_have_no_pretrained_weights() -> None:
    assert sentences("mae_tiny", "pretrained") == (
        "weights of mae_tiny: there are no pretrained ones; write weights: {mae_tiny: random}."
    )


def test_unknown_backbone() -> None:
    with pytest.raises(Mistake, match='unknown backbone "mae_tini". Did you mean "mae_tiny"?'):
        build("mae_tini", weights="random", resolution=(64, 64))


@pytest.mark.parametrize(("resolution", "nearest"), [((64, 60), "64x64"), ((0, 64), "16x64"), ((-16, 64), "16x64")])
def test_sides_must_fit(resolution: tuple[int, int], nearest: str) -> None:
    told = sentences("mae_tiny", "random", resolution)
    assert told.startswith("resolution: mae_tiny needs sides that are multiples of 16, found ")
    assert told.endswith(f"; write {nearest}.")


def test_files_that_are_none(tmp_path: Path) -> None:
    spec = golden_spec("mae")
    assert "no such file; expected pretrained, random, or the path" in sentences(spec, "pretrainde")
    assert "no such file" in sentences(spec, tmp_path)
    whole = (GOLDEN / "mae" / "checkpoint.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    for name in ("cut.pth", "empty.pth", "text.pth", "text.safetensors"):
        assert re.search("can't be read|no file of torch's", sentences(spec, tmp_path / name)), name
    torch.save({"model": {"epoch": 1}, "best": 2}, tmp_path / "other.pth")
    assert "expected weights by name, found a dict with the keys epoch" in sentences(spec, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "expected weights by name, found a list" in sentences(spec, tmp_path / "list.pth")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the file ran code')",))


def test_code_in_a_file_never_runs(tmp_path: Path) -> None:
    for save in (torch.save, save_legacy):
        save({"model": flat("mae"), "extra": Evil()}, tmp_path / "evil.pth")
        assert "holds Python objects that could run code" in sentences(golden_spec("mae"), tmp_path / "evil.pth")


def test_missing_left_over_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    state = flat("mae")
    del state["blocks.1.attn.qkv.bias"], state["norm.weight"]
    state |= {f"extra.{index:02}": torch.zeros(1) for index in range(13)}
    state["blocks.0.mlp.fc1.weight"] = torch.zeros(250, 64)
    torch.save(state, tmp_path / "file.pth")
    [told] = sentences(golden_spec("mae"), tmp_path / "file.pth").splitlines()
    assert ": 2 of 42 weights that golden_mae needs are missing: blocks.1.attn.qkv.bias, norm.weight; 13 of 53" in told
    assert "13 of 53 weights in the file have no place in golden_mae: extra.00, extra.01," in told
    assert "extra.09, and 3 more; " in told
    assert " have another shape: blocks.0.mlp.fc1.weight [250, 64] instead of [256, 64]. It " in told
    assert told.endswith("; use the file of golden_mae, mae_pretrain_vit_base.pth.")


@pytest.mark.parametrize("shape", [(1, 38, 64), (1, 1, 64), (1, 0, 64)])
def test_positions_that_are_no_grid(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save(flat("mae") | {"pos_embed": torch.zeros(shape)}, tmp_path / "file.pth")
    assert "patches; golden_mae needs a square; use the official file." in sentences(
        golden_spec("mae"), tmp_path / "file.pth"
    )


@pytest.mark.parametrize("shape", [(37, 64), (1, 37, 32)])
def test_positions_of_another_width(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save(flat("mae") | {"pos_embed": torch.zeros(shape)}, tmp_path / "file.pth")
    assert f"pos_embed {list(shape)} instead of [..., 64]" in sentences(golden_spec("mae"), tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("layout", "family"),
    [
        ("sam2", "SAM2"),
        ("aimv2", "AIMv2"),
        ("aimv2_hf", "AIMv2"),
        ("coca", "CoCa"),
        ("clip_openai", "CLIP"),
        ("clip_laion", "CLIP"),
        ("vmamba_t", "VMamba"),
        ("vmamba_s", "VMamba"),
        ("dinov2_reg", "DINOv2 with registers"),
        ("mae", "MAE"),
    ],
)
def test_a_wrong_file_is_told_by_its_family(layout: str, family: str) -> None:
    assert f"looks like {family};" in sentences(golden_spec("dinov2"), golden_file(layout))


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("dinov2_base", "dinov2_small"),
        ("dinov2_base", "dinov2_reg_base"),
        ("dinov2_base", "dinov3_base"),
        ("dinov3_base", "dinov2_reg_base"),
        ("dinov2_reg_small", "dinov2_small"),
        ("mae_base", "dinov2_base"),
        ("aimv2_large", "aimv2_huge"),
        ("clip_base", "clip_large"),
        ("sam2_s", "sam2_t"),
        ("vmamba_s", "vmamba_t"),
        ("coca_base", "vmamba_b"),
    ],
)
def test_a_wrong_file_is_told_by_its_row(row: str, wrong: str, tmp_path: Path) -> None:
    trunk = FAMILIES[backbone(wrong).family].trunk(backbone(wrong), backbone(wrong).native, 0.0, "meta")
    address = source_of(backbone(row)).address
    empty = {key: torch.zeros(()).expand(tensor.shape) for key, tensor in trunk.state_dict().items()}
    torch.save(empty, tmp_path / "file.pth")
    told = sentences(row, tmp_path / "file.pth", (224, 224))
    assert f"looks like {wrong};" in told
    assert f"use the file of {row}, {Path(address).name}." in told


@pytest.mark.parametrize("name", ["mae_tiny", "dinov2_tiny", "clip_tiny"])
def test_weights_are_mapped_not_read(name: str, tmp_path: Path) -> None:
    """As long as nothing changes them, they are the file's own pages, which all processes share."""
    file = tmp_path / "weights.safetensors"
    save_file(build(name, weights="random", resolution=backbone(name).native).trunk.state_dict(), file)
    found = build(name, weights=file, resolution=backbone(name).native)
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    ]
    mapped = [any(low <= p.data_ptr() < high for low, high in ranges) for p in found.parameters()]
    assert ranges and sum(mapped) > 0.9 * len(mapped)
