"""Class probabilities of images, by a model that a final wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spaces.mistakes import Mistake
from trainables.data.images import SUFFIXES, BadImage
from trainables.data.pixels import decode_file
from trainables.files import write_text
from trainables.model_folder import load_model
from trainables.prefix import BATCH


def predict(model_folder: Path, sources: Sequence[Path], output: Path) -> int:
    """Writes a table with one row an image: its path as given, the predicted class, a probability for each class.

    Args:
        sources: images, or folders that are searched for images.

    Returns:
        The number of images.

    Raises:
        Mistake: no model, no images, or images that can't be used, all of them together.
    """
    if output.is_dir():
        raise Mistake(f"predict: -o {output}: is a folder; name a file in it.")
    trained = load_model(model_folder)
    images = _images(sources)
    if not output.absolute().parent.is_dir():
        raise Mistake(f"predict: -o {output}: there is no folder {output.parent}; make it first.")
    problems: list[str] = []
    rows: list[np.ndarray] = []
    for start in range(0, len(images), BATCH):
        decoded = []
        for path in images[start : start + BATCH]:
            try:
                decoded.append(_three_channels(decode_file(path, trained.pixels)))
            except (BadImage, OSError) as error:
                problems.append(f"{path}: {error}.")
        if decoded and not problems:
            with torch.inference_mode():
                batch = torch.from_numpy(np.stack(decoded)).float().div_(255)
                rows.append(trained.model.output.probabilities(trained.model(batch)).numpy())
    if problems:
        more = [f"... and {len(problems) - 10} more images that can't be used."] if len(problems) > 10 else []
        raise Mistake(*problems[:10], *more)
    probabilities = np.concatenate(rows)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["image", "predicted", *(f"p_{name}" for name in trained.classes)])
    for path, row in zip(images, probabilities, strict=True):
        table.writerow([path, trained.classes[int(row.argmax())], *(f"{p:.8g}" for p in row)])
    write_text(output.absolute(), text.getvalue())
    return len(images)


def _images(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    problems = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
            found += inside
            if not inside:
                problems.append(f"{source}: holds no images; give images, or a folder of them.")
        elif source.is_file():
            found.append(source)
        else:
            problems.append(f"{source}: no such file or folder.")
    if problems:
        raise Mistake(*problems)
    return found


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    """A grey image [1, H, W] as [3, H, W], so that images of both kinds stand in one batch; exact, see Model.hidden."""
    return np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels
