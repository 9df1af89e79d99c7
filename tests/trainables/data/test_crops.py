from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainables.data.crops import cropped, find_breast, find_disc, otsu

Box = tuple[int, int, int, int]


def mammogram(
    height: int = 900,
    width: int = 700,
    right: bool = False,
    background: tuple[float, float] = (0, 0),
    label: bool = True,
    strip: bool = False,
    black: bool = False,
    small: bool = False,
    seed: int = 0,
) -> tuple[Image.Image, Box]:
    """Half an ellipse of fatty tissue (from 45) with a dense middle (to 200), and where it lies.

    `background`: mean and standard deviation. `label`: text in a bright frame near the top, opposite of the breast.
    `strip`: a bright film edge opposite of the breast. `black`: a scanner's own black around the film.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    tall, deep = (0.2, 0.25) if small else (0.38, 0.6)
    away = ((y - 0.5 * height) / (tall * height)) ** 2 + (x / (deep * width)) ** 2
    image = random.normal(*background, (height, width))
    tissue = 45 + 155 * np.exp(-3 * away) + random.normal(0, 8, (height, width))
    image = np.where(away < 1, tissue + background[0], image)
    if strip:
        image[:, -int(0.02 * width) :] = 250
    if black:
        image[: int(0.02 * height)] = image[-int(0.02 * height) :] = 0
    drawn = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if label:
        draw = ImageDraw.Draw(drawn)
        draw.rectangle((width - 160, 30, width - 40, 80), outline=255, width=3)
        draw.text((width - 145, 40), "R MLO", fill=255, font_size=30)
    box = (0, int((0.5 - tall) * height), int(deep * width), int((0.5 + tall) * height))
    if right:
        drawn, box = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (width - box[2], box[1], width, box[3])
    return drawn, box


def assert_about(found: Box, expected: Box, size: tuple[int, int]) -> None:
    """Not more than 1% of the image inside the expected box, nor 4% outside of it."""
    outside = np.array(expected) - found
    outside[2:] *= -1
    share = outside / np.array([*size, *size])
    assert (share >= -0.01).all() and (share <= 0.04).all(), (found, expected)


CASES = {
    "digital": {},
    "right": {"right": True},
    "film": {"background": (14, 4)},
    "bright film": {"background": (35, 6)},
    "film's edge": {"background": (14, 4), "strip": True},
    "film's edge, right": {"strip": True, "right": True},
    "scanner's black": {"background": (18, 3), "black": True},
    "everything": {"background": (18, 4), "black": True, "strip": True, "right": True},
    "small": {"small": True},
    "large": {"height": 3000, "width": 2400, "background": (12, 3)},
    "wide": {"height": 500, "width": 800},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_breast(case: str, seed: int) -> None:
    image, box = mammogram(**CASES[case], seed=seed)
    found = find_breast(image)
    assert found is not None and found.right == CASES[case].get("right", False)
    assert_about(found.box, box, image.size)
    assert find_breast(image.convert("RGB")) == found


def test_a_tight_image_stays_whole() -> None:
    image, box = mammogram(background=(14, 4), label=False)
    tight = image.crop(box)
    found = find_breast(tight)
    assert found is not None
    assert_about(found.box, (0, 0, *tight.size), tight.size)


def test_the_side() -> None:
    image, _ = mammogram(right=True)
    other, _ = mammogram()
    kept, mirrored = cropped(image, "breast", "keep"), cropped(image, "breast", "left")
    as_it_is = cropped(other, "breast", "left")
    assert np.asarray(kept)[:, -20:].mean() > 3 * np.asarray(kept)[:, :20].mean()
    np.testing.assert_array_equal(np.asarray(mirrored), np.asarray(kept)[:, ::-1])
    assert abs(np.asarray(mirrored)[:, :20].mean() - np.asarray(as_it_is)[:, :20].mean()) < 5
    assert cropped(other, "breast", "keep").tobytes() == as_it_is.tobytes()


def fundus(height: int, width: int, diameter: int, border: float = 0, seed: int = 0) -> Image.Image:
    """A reddish disc, darker towards its rim, in the middle of noise around `border`."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    away = np.hypot(y - height / 2 + 0.5, x - width / 2 + 0.5) / (diameter / 2)
    lit = np.clip(160 * (1 - 0.75 * away**4), 0, 255)[..., None] * [1.0, 0.55, 0.25]
    black = np.abs(random.normal(border, 1.5, (height, width, 1))) * np.ones(3)
    return Image.fromarray(np.where(away[..., None] < 1, lit, black).astype(np.uint8))


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize(
    ("height", "width", "diameter", "expected"),
    [
        (400, 600, 380, (110, 10, 490, 390)),
        (400, 600, 500, (50, 0, 550, 400)),  # cut off above and below
        (2000, 3000, 1900, (550, 50, 2450, 1950)),
        (200, 200, 190, (5, 5, 195, 195)),
        (300, 400, 520, (0, 0, 400, 300)),  # no border
    ],
)
def test_disc(height: int, width: int, diameter: int, expected: Box, border: float) -> None:
    image = fundus(height, width, diameter, border)
    found = find_disc(image)
    assert found is not None
    assert_about(found.box, expected, image.size)
    assert cropped(image, "disc", "left").size == (found.box[2] - found.box[0], found.box[3] - found.box[1])


def test_a_date_in_the_border_is_no_part_of_the_disc() -> None:
    image = fundus(400, 700, 360)
    plain = find_disc(image)
    ImageDraw.Draw(image).text((10, 370), "2014-03-02", fill=(255, 255, 255), font_size=16)
    assert find_disc(image) == plain


@pytest.mark.parametrize("shade", [0, 7, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (300, 400)])
def test_nothing_to_find(shade: int, size: tuple[int, int]) -> None:
    for mode in ("L", "RGB"):
        image = Image.new(mode, size, (shade,) * 3 if mode == "RGB" else shade)
        for crop in ("breast", "disc", "none"):
            assert cropped(image, crop, "left").tobytes() == image.tobytes()


def test_a_label_alone_is_no_breast() -> None:
    image = Image.new("L", (700, 900))
    ImageDraw.Draw(image).rectangle((540, 30, 660, 80), fill=255)
    assert find_breast(image) is None and cropped(image, "breast", "left") is image


def test_otsu() -> None:
    values = np.array([10] * 50 + [12] * 50 + [200] * 30 + [210] * 30, dtype=np.uint8)
    assert 12 <= otsu(values) < 200
