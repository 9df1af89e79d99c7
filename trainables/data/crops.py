"""Cuts what matters out of an image: the breast of a mammogram, the disc of a fundus photograph.

Both are looked for on a copy of `LOOK` pixels a side, so that the image's resolution matters little: a threshold
between background and object, a morphological opening that takes off what is thin (text, strips at a film's edge) and
parts what hardly touches, then the largest connected component. Where that is implausible, the image stays whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from spaces.config import Crop, Side

LOOK = 256  # longer side of the copy, in pixels
SMALLEST = {"breast": 0.03, "disc": 0.10}  # share of the image that the object has at least
MARGIN = {"breast": 0.02, "disc": 0.0}  # on each side of the box, as a share of the box
_OPENING = {"breast": 5, "disc": 3}  # radius in pixels of the copy
_CLOSING = 2
_PEAK = 0.25  # of the highest peak: what counts as one
_FAINTEST = 5  # of 255: a breast is brighter than its background by more
_DARKEST = 8  # of 255: a disc is brighter, what JPEG leaves of black isn't


@dataclass(frozen=True)
class Found:
    """An object on an image."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the image; the last two are beyond it."""
    right: bool
    """Its centre of mass lies in the image's right half."""


def cropped(image: Image.Image, crop: Crop, side: Side) -> Image.Image:
    """The part of an image that `crop` means, or all of it where nothing is found.

    Args:
        image: mode "L" or "RGB".
        side: `left` mirrors a breast at the image's right edge.
    """
    if crop == "none":
        return image
    found = find_breast(image) if crop == "breast" else find_disc(image)
    if found is None:
        return image
    image = image.crop(found.box)
    return ImageOps.mirror(image) if crop == "breast" and side == "left" and found.right else image


def find_breast(image: Image.Image) -> Found | None:
    """The breast on a mammogram, wherever the background is darker than it."""
    return _find(image, "breast", lambda copy: _above_background(_grey(copy)))


def find_disc(image: Image.Image) -> Found | None:
    """The lit disc of a fundus photograph, also where it is cut off above and below."""
    return _find(image, "disc", lambda copy: _above_black(copy))


def _find(image: Image.Image, crop: Crop, bright: Callable[[np.ndarray], np.ndarray]) -> Found | None:
    scale = max(1.0, max(image.size) / LOOK)
    size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
    copy = np.asarray(image.resize(size, Image.Resampling.BOX))
    # With a frame of zeros: what reaches an edge is neither opened away nor kept from being closed there.
    mask = np.pad(bright(copy), _CLOSING)
    mask = ndimage.binary_closing(mask, _round(_CLOSING))[_CLOSING:-_CLOSING, _CLOSING:-_CLOSING]
    mask = ndimage.binary_opening(mask, _round(_OPENING[crop]))
    parts, count = ndimage.label(mask)
    if not count:
        return None
    areas = np.bincount(parts.ravel())[1:]
    largest = int(areas.argmax())
    if areas[largest] < SMALLEST[crop] * mask.size:
        return None
    rows, columns = ndimage.find_objects(parts)[largest]
    height, width = MARGIN[crop] * (rows.stop - rows.start), MARGIN[crop] * (columns.stop - columns.start)
    across, down = image.width / size[0], image.height / size[1]
    box = (
        max(0, int((columns.start - width) * across)),
        max(0, int((rows.start - height) * down)),
        min(image.width, int(np.ceil((columns.stop + width) * across))),
        min(image.height, int(np.ceil((rows.stop + height) * down))),
    )
    centre = float(np.nonzero(parts == largest + 1)[1].mean())
    return Found(box, right=centre > (size[0] - 1) / 2)


def _above_background(grey: np.ndarray) -> np.ndarray:
    """[H, W] bool: brighter than the background, which is the first peak of the dark part's histogram.

    Otsu's threshold alone would part dense from fatty tissue. It only says here where to look for the background; that
    one's own spread, seen on its dark side, where there is little else, says how far it reaches.
    """
    smooth = ndimage.median_filter(grey, 3)
    dark = smooth[smooth <= otsu(smooth)]
    if not len(dark):
        return np.zeros(grey.shape, dtype=bool)
    from scipy.signal import find_peaks  # only here: every worker would pay for it

    counts = ndimage.gaussian_filter1d(np.bincount(dark, minlength=256).astype(np.float64), 2, mode="constant")
    # Lower ones are a scanner's own black around the film.
    peaks, _ = find_peaks(np.pad(counts, 1), height=_PEAK * counts.max())
    background = int(peaks[0]) - 1
    below = background - dark[dark <= background].astype(np.float64)
    spread = float(np.median(below)) / 0.6745 if len(below) else 0.0  # of a normal distribution, from its half
    return smooth > background + max(_FAINTEST, 4 * spread)


def _above_black(copy: np.ndarray) -> np.ndarray:
    """[H, W] bool: brighter than the black around a fundus in its brightest channel, which is mostly red."""
    brightest = copy if copy.ndim == 2 else copy.max(axis=2)
    smooth = ndimage.median_filter(brightest, 3)
    return smooth > max(_DARKEST, 0.1 * float(np.percentile(smooth, 95)))


def otsu(values: np.ndarray) -> int:
    """The threshold of 8-bit values with the greatest variance between what is at most it and what is above.

    Otsu 1979, "A threshold selection method from gray-level histograms".
    """
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    total = np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = total / below - (total[-1] - total) / above
        between = np.nan_to_num(below * above * distance**2)
    return int(between.argmax())


def _grey(copy: np.ndarray) -> np.ndarray:
    return copy if copy.ndim == 2 else np.asarray(Image.fromarray(copy).convert("L"))


def _round(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius + radius
