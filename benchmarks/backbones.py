"""How fast each family is, beside what its users would run otherwise, and what training more blocks costs in memory.

    make bench-backbones           (python -m benchmarks.backbones [--size base] [--json FILE])
    python -m benchmarks.backbones --vmamba          VMamba-T against ViT-S/16; training VMamba-T on an accelerator
    python -m benchmarks.backbones --variants        channels-last, and blocks compiled one by one, beside neither

Ours is a trial's network: normalisation, backbone, linear head. The other is timm's own model of the same sizes with a
linear classifier; for CoCa, which timm hasn't, timm's vision transformer of that width and depth, without the attention
pooler; for SAM2 timm's trunk without the neck; for VMamba, which no library has, our own model with a recurrence that
is written step by step and differentiated by autograd. A training step trains everything: forward, backward, AdamW.
Both take turns, and figures are medians over turns. On an accelerator base sizes run at 224 px in bf16, on a CPU tiny
ones at their native size in fp32.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spaces.backbone import BackboneSpec, backbone
from spaces.config import TrialConfig
from trainables.backbones import vmamba
from trainables.model import Model, build_model

BACKBONES = {
    "tiny": ["dinov2_tiny", "mae_tiny", "aimv2_tiny", "sam2_tiny", "clip_tiny", "coca_tiny", "vmamba_tiny"],
    # AIMv2 comes in no smaller size than large.
    "base": ["dinov2_base", "mae_base", "aimv2_large", "sam2_b_plus", "clip_base", "coca_base", "vmamba_b"],
}
CONVOLUTIONAL = ["timm/resnet18.a1_in1k", "timm/convnext_tiny.in12k", "timm/efficientnet_b0.ra_in1k"]
BATCH = {("cuda", "base"): 64, ("cuda", "tiny"): 256, ("cpu", "base"): 2, ("cpu", "tiny"): 16}
SIDE = 224
CLASSES = 10
WARM_UP = 2


class Normalised(nn.Module):
    """Another's model, with the input normalised as ours does it."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for name, values in zip(("mean", "std"), spec.mean_std, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.std)


class PlainScan(nn.Module):
    """VMamba with a recurrence as one would first write it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with patch.object(vmamba, "linear_scan", per_step):
            return self.model(images)


def per_step(a: Tensor, b: Tensor) -> Tensor:
    """The states of h_t = a_t * h_{t-1} + b_t, [S, L, D], left to autograd."""
    states = [b[:, 0]]
    for t in range(1, b.shape[1]):
        states.append(a[:, t] * states[-1] + b[:, t])
    return torch.stack(states, dim=1)


@dataclass(frozen=True)
class Setting:
    """Where and how it is measured."""

    device: str
    size: str
    batch: int
    repeats: int
    seconds: float

    def resolution(self, spec: BackboneSpec) -> tuple[int, int]:
        return (SIDE, SIDE) if self.size == "base" else spec.native

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def images(self, resolution: tuple[int, int]) -> Tensor:
        """[B, 3, H, W] in [0, 1]."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(self.batch, 3, *resolution, generator=generator).to(self.device)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Speed:
    """Images a second, and the median of each turn's ratio, ours by theirs: above 1, ours is faster."""

    ours: float
    theirs: float
    ratio: float


def ours(name: str, resolution: tuple[int, int], trained_blocks: int | str = "all") -> Model:
    """A trial's network with random weights."""
    torch.manual_seed(0)
    config = {"backbone": name, "weights": "random", "resolution": list(resolution), "trained_blocks": trained_blocks}
    fixed = {"metric": "accuracy", "epochs": 1, "seed": 0, "policy": "none", "head_lr": 1e-3}
    return build_model(TrialConfig.model_validate(config | fixed), CLASSES)


def theirs(spec: BackboneSpec, model: Model, resolution: tuple[int, int]) -> tuple[str, nn.Module]:
    """What users would run otherwise, and what it is called."""
    if spec.family == "vmamba":
        return "per-step scan", PlainScan(copy.deepcopy(model))
    if spec.family == "coca":
        sizes = {key: spec.build[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
        other: nn.Module = VisionTransformer(img_size=resolution, num_classes=CLASSES, pre_norm=True, **sizes)
        return "timm ViT", Normalised(spec, other)
    assert spec.timm is not None
    # Hiera resamples its positions for each input by itself.
    more: dict[str, Any] = {} if spec.family == "sam2" else {"img_size": resolution}
    other = timm.create_model(spec.timm, pretrained=False, num_classes=CLASSES, **more, **spec.build)
    return "timm", Normalised(spec, other)


def forward(model: nn.Module, images: Tensor, setting: Setting) -> Callable[[], object]:
    def step() -> object:
        model.eval()
        with torch.inference_mode(), setting.autocast():
            return model(images)

    return step


def training(model: nn.Module, images: Tensor, setting: Setting) -> Callable[[], object]:
    labels = torch.arange(len(images), device=images.device) % CLASSES
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        model.train()
        with setting.autocast():
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def in_turns(steps: Sequence[Callable[[], object]], setting: Setting) -> list[list[float]]:
    """Seconds a step of each contestant, for every turn. Each turn lasts about `setting.seconds`, or one step."""
    counts = []
    for step in steps:
        for _ in range(WARM_UP):
            step()
        counts.append(max(1, math.ceil(setting.seconds / _seconds(step, 1, setting))))
    turns = []
    for repeat in range(setting.repeats):
        order = range(len(steps)) if repeat % 2 == 0 else reversed(range(len(steps)))
        took = {i: _seconds(steps[i], counts[i], setting) for i in order}
        turns.append([took[i] for i in range(len(steps))])
    return turns


def _seconds(step: Callable[[], object], count: int, setting: Setting) -> float:
    setting.wait()
    started = time.perf_counter()
    for _ in range(count):
        step()
    setting.wait()
    return (time.perf_counter() - started) / count


def compare(steps: Sequence[Callable[[], object]], setting: Setting) -> Speed:
    turns = in_turns(steps, setting)
    mine, other = (setting.batch / median(turn[i] for turn in turns) for i in (0, 1))
    return Speed(mine, other, ratio=median(turn[1] / turn[0] for turn in turns))


def speeds(name: str, setting: Setting) -> dict[str, Any]:
    """One family's row: forward and training, ours and theirs."""
    spec = backbone(name)
    resolution = setting.resolution(spec)
    model = ours(name, resolution)
    other, rival = theirs(spec, model, resolution)
    models, images = [m.to(setting.device) for m in (model, rival)], setting.images(resolution)
    return {
        "backbone": name,
        "resolution": list(resolution),
        "other": other,
        "forward": asdict(compare([forward(m, images, setting) for m in models], setting)),
        "training": asdict(compare([training(m, images, setting) for m in models], setting)),
    }


def memory(name: str, setting: Setting) -> dict[str, Any]:
    """Bytes of a training step by trained blocks: 0, 1, 2, half of them, and all with the stem."""
    spec = backbone(name)
    resolution = setting.resolution(spec)
    images = setting.images(resolution)
    measure = _peak if setting.device == "cuda" else _saved
    depths: dict[str, int | str] = {"0": 0, "1": 1, "2": 2, "half": spec.blocks // 2, "all": "all"}
    measured = {
        depth: measure(ours(name, resolution, depth).to(setting.device), images, setting)
        for depth in dict.fromkeys(depths.values())
    }
    return {"backbone": name, "blocks": spec.blocks, "bytes": {key: measured[depth] for key, depth in depths.items()}}


def _peak(model: Model, images: Tensor, setting: Setting) -> int:
    """The most that was allocated in a training step, weights and the optimiser's state included."""
    step = training(model, images, setting)
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def _saved(model: Model, images: Tensor, setting: Setting) -> int:
    """What the forward pass keeps for the backward one, each piece of memory once, without weights and input."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), images)}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), setting.autocast():
        logits = model(images)  # held until counted: freed memory could be given out again under the same address
    total = sum(kept.values())
    logits.sum().backward()
    return total


def against_vit(setting: Setting, side: int) -> dict[str, Any]:
    """VMamba-T's forward pass beside ViT-S/16's, on the same pixels."""
    spec = backbone("vmamba_t")
    models = [
        ours("vmamba_t", (side, side)),
        Normalised(spec, timm.create_model("vit_small_patch16_224", img_size=side, num_classes=CLASSES)),
    ]
    images = setting.images((side, side))
    speed = compare([forward(m.to(setting.device), images, setting) for m in models], setting)
    return {"batch": setting.batch, "side": side, **asdict(speed), "times_slower": 1 / speed.ratio}


def training_rate(setting: Setting) -> dict[str, Any]:
    """VMamba-T's training images a second at 224 px."""
    images = setting.images((SIDE, SIDE))
    turns = in_turns([training(ours("vmamba_t", (SIDE, SIDE)).to(setting.device), images, setting)], setting)
    return {"batch": setting.batch, "images_per_second": setting.batch / median(turn[0] for turn in turns)}


def channels_last(model: Model, images: Tensor) -> None:
    del images
    model.to(memory_format=torch.channels_last)


def compiled_blocks(model: Model, images: Tensor) -> None:
    """Compiles the blocks, each by itself, so that equal ones share what is compiled."""
    blocks: dict[int, nn.Module] = {}
    run_block = model.backbone.run_block

    def seen(block: nn.Module, hidden: Tensor, **more: Any) -> Tensor:
        blocks[id(block)] = block
        return run_block(block, hidden, **more)

    with patch.object(model.backbone, "run_block", seen), torch.no_grad():
        model(images)
    for block in blocks.values():
        block.compile()


VARIANTS: dict[str, Callable[[Model, Tensor], None]] = {
    "channels last": channels_last,
    "blocks compiled": compiled_blocks,
}


def variants(name: str, setting: Setting) -> list[dict[str, Any]]:
    """Training with each variant of a trial's network beside the network as it is, and seconds to the first step."""
    resolution = setting.resolution(backbone(name))
    images, rows = setting.images(resolution), []
    for variant, change in VARIANTS.items():
        plain = ours(name, resolution).to(setting.device)
        changed = copy.deepcopy(plain)
        torch.compiler.reset()
        started = time.perf_counter()
        change(changed, images)
        step = training(changed, images, setting)
        step()
        setting.wait()
        first = time.perf_counter() - started
        speed = compare([step, training(plain, images, setting)], setting)
        rows.append({"backbone": name, "variant": variant, "first_step_seconds": first, **asdict(speed)})
    return rows


def print_variants(rows: list[dict[str, Any]]) -> None:
    print("\nTraining images a second with a variant, and without; ratio above 1: the variant is faster")
    print(f"{'backbone':<30}{'variant':<18}{'with':>9}{'without':>9}{'ratio':>7}{'first step, s':>15}")
    for row in rows:
        print(
            f"{row['backbone']:<30}{row['variant']:<18}{row['ours']:>9.1f}{row['theirs']:>9.1f}{row['ratio']:>7.2f}"
            f"{row['first_step_seconds']:>15.1f}"
        )


def print_speeds(rows: list[dict[str, Any]]) -> None:
    print("\nImages a second; ratio: ours by theirs")
    print(
        f"{'backbone':<14}{'px':>5}  {'other':<14}"
        + "".join(f"{w:>11}" for w in ("forward", "other", "ratio"))
        + "".join(f"{w:>11}" for w in ("training", "other", "ratio"))
    )
    for row in rows:
        cells = "".join(
            f"{row[part]['ours']:>11,.1f}{row[part]['theirs']:>11,.1f}{row[part]['ratio']:>11.2f}"
            for part in ("forward", "training")
        )
        print(f"{row['backbone']:<14}{row['resolution'][0]:>5}  {row['other']:<14}{cells}")


def print_memory(rows: list[dict[str, Any]], setting: Setting) -> None:
    what = "peak of a training step" if setting.device == "cuda" else "kept for the backward pass"
    print(f"\nMiB {what}, batch {setting.batch}, by trained blocks")
    print(f"{'backbone':<14}{'blocks':>7}" + "".join(f"{key:>10}" for key in rows[0]["bytes"]))
    for row in rows:
        cells = "".join(f"{size / 2**20:>10,.2f}" for size in row["bytes"].values())
        print(f"{row['backbone']:<14}{row['blocks']:>7}{cells}")


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=list(BACKBONES), default="base" if device == "cuda" else "tiny")
    options.add_argument("--backbones", nargs="+", help="others than those of the size")
    options.add_argument("--only", choices=["speed", "memory"], help="one of the two tables")
    options.add_argument("--vmamba", action="store_true", help="VMamba-T alone")
    options.add_argument("--variants", action="store_true", help="of training: channels-last, compiled blocks")
    options.add_argument("--side", type=int, default=64, help="pixels, for --vmamba against ViT-S/16")
    options.add_argument("--batch", type=int)
    options.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    options.add_argument("--seconds", type=float, default=0.5, help="of a turn; at least one step")
    options.add_argument("--threads", type=int, default=1, help="of the CPU")
    options.add_argument("--json", type=Path, metavar="FILE")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    batch = arguments.batch or (8 if arguments.vmamba else BATCH[device, arguments.size])
    setting = Setting(device, arguments.size, batch, arguments.repeats, arguments.seconds)
    found: dict[str, Any] = {
        **asdict(setting),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "threads": arguments.threads,
        "precision": "bf16" if device == "cuda" else "fp32",
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in found.items()))

    if arguments.variants:
        names = arguments.backbones or [*BACKBONES[arguments.size], *CONVOLUTIONAL]
        found["variants"] = [row for name in names for row in variants(name, setting)]
        print_variants(found["variants"])
    elif arguments.vmamba:
        found["against_vit"] = result = against_vit(setting, arguments.side)
        print(
            f"forward at {arguments.side} px: VMamba-T {result['ours']:.1f} images/s, ViT-S/16 {result['theirs']:.1f}: "
            f"VMamba-T takes {result['times_slower']:.2f} times as long (at most 4 on a CPU)"
        )
        if device == "cuda":
            large = Setting(device, "base", arguments.batch or 128, arguments.repeats, arguments.seconds)
            found["training"] = rate = training_rate(large)
            print(
                f"training at {SIDE} px, batch {rate['batch']}: VMamba-T {rate['images_per_second']:.0f} images/s "
                "(at least 571, which its authors give for an A100)"
            )
    else:
        names = arguments.backbones or BACKBONES[arguments.size]
        if arguments.only != "memory":
            found["speed"] = [speeds(name, setting) for name in names]
            print_speeds(found["speed"])
        if arguments.only != "speed":
            found["memory"] = [memory(name, setting) for name in names]
            print_memory(found["memory"], setting)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
