"""Augmentation against independent computations: torch's flips and turns, Pillow's rotation, torchvision's colours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as torchvision

from spaces.config import Resolution, TrialConfig
from spaces.policy import Policy, policies
from trainables import augment as module
from trainables.augment import DRAWS, Augment, draws, store_resolution

NEUTRAL = {"CROP": 0.0, "X": 0.5, "Y": 0.5, "ROTATE": 0.5, "FLIP": 0.9, "UPSIDE": 0.9}
COLOURS = ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")


def config(policy: str = "none", level: int = 3, resolution: Resolution = (12, 16)) -> TrialConfig:
    return TrialConfig(
        backbone="mae_tiny", weights="random", metric="accuracy", epochs=1, seed=0, head_lr=1e-3,
        resolution=resolution, policy=policy, level=level,
    )  # fmt: skip


def drawn(**changed: float) -> Tensor:
    """Draws of one image [1, DRAWS] that change nothing but what is named."""
    row = torch.full((1, DRAWS), 0.5)
    for name, value in {**NEUTRAL, **changed}.items():
        row[0, getattr(module, f"_{name}")] = value
    return row


def augmented(images: Tensor, ranges: Policy, resolution: Resolution | None = None, **changed: float) -> Tensor:
    """One image under a policy's full ranges with chosen draws."""
    augment = Augment(config(resolution=resolution or tuple(images.shape[2:])))
    augment.ranges = ranges
    return augment(images, drawn(**changed))


def noise(height: int, width: int, channels: int = 3, batch: int = 1, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(low, high, (batch, channels, height, width), generator=generator, dtype=torch.uint8)


def test_draws_are_a_function_of_seed_view_and_row() -> None:
    assert torch.equal(draws(1, 2, 50), draws(1, 2, 50))
    assert torch.equal(draws(1, 2, 50)[:20], draws(1, 2, 20)), "a row's numbers shouldn't depend on how many there are"
    for other in (draws(1, 3, 50), draws(2, 2, 50)):
        assert not (other == draws(1, 2, 50)).any()
    many = draws(2**31 - 1, 10_000, 4000)
    assert many.shape == (4000, DRAWS) and many.dtype == torch.float32
    assert many.min() >= 0 and many.max() < 1
    assert (many.mean(dim=0) - 0.5).abs().max() < 0.03
    assert np.abs(np.corrcoef(many.numpy(), rowvar=False) - np.eye(DRAWS)).max() < 0.08


def test_draws_share_nothing_with_the_order_of_samples_or_mixup() -> None:
    own = draws(3, 5, 40)
    for key in ([3, 5], [3, 5 + (1 << 32)]):  # as data/order.py and losses.py have them
        generator = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
        assert not (own.numpy() == generator.random((40, DRAWS), dtype=np.float32)).any()


@pytest.mark.parametrize("policy", ["natural", "fundus"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_augmented_alike_in_every_batch(policy: str, channels: int) -> None:
    augment, images, numbers = Augment(config(policy)), noise(17, 23, channels, batch=9), draws(0, 0, 9)
    whole = augment(images, numbers)
    order = torch.tensor([7, 2, 2, 8, 0])
    torch.testing.assert_close(augment(images[order], numbers[order]), whole[order], atol=1e-6, rtol=0)
    torch.testing.assert_close(augment(images[3:4], numbers[3:4]), whole[3:4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("policy", policies())
def test_level_0_is_the_image_itself(policy: str) -> None:
    images = noise(12, 16, batch=2)
    out = Augment(config(policy, level=0))(images, draws(0, 0, 2))
    assert out.dtype == torch.float32
    assert torch.equal(out, images.float() / 255)
    assert torch.equal((out * 255).round().to(torch.uint8), images)


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_between_0_and_1_and_sizes_are_the_inputs(policy: str, channels: int) -> None:
    for level in (1, 2, 3):
        settings = config(policy, level)
        height, width = store_resolution(settings)
        white = torch.full((30, channels, height, width), 255, dtype=torch.uint8)
        for images in (noise(height, width, channels, batch=30), white):
            out = Augment(settings)(images, draws(level, 1, 30))
            assert out.shape == (30, channels, *settings.resolution)
            assert out.min() >= 0 and out.max() <= 1


def test_turns_by_quarters_of_images_that_arent_square() -> None:
    images = noise(8, 14)
    turned = Policy(rotate=180)
    half = augmented(images, turned, ROTATE=1.0)
    torch.testing.assert_close(half, torch.rot90(images.float() / 255, 2, (2, 3)), atol=1e-4, rtol=0)
    # A quarter turn is 14 x 8: of it the middle 8 x 8 are seen, with black to the left and right.
    for draw, quarter in ((0.75, 1), (0.25, -1)):
        expected = torch.zeros(1, 3, 8, 14)
        expected[..., 3:11] = torch.rot90(images.float() / 255, quarter, (2, 3))[:, :, 3:11]
        found = augmented(images, turned, ROTATE=draw)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("degrees", [-37.0, 12.0, 66.0])
def test_rotation_is_pillows(degrees: float) -> None:
    images = noise(31, 45, channels=1)
    found = augmented(images, Policy(rotate=90), ROTATE=(degrees / 90 + 1) / 2)[0, 0].numpy()
    float_image = Image.fromarray(images[0, 0].numpy().astype(np.float32) / 255)
    expected = np.asarray(float_image.rotate(degrees, Image.Resampling.BILINEAR))
    ones = Image.new("F", (45 - 4, 31 - 4), 1.0)
    inside = Image.new("F", (45, 31), 0.0)
    inside.paste(ones, (2, 2))  # Pillow treats the outermost half pixel in another way
    seen = np.asarray(inside.rotate(degrees, Image.Resampling.BILINEAR)) == 1
    assert seen.sum() > 400
    np.testing.assert_allclose(found[seen], expected[seen], atol=2e-4)


def test_flips() -> None:
    images = noise(9, 13)
    pixels = images.float() / 255
    sides, both = Policy(flip=True), Policy(flip=True, upright=False)
    torch.testing.assert_close(augmented(images, sides, FLIP=0.49), pixels.flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(augmented(images, sides, FLIP=0.5, UPSIDE=0.1), pixels, atol=1e-5, rtol=0)
    torch.testing.assert_close(augmented(images, both, UPSIDE=0.2), pixels.flip(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(augmented(images, both, UPSIDE=0.2, FLIP=0.2), pixels.flip(2, 3), atol=1e-5, rtol=0)
    never = Policy(scale=0.9)
    torch.testing.assert_close(augmented(images, never, FLIP=0.0, UPSIDE=0.0), pixels, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("x", "left"), [(0.0, 0), (0.5, 5), (1.0, 10), (0.7, 7)])
@pytest.mark.parametrize(("y", "top"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_the_strongest_crop_is_a_slice_of_the_stored_image(x: float, left: int, y: float, top: int) -> None:
    images = noise(16, 20)
    out = augmented(images, Policy(scale=0.25), (8, 10), CROP=1.0, X=x, Y=y)
    expected = images[..., top : top + 8, left : left + 10].float() / 255
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_no_crop_sees_the_whole_image() -> None:
    images = noise(16, 20)
    out = augmented(images, Policy(scale=0.25), (8, 10), CROP=0.0, X=0.0, Y=1.0)
    halved = torch.nn.functional.avg_pool2d(images.float() / 255, 2)  # what bilinear is at exactly half the size
    torch.testing.assert_close(out, halved, atol=1e-5, rtol=0)


def test_a_crop_keeps_the_share_of_the_area_that_was_drawn() -> None:
    ramp = torch.arange(0, 240, 2, dtype=torch.uint8).expand(1, 1, 120, 120)
    out = augmented(ramp, Policy(scale=0.36), (60, 60), CROP=0.5)[0, 0, 30] * 255
    slope = float((out[1:] - out[:-1]).mean()) / 2  # stored pixels to one of the output
    assert (slope * 60 / 120) ** 2 == pytest.approx(1 - 0.64 / 2, rel=1e-3)


def test_outside_is_black_or_a_mirror_image() -> None:
    white = torch.full((1, 1, 20, 20), 255, dtype=torch.uint8)
    black = augmented(white, Policy(rotate=45), ROTATE=1.0)
    assert black[0, 0, 0, 0] == 0 and black[0, 0, 10, 10] == pytest.approx(1)
    mirrored = augmented(white, Policy(rotate=45, outside="reflect"), ROTATE=1.0)
    torch.testing.assert_close(mirrored, torch.ones_like(mirrored))


@pytest.mark.parametrize(
    "jitter", [(0.9, 0.5, 0.5), (0.5, 0.1, 0.5), (0.5, 0.5, 1.0), (0.2, 0.8, 0.1), (0.7, 0.9, 0.8)]
)
def test_brightness_contrast_and_saturation_are_torchvisions(jitter: tuple[float, float, float]) -> None:
    images = noise(12, 16, low=90, high=150)
    brightness, contrast, saturation = (1 + 0.3 * (2 * draw - 1) for draw in jitter)
    expected = torchvision.adjust_brightness(images.float() / 255, brightness)
    expected = torchvision.adjust_contrast(expected, contrast)
    expected = torchvision.adjust_saturation(expected, saturation)
    ranges = Policy(brightness=0.3, contrast=0.3, saturation=0.3)
    found = augmented(images, ranges, **dict(zip(COLOURS, jitter, strict=False)))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)  # torchvision weighs red 0.2989


def test_colours_change_in_their_share_of_the_views_flipped_or_not() -> None:
    ranges = Policy(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, colour=0.8, flip=True)
    augment = Augment(config(resolution=(8, 8)))
    augment.ranges = ranges
    many = draws(0, 0, 2000)
    for name in ("CROP", "X", "Y", "ROTATE", "UPSIDE"):
        many[:, getattr(module, f"_{name}")] = NEUTRAL[name]
    images = noise(8, 8).expand(2000, -1, -1, -1)
    found, flipped = augment(images, many), many[:, module._FLIP] < 0.5
    still = torch.where(flipped[:, None, None, None], images.flip(3), images).float() / 255
    changed = (found - still).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.float().mean() == pytest.approx(0.8, abs=0.03)
    for of in (flipped, ~flipped):
        assert changed[of].float().mean() == pytest.approx(0.8, abs=0.05)
    images = noise(8, 8, channels=1).expand(2000, -1, -1, -1)
    grey = (augment(images, many) - torch.where(flipped[:, None, None, None], images.flip(3), images) / 255).abs()
    assert ((grey.amax(dim=(1, 2, 3)) > 1e-3) == changed).float().mean() > 0.98, "the same views"


def test_hue_turns_the_colours_and_keeps_the_brightness() -> None:
    images = noise(6, 6, low=110, high=145)
    pixels = images.float() / 255
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    luma = (pixels * weights).sum(dim=1, keepdim=True)
    half = augmented(images, Policy(hue=0.5), HUE=1.0)
    torch.testing.assert_close(half, 2 * luma - pixels, atol=1e-5, rtol=0)  # opposite on the circle
    some = augmented(images, Policy(hue=0.5), HUE=0.65)
    torch.testing.assert_close((some * weights).sum(dim=1, keepdim=True), luma, atol=1e-5, rtol=0)
    assert (some - pixels).abs().max() > 0.01


def test_grey_stays_grey_and_one_channel_is_treated_as_three() -> None:
    grey = noise(12, 16, channels=1, batch=8)
    numbers = draws(5, 0, 8)
    for policy in ("fundus", "natural"):
        augment = Augment(config(policy))
        three = augment(grey.expand(-1, 3, -1, -1).contiguous(), numbers)
        assert (three - three.mean(dim=1, keepdim=True)).abs().max() < 1e-5
        torch.testing.assert_close(augment(grey, numbers), three[:, :1], atol=1e-5, rtol=0)


def test_level_is_a_share_of_the_ranges() -> None:
    images, numbers = noise(12, 16, batch=6, low=60, high=120), draws(1, 1, 6)
    ranges: dict[str, Any] = {"rotate": 30, "scale": 0.4, "brightness": 0.3, "contrast": 0.3}
    for level in (1, 2, 3):
        augment, by_hand = Augment(config(level=level)), Augment(config(level=3))
        augment.ranges = Policy(**ranges).at(level)
        scaled = {name: value * level / 3 for name, value in ranges.items() if name != "scale"}
        by_hand.ranges = Policy(**scaled, scale=1 - 0.6 * level / 3)
        torch.testing.assert_close(augment(images, numbers), by_hand(images, numbers))


def test_a_searchs_own_ranges_are_what_is_done() -> None:
    images = noise(12, 16, batch=40)
    usual = config("radiograph")
    own = usual.model_copy(update={"augmentation": {"flip": True, "rotate": 0, "scale": 1.0}})
    out = Augment(own)(images, draws(0, 0, 40))
    flipped = draws(0, 0, 40)[:, module._FLIP] < 0.5
    pixels = images.float() / 255
    assert flipped.any() and not flipped.all()
    torch.testing.assert_close(out[flipped], pixels[flipped].flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[~flipped], pixels[~flipped], atol=1e-5, rtol=0)
    assert store_resolution(own) == (12, 16) != store_resolution(usual)


@pytest.mark.parametrize(
    ("policy", "level", "expected"),
    [("natural", 0, (96, 56)), ("none", 3, (96, 56)), ("natural", 1, (136, 80)), ("natural", 3, (136, 80))],
)
def test_stored_so_that_the_strongest_crop_isnt_enlarged(policy: str, level: int, expected: Resolution) -> None:
    assert store_resolution(config(policy, level, (96, 56))) == expected
    if expected != (96, 56):
        strongest = policies()[policy].scale
        assert all(side - 1 < own / math.sqrt(strongest) <= side for side, own in zip(expected, (96, 56), strict=True))
