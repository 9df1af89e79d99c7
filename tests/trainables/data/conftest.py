"""Tiny datasets of real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.contents import content_hashes
from trainables.data.manifest import Manifest


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Writes an image whose pixels follow from `value`; suffix decides the format."""

    def write(path: Path, value: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = size
        channels = {"L": (), "RGB": (3,)}[mode]
        pixels = np.random.default_rng(value).integers(0, 256, (height, width, *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
        return path

    return write


@pytest.fixture
def listed(cache: Path) -> Callable[..., Manifest]:
    """A manifest of files that exist, all of class a, b, a, b, ..."""

    def make(root: Path, paths: list[str]) -> Manifest:
        contents = content_hashes(root, paths, cache)
        return Manifest(
            root=root,
            task="classification",
            classes=("a", "b"),
            metric="accuracy",
            policy="natural",
            paths=np.array(paths),
            contents=contents,
            labels=np.arange(len(paths)) % 2,
            groups=contents,
            official=np.array([""] * len(paths)),
        )

    return make


@pytest.fixture
def invented() -> Callable[..., Manifest]:
    """A manifest without files behind it."""

    def make(
        labels: list[int] | np.ndarray,
        groups: list[str] | None = None,
        contents: list[str] | None = None,
        official: list[str] | None = None,
        classes: tuple[str, ...] = ("a", "b"),
    ) -> Manifest:
        count = len(labels)
        array = np.asarray(labels)
        multilabel = array.ndim == 2
        own = [f"c{i}" for i in range(count)] if contents is None else contents
        return Manifest(
            root=Path("nowhere"),
            task="multilabel" if multilabel else "classification",
            classes=classes,
            metric="accuracy",
            policy="natural",
            paths=np.array([f"{i:04d}.png" for i in range(count)], dtype=np.str_),
            contents=np.array(own, dtype=np.str_),
            labels=array.astype(np.float32 if multilabel else np.int64),
            groups=np.array(own if groups is None else groups, dtype=np.str_),
            official=np.array(official or [""] * count, dtype=np.str_),
        )

    return make
