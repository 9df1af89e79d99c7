"""A trial of the strong baseline: images were resized beforehand to uint8 files at the working size, actors are reused
and keep the weights, arithmetic is bf16 on an accelerator, the optimizer is fused, batches are gathered at once.

Not used, as they don't help here: channels-last (a vision transformer has one convolution), and torch.compile unless it
is asked for (no gain in steady state on a CPU, and seconds to minutes at the start of a trial).
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.search.plain import EVALUATED, Report, freeze, judge, optimizer_of, schedule_of
from benchmarks.search.regimes import Recorded
from benchmarks.search.setting import Setting
from spaces.backbone import backbone


def resize_all(setting: Setting, level: int, output: Path, workers: int) -> int:
    """Writes each part's images as one uint8 file [N, 3, S, S], and its labels. Returns the number of images.

    Training images are kept large enough for the strongest crop.
    """
    total = 0
    enlarged = math.ceil(setting.resolution / math.sqrt(setting.ranges(3).scale if level else 1.0))
    for part, side in (("train", enlarged), ("validation", setting.resolution)):
        folder = ImageFolder(Path(setting.images) / part)
        array = np.lib.format.open_memmap(
            output / f"{part}.npy", "w+", dtype=np.uint8, shape=(len(folder.samples), 3, side, side)
        )
        with ThreadPoolExecutor(workers) as pool:
            for row, pixels in enumerate(pool.map(functools.partial(_resized, side), folder.samples)):
                array[row] = pixels
        array.flush()
        np.save(output / f"{part}-labels.npy", np.array(folder.targets))
        (output / f"{part}.json").write_text(json.dumps({"classes": folder.classes}), encoding="utf-8")
        total += len(folder.samples)
    return total


def _resized(side: int, sample: tuple[str, int]) -> np.ndarray:
    with Image.open(sample[0]) as image:
        image.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
        pixels = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(pixels).transpose(2, 0, 1)


class Resized(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches [B, 3, H, W] uint8, each image varied by itself."""

    def __init__(self, folder: Path, part: str, varied: v2.Transform | None = None) -> None:
        self.images = np.load(folder / f"{part}.npy", mmap_mode="r")
        self.labels = torch.from_numpy(np.load(folder / f"{part}-labels.npy"))
        self.varied = varied

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(self.images[rows])
        if self.varied is not None:
            images = torch.stack([self.varied(image) for image in images])
        return images, self.labels[rows]


def fine_tune(trial: Recorded, setting: Setting, resized: str, report: Report) -> None:
    """One trial on what `resize_all` wrote to the folder `resized`."""
    started, device = time.time(), torch.device(setting.device)
    torch.set_num_threads(setting.cpus)
    torch.manual_seed(trial.seed)
    folder = Path(resized)
    classes = json.loads((folder / "train.json").read_text(encoding="utf-8"))["classes"]
    train = Resized(folder, "train", augmentation(trial.level, setting) if trial.level else None)
    validation = Resized(folder, "validation")
    workers = setting.cpus if trial.level else 0  # gathering alone is quicker than asking another process for it
    loader = DataLoader(
        train, trial.batch_size, shuffle=True, drop_last=True, collate_fn=_as_it_is, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    judging = DataLoader(validation, EVALUATED, collate_fn=_as_it_is, pin_memory=device.type == "cuda")

    model = _model(setting, len(classes))
    freeze(model, trial)
    model.to(device)
    forward: Any = torch.compile(model) if setting.compile else model
    normalise = _Normalise(setting).to(device)
    bf16 = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=device.type == "cuda")
    criterion = nn.CrossEntropyLoss(label_smoothing=trial.label_smoothing)
    optimizer = optimizer_of(model, trial, fused=True)
    schedule = schedule_of(optimizer, trial, len(loader) * setting.epochs)
    trained = [p for p in model.parameters() if p.requires_grad]
    computed = 0

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in judging:
            yield normalise(images.to(device, non_blocking=True)), labels

    for epoch in range(1, setting.epochs + 1):
        model.train()
        for images, labels in loader:
            given = normalise(images.to(device, non_blocking=True))
            with bf16():
                outputs = forward(given)
            criterion(outputs.float(), labels.to(device, non_blocking=True)).backward()
            nn.utils.clip_grad_norm_(trained, trial.clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            computed += len(images) * (trial.trained_blocks != "all")
        with bf16():
            value = judge(forward, batches())
        figures = {"epoch": epoch, "value": value, "decoded": 0, "computed": computed}
        report({**figures, "started": started, "ended": time.time()}, model if epoch == setting.epochs else None)


def augmentation(level: int, setting: Setting) -> v2.Transform:
    """The plain baseline's transforms, on uint8 tensors."""
    ranges, side = setting.ranges(level), (setting.resolution, setting.resolution)
    chosen: list[nn.Module] = [
        v2.RandomResizedCrop(side, (ranges.scale, 1.0), (1.0, 1.0), v2.InterpolationMode.BILINEAR, antialias=True),
        v2.RandomRotation(ranges.rotate, v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue),
    ]
    return v2.Compose([*chosen, v2.RandomHorizontalFlip()] if ranges.flip else chosen)


class _Normalise(nn.Module):
    """uint8 images to what the backbone takes."""

    mean: Tensor
    std: Tensor

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        for name, values in zip(("mean", "std"), backbone(setting.backbone).mean_std, strict=True):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std


def _model(setting: Setting, classes: int) -> nn.Module:
    spec = backbone(setting.backbone)
    model = timm.create_model(
        str(spec.timm), pretrained=False, num_classes=classes, img_size=setting.resolution, **spec.build
    )
    found = model.load_state_dict(_weights(setting.weights), strict=False)
    if found.unexpected_keys or set(found.missing_keys) != {"head.weight", "head.bias"}:
        raise ValueError(f"weights don't fit: {found}")
    return model


@functools.cache
def _weights(file: str) -> dict[str, Tensor]:
    """Kept by a reused actor."""
    return load_file(file)


def _as_it_is(batch: Any) -> Any:
    return batch
