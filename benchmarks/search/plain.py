"""A trial of the plain baseline, as users of Ray Tune write it: an image folder, torchvision's transforms, DataLoader
workers, a model of timm. Everything is decoded and computed in every epoch of every trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from sklearn.metrics import balanced_accuracy_score
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

from benchmarks.search.regimes import Recorded
from benchmarks.search.setting import Setting
from spaces.backbone import backbone

EVALUATED = 256  # images at once
Report = Callable[[dict[str, Any], nn.Module | None], None]
"""Takes an epoch's figures and, with the last one, the model."""


def fine_tune(trial: Recorded, setting: Setting, report: Report) -> None:
    """One trial."""
    started, device = time.time(), torch.device(setting.device)
    torch.set_num_threads(setting.cpus)
    torch.manual_seed(trial.seed)
    folder = Path(setting.images)
    mean, std = backbone(setting.backbone).mean_std
    ending = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    side = (setting.resolution, setting.resolution)
    whole = transforms.Resize(side, InterpolationMode.BICUBIC)
    varied = augmentation(trial.level, setting) if trial.level else [whole]
    train = ImageFolder(folder / "train", transforms.Compose([*varied, *ending]))
    validation = ImageFolder(folder / "validation", transforms.Compose([whole, *ending]))
    options: dict[str, Any] = {"num_workers": setting.cpus, "persistent_workers": True, "pin_memory": device != CPU}
    loader = DataLoader(train, trial.batch_size, shuffle=True, drop_last=True, **options)
    judging = DataLoader(validation, EVALUATED, **options)

    model = timm.create_model(
        str(backbone(setting.backbone).timm), pretrained=True, pretrained_cfg_overlay={"file": setting.weights},
        num_classes=len(train.classes), img_size=setting.resolution, **backbone(setting.backbone).build,
    )  # fmt: skip
    freeze(model, trial)
    model.to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=trial.label_smoothing)
    optimizer = optimizer_of(model, trial)
    schedule = schedule_of(optimizer, trial, len(loader) * setting.epochs)
    decoded = computed = 0
    for epoch in range(1, setting.epochs + 1):
        model.train()
        for images, labels in loader:
            loss = criterion(model(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], trial.clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            decoded += len(images)
            computed += len(images) * (trial.trained_blocks != "all")
        value = judge(model, ((images.to(device), labels) for images, labels in judging))
        decoded += len(validation)
        figures = {"epoch": epoch, "value": value, "decoded": decoded, "computed": computed}
        done = epoch == setting.epochs
        report({**figures, "started": started, "ended": time.time()}, model if done else None)


CPU = torch.device("cpu")


def augmentation(level: int, setting: Setting) -> list[nn.Module]:
    """What medtune's policy does at this level, by torchvision's means."""
    ranges, side = setting.ranges(level), (setting.resolution, setting.resolution)
    chosen: list[nn.Module] = [
        transforms.RandomResizedCrop(side, (ranges.scale, 1.0), (1.0, 1.0), InterpolationMode.BICUBIC),
        transforms.RandomRotation(ranges.rotate, InterpolationMode.BILINEAR),
        transforms.ColorJitter(ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue),
    ]
    return [*chosen, transforms.RandomHorizontalFlip()] if ranges.flip else chosen


def freeze(model: Any, trial: Recorded) -> None:
    """Leaves the head, and the last blocks with the last norm, to be trained."""
    if trial.trained_blocks == "all":
        return
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    if trial.trained_blocks:
        model.norm.requires_grad_(True)
        model.blocks[-trial.trained_blocks :].requires_grad_(True)


def optimizer_of(model: Any, trial: Recorded, fused: bool = False) -> torch.optim.Optimizer:
    rate = trial.head_lr * trial.backbone_lr_ratio
    head = model.head
    model.head = nn.Identity()
    body = param_groups_weight_decay(model, trial.weight_decay, model.no_weight_decay())
    model.head = head
    groups = [{**group, "lr": rate} for group in body if group["params"]]
    groups += [
        {"params": [head.weight], "lr": trial.head_lr, "weight_decay": trial.head_weight_decay},
        {"params": [head.bias], "lr": trial.head_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=fused)


def schedule_of(optimizer: torch.optim.Optimizer, trial: Recorded, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear rise, then half a cosine."""
    rise = trial.warmup * steps

    def share(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


@torch.inference_mode()
def judge(model: nn.Module, batches: Any) -> float:
    """Balanced accuracy over batches of images on the model's device and labels."""
    model.eval()
    predicted: list[Tensor] = []
    truth: list[Tensor] = []
    for images, labels in batches:
        predicted.append(model(images).argmax(1).cpu())
        truth.append(labels)
    return float(balanced_accuracy_score(torch.cat(truth), torch.cat(predicted)))
