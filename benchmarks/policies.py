"""What each augmentation policy does to an image of its modality, at each level, as pictures for docs/augmentation.md.

    python -m benchmarks.policies [-o docs/pictures]

The images are drawn here, not taken from anybody: they show what matters to a policy (which way is up, which side,
which colours), not what a disease looks like. Augmentation is the very code that trials run. The same command gives
the same pictures.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from spaces.config import TrialConfig
from spaces.policy import LEVELS, policy
from trainables.augment import Augment, draws

SIDE = 96  # of the input, in pixels
DRAWN = 448  # side at which images are drawn, then shrunk as a pixel file's would be
COLUMNS = 7
COLOURS = 96  # of a picture
SEED = 3


def fundus() -> np.ndarray:
    """A retina: a bright disc on black, the optic disc on one side, vessels from it, bleedings and exudates."""
    y, x, generator = *_grid(), np.random.default_rng(0)
    inside = np.hypot(x, y) < 0.93
    light = 0.55 + 0.35 * np.exp(-((x - 0.2) ** 2 + y**2))
    image = _rgb(0.85, 0.38, 0.16) * (light + 0.05 * _texture(generator, 12))[..., None]
    for start in np.linspace(0, 2 * np.pi, 9)[:-1]:
        steps = np.linspace(0, 1.5, 300)
        bend = start + 0.9 * np.sin(start) * steps
        _spots(image, 0.48 + steps * np.cos(bend), steps * np.sin(bend) * 0.85, 0.014, (0.45, 0.1, 0.06))
    _spots(image, generator.uniform(-0.6, 0.4, 9), generator.uniform(-0.6, 0.4, 9), 0.025, (0.42, 0.06, 0.05))
    _spots(image, generator.uniform(-0.5, 0.1, 12), generator.uniform(-0.5, 0.1, 12), 0.018, (0.98, 0.85, 0.45))
    _blend(image, np.exp(-((np.hypot(x - 0.48, y) / 0.15) ** 6)), (1.0, 0.86, 0.55))
    _blend(image, 0.5 * np.exp(-((np.hypot(x + 0.12, y) / 0.16) ** 2)), (0.45, 0.16, 0.08))  # the macula
    return image * inside[..., None]


def dermoscopy() -> np.ndarray:
    """A mole with an uneven border and a darker, bluish part, on skin with a few hairs."""
    y, x, generator = *_grid(), np.random.default_rng(1)
    image = _rgb(0.88, 0.68, 0.58) * (1 + 0.06 * _texture(generator, 20))[..., None]
    angle = np.arctan2(y, x)
    border = 0.55 + 0.08 * np.sin(3 * angle + 1) + 0.05 * np.sin(7 * angle)
    mole = 1 / (1 + np.exp((np.hypot(x * 0.9, y) - border) / 0.03))
    network = 0.5 + 0.5 * np.sin(40 * x + 3 * _texture(generator, 15)) * np.sin(40 * y)
    _blend(image, mole * (0.65 + 0.25 * network), (0.36, 0.2, 0.12))
    _blend(image, 0.8 * np.exp(-(((x - 0.2) / 0.2) ** 2) - ((y + 0.15) / 0.15) ** 2), (0.22, 0.22, 0.32))
    for offset in (-0.5, 0.1, 0.7):
        steps = np.linspace(-1, 1, 500)
        _spots(image, steps, offset + 0.4 * steps + 0.1 * np.sin(3 * steps + offset), 0.008, (0.16, 0.1, 0.08))
    return image


def mammography() -> np.ndarray:
    """A breast from the left edge, denser towards the middle, the chest muscle above, and one bright mass."""
    y, x, generator = *_grid(), np.random.default_rng(2)
    reach = np.hypot((x + 1) / 1.35, (y - 0.05) / 0.88)
    breast = 1 / (1 + np.exp((reach - 1) / 0.015))
    dense = np.exp(-((reach / 0.7) ** 2)) * (0.6 + 0.5 * _texture(generator, 9))
    muscle = 1 / (1 + np.exp(((x + 1) + (y + 1) * 0.55 - 0.62) / 0.02))
    mass = np.exp(-((np.hypot(x + 0.35, y - 0.3) / 0.09) ** 4))
    grey = breast * (0.22 + 0.4 * np.clip(dense, 0, 1) + 0.25 * muscle + 0.3 * mass)
    return _rgb(1, 1, 1) * grey[..., None]


def radiograph() -> np.ndarray:
    """A chest: dark lungs, ribs, spine and diaphragm, and the heart on the right of the picture."""
    y, x, generator = *_grid(), np.random.default_rng(4)
    grey = 0.62 * np.exp(-((x / 0.95) ** 8)) + 0.03 * _texture(generator, 10)
    for side in (-1, 1):
        lung = 1 / (1 + np.exp((np.hypot((x - side * 0.42) / 0.34, (y + 0.08) / 0.72) - 1) / 0.05))
        lung *= 1 / (1 + np.exp((y - 0.42 - 0.5 * (x - side * 0.42) ** 2 + 0.06 * side) / 0.03))
        grey -= 0.45 * lung
        for rib in np.arange(-0.75, 0.6, 0.17):
            arc = y - rib - 0.5 * (np.abs(x) - 0.1) ** 2
            grey += 0.1 * np.exp(-((arc / 0.022) ** 2)) * (np.abs(x) < 0.85) * (side * x > 0.06)
        grey += 0.2 * np.exp(-(((y + 0.72 + 0.12 * np.abs(x)) / 0.035) ** 2)) * (side * x > 0.12) * (np.abs(x) < 0.7)
    grey += 0.22 * np.exp(-((x / 0.09) ** 4)) * (0.8 + 0.2 * np.sin(34 * y))
    grey += 0.38 * np.exp(-((np.hypot((x - 0.17) / 0.3, (y - 0.22) / 0.3)) ** 4))  # the heart
    return _rgb(1, 1, 1) * gaussian_filter(grey, 2)[..., None]


def natural() -> np.ndarray:
    """A hill, a tree and the sun."""
    y, x, generator = *_grid(), np.random.default_rng(5)
    image = _rgb(0.45, 0.68, 0.95) * (0.9 - 0.15 * y)[..., None]
    _spots(image, np.array([0.55]), np.array([-0.6]), 0.17, (1.0, 0.9, 0.4))
    hill = 1 / (1 + np.exp((0.25 + 0.2 * np.sin(2 * x + 1) - y) / 0.01))
    _blend(image, hill * (0.9 + 0.05 * _texture(generator, 4)), (0.25, 0.55, 0.2))
    _blend(image, ((np.abs(x + 0.35) < 0.05) & (y > -0.1) & (y < 0.55)).astype(float), (0.4, 0.25, 0.12))
    _blend(image, np.exp(-((np.hypot((x + 0.35) / 0.33, (y + 0.3) / 0.33)) ** 8)), (0.1, 0.4, 0.14))
    return image


def digits() -> np.ndarray:
    """A six, which on its head would be a nine."""
    image = Image.new("RGB", (DRAWN, DRAWN))
    font = ImageFont.load_default(DRAWN * 0.85)
    ImageDraw.Draw(image).text((DRAWN / 2, DRAWN / 2), "6", "white", font, anchor="mm")
    return np.asarray(image) / 255


SAMPLES: dict[str, Callable[[], np.ndarray]] = {
    "natural": natural,
    "digits": digits,
    "fundus": fundus,
    "dermoscopy": dermoscopy,
    "mammography": mammography,
    "radiograph": radiograph,
    "paper": dermoscopy,
}
"""What each policy is shown on: float [DRAWN, DRAWN, 3] in [0, 1]."""


def augmented(name: str, level: int) -> np.ndarray:
    """A policy's sample as trials would see it in `COLUMNS` views, [COLUMNS, SIDE, SIDE, 3] in [0, 1]."""
    config = TrialConfig(
        backbone="dinov2_tiny", weights="random", metric="accuracy", epochs=1, seed=SEED, head_lr=1e-3,
        resolution=(SIDE, SIDE), policy=name, level=level,
    )  # fmt: skip
    height, width = policy(name).stored_at(config.resolution, level)
    drawn = Image.fromarray((np.clip(SAMPLES[name](), 0, 1) * 255).astype(np.uint8))
    stored = np.asarray(drawn.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    images = torch.from_numpy(np.broadcast_to(stored, (COLUMNS, *stored.shape)).copy())
    return Augment(config)(images, draws(SEED, 0, COLUMNS)).numpy().transpose(0, 2, 3, 1)


def grid(name: str, path: Path) -> None:
    """Draws a policy: the image itself, then a row of views for each level."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        LEVELS, COLUMNS + 1, figsize=((COLUMNS + 1) * 1.0, LEVELS * 1.02), dpi=90, squeeze=False
    )
    for row, level in zip(axes, range(1, LEVELS + 1), strict=True):
        shown = [augmented(name, 0)[0], *augmented(name, level)]
        for axis, image in zip(row, shown, strict=True):
            axis.imshow(image)
            axis.set_axis_off()
        row[0].set_title("level 0", fontsize=7, pad=2)
        row[1].set_title(f"level {level}", fontsize=7, pad=2)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.95, bottom=0.005, wspace=0.03, hspace=0.14)
    picture = io.BytesIO()
    figure.savefig(picture)
    pyplot.close(figure)
    Image.open(picture).convert("RGB").quantize(COLOURS).save(path, optimize=True)  # a third of the size


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Row and column in [-1, 1], each [DRAWN, DRAWN]."""
    line = np.linspace(-1, 1, DRAWN)
    y, x = np.meshgrid(line, line, indexing="ij")
    return y, x


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.tile(np.array([red, green, blue]), (DRAWN, DRAWN, 1))


def _texture(generator: np.random.Generator, width: float) -> np.ndarray:
    """Smooth noise of unit variance; `width` in pixels."""
    noise = gaussian_filter(generator.standard_normal((DRAWN, DRAWN)), width)
    return noise / noise.std()


def _blend(image: np.ndarray, share: np.ndarray, colour: tuple[float, float, float]) -> None:
    share = np.clip(share, 0, 1)[..., None]
    image *= 1 - share
    image += share * np.array(colour)


def _spots(image: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float, colour: tuple[float, float, float]) -> None:
    """Round spots; positions and radius in units of half the side."""
    rows, columns = _grid()
    share = np.zeros((DRAWN, DRAWN))
    reach = int(np.ceil(radius * 1.5 * DRAWN / 2)) + 1
    for at_x, at_y in zip(np.atleast_1d(x), np.atleast_1d(y), strict=True):
        row, column = int((at_y + 1) / 2 * DRAWN), int((at_x + 1) / 2 * DRAWN)
        near = (slice(max(row - reach, 0), max(row + reach, 0)), slice(max(column - reach, 0), max(column + reach, 0)))
        distance = np.hypot(columns[near] - at_x, rows[near] - at_y) / radius
        share[near] = np.maximum(share[near], np.exp(-(distance**6)))
    _blend(image, share, colour)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="output", type=Path, default=Path("docs/pictures"), help="folder to write")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name in SAMPLES:
        grid(name, output / f"policy-{name}.png")
        print(output / f"policy-{name}.png")


if __name__ == "__main__":
    main()
