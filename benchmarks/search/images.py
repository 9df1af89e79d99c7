"""What the searches work on: images in class folders, divided into parts, and a file of weights that all sides load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from spaces.backbone import backbone
from trainables.backbones.families import FAMILIES
from trainables.backbones.weights import random_state

PARTS = ("train", "validation", "test", *("train",) * 6, "validation")  # of every ten images of a class
SIDE = 1024
GRIDS = (4, 6, 9, 13)  # spots a side, by class


def digits(count: int) -> Iterator[tuple[Image.Image, str]]:
    """Handwritten digits, 8 x 8 pixels, none of them twice."""
    found = load_digits()
    seen: set[bytes] = set()
    for pixels, label in zip(found.images, found.target, strict=True):
        if len(seen) == count:
            return
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        if image.tobytes() not in seen:
            seen.add(image.tobytes())
            yield image, str(label)


def jpegs(count: int) -> Iterator[tuple[Image.Image, str]]:
    """Smooth coloured spots of four sizes under fine noise, 1,024 x 1,024 pixels; the size is the class."""
    rng = np.random.default_rng(0)
    for index in range(count):
        grid = GRIDS[index % len(GRIDS)]
        spots = Image.fromarray(rng.integers(0, 256, (grid, grid, 3), dtype=np.uint8))
        smooth = np.asarray(spots.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = rng.integers(-20, 21, (SIDE, SIDE, 1), dtype=np.int16)
        yield Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)), str(index % len(GRIDS))


KINDS = {"digits": (digits, "png"), "jpegs": (jpegs, "jpg")}


def write(kind: str, folder: Path, count: int) -> None:
    """So many images as <folder>/{train,validation,test}/<class>/<number>; each class is in every part."""
    make, suffix = KINDS[kind]
    of_class: dict[str, int] = {}
    for index, (image, label) in enumerate(make(count)):
        part = PARTS[of_class.get(label, 0) % len(PARTS)]
        of_class[label] = of_class.get(label, 0) + 1
        path = folder / part / label / f"{index:05d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)  # of a PNG it is left aside


def write_weights(name: str, resolution: int, file: Path) -> str:
    """Weights of a DINOv2 with random blocks that pass on what they see, in timm's layout, for one size of input.

    Random layer scales are 1e-5, with which every image would give the same feature. With positions for this size of
    input no side has to resample them.

    Returns:
        SHA-256 of the file.
    """
    spec = backbone(name)
    state = random_state(spec, FAMILIES[spec.family])
    for key, tensor in state.items():
        if key.endswith(".gamma"):
            tensor.fill_(1.0)
    grid = resolution // spec.multiple_of
    others = state["pos_embed"].shape[1] - (spec.native[0] // spec.multiple_of) ** 2
    generator = torch.Generator().manual_seed(0)
    state["pos_embed"] = 0.02 * torch.randn(1, others + grid * grid, spec.width, generator=generator)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)
    return hashlib.sha256(file.read_bytes()).hexdigest()
