"""Augmentation of a whole batch on its device, with parameters of its own for each image.

One resampling does crop, rotation, flips and the change of size; one 3x3 matrix does brightness, contrast, saturation
and hue. Parameters are a function of (seed, view, row), drawn on the CPU from a counter-based generator
(Philox; Salmon et al. 2011), so that they depend neither on the batch an image stands in nor on rank or device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.config import Resolution, TrialConfig
from spaces.policy import policy

DRAWS = 10  # numbers in [0, 1) that one image and view take
_CROP, _X, _Y, _ROTATE, _FLIP, _UPSIDE, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(DRAWS)
_GREY = (0.299, 0.587, 0.114)
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def draws(seed: int, view: int, rows: int) -> Tensor:
    """Random numbers for one view of the training set, [rows, DRAWS] in [0, 1)."""
    key = np.array([seed, view + (2 << 32)], dtype=np.uint64)  # apart from the order's and mixup's
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.random((rows, DRAWS), dtype=np.float32))


def store_resolution(config: TrialConfig) -> Resolution:
    """Height and width at which a trial's training images are kept: see `Policy.stored_at`."""
    return policy(config.policy, config.augmentation).stored_at(config.resolution, config.level)


class Augment:
    """Augments batches as one trial's configuration says."""

    def __init__(self, config: TrialConfig) -> None:
        self.ranges = policy(config.policy, config.augmentation).at(config.level)
        self.resolution = config.resolution
        self.active = config.level > 0
        self._constants: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augmented images at the input's resolution.

        Args:
            images: uint8 [B, C, H, W] at the store's resolution, C 1 or 3.
            draws: [B, DRAWS] in [0, 1), on any device.

        Returns:
            float32 [B, C, height, width] in [0, 1].
        """
        pixels = images.to(torch.float32).div_(255)
        if not self.active:
            return pixels
        draws = draws.to(pixels.device)
        pixels = F.grid_sample(
            pixels,
            self._grid(draws, images.shape[1], images.shape[2:]),
            mode="bilinear",
            padding_mode="zeros" if self.ranges.outside == "black" else "reflection",
            align_corners=False,
        )
        return self._colour(pixels, draws)

    def _grid(self, draws: Tensor, channels: int, size: torch.Size) -> Tensor:
        """Where each output pixel looks in the stored image, [B, height, width, 2] in [-1, 1]."""
        ranges, stored_height, stored_width = self.ranges, size[0], size[1]
        area = 1 - (1 - ranges.scale) * draws[:, _CROP]
        zoom = area.sqrt()
        angle = math.radians(ranges.rotate) * (2 * draws[:, _ROTATE] - 1)
        flip_x = torch.where(draws[:, _FLIP] < 0.5, -1.0, 1.0) if ranges.flip else torch.ones_like(zoom)
        flip_y = torch.where(draws[:, _UPSIDE] < 0.5, -1.0, 1.0) if not ranges.upright else torch.ones_like(zoom)
        # The crop's centre moves within what it leaves free. Rotation is in pixels, hence the ratio of sides.
        move_x, move_y = (1 - zoom) * (2 * draws[:, _X] - 1), (1 - zoom) * (2 * draws[:, _Y] - 1)
        ratio = stored_height / stored_width
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        theta = torch.stack(
            [
                torch.stack([cosine * flip_x, -sine * flip_y * ratio, move_x], dim=1),
                torch.stack([sine * flip_x / ratio, cosine * flip_y, move_y], dim=1),
            ],
            dim=1,
        )
        return F.affine_grid(theta, [len(draws), channels, *self.resolution], align_corners=False)

    def _colour(self, pixels: Tensor, draws: Tensor) -> Tensor:
        ranges = self.ranges
        if not (ranges.brightness or ranges.contrast or ranges.saturation or ranges.hue):
            return pixels.clamp_(0, 1)  # interpolation's weights add up to 1 but for rounding
        changed = (2 * draws[:, _FLIP] % 1 < ranges.colour).float()  # what is left of a draw when it has told the flip
        brightness = _factor(draws[:, _BRIGHTNESS], ranges.brightness * changed)
        contrast = _factor(draws[:, _CONTRAST], ranges.contrast * changed)
        grey, to_yiq, from_yiq = self._on(pixels.device)
        if pixels.shape[1] == 1:
            mean = pixels.mean(dim=(1, 2, 3))
            scaled = pixels * (brightness * contrast)[:, None, None, None]
        else:
            mean = torch.einsum("c,bchw->b", grey, pixels) / (pixels.shape[2] * pixels.shape[3])
            saturation = _factor(draws[:, _SATURATION], ranges.saturation * changed)
            turn = 2 * math.pi * ranges.hue * changed * (2 * draws[:, _HUE] - 1)
            matrix = _colour_matrix(saturation, turn, to_yiq, from_yiq) * (brightness * contrast)[:, None, None]
            scaled = torch.einsum("bij,bjhw->bihw", matrix, pixels)
        offset = (1 - contrast) * brightness * mean  # contrast is about the image's mean brightness
        return scaled.add_(offset[:, None, None, None]).clamp_(0, 1)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of grey, the matrix to YIQ and the one back: sent once, as inverting waits for a device."""
        if device not in self._constants:
            back = torch.linalg.inv(_YIQ)
            self._constants[device] = (torch.tensor(_GREY).to(device), _YIQ.to(device), back.to(device))
        return self._constants[device]


def _factor(draw: Tensor, spread: Tensor) -> Tensor:
    return 1 + spread * (2 * draw - 1)


def _colour_matrix(saturation: Tensor, turn: Tensor, to_yiq: Tensor, from_yiq: Tensor) -> Tensor:
    """Saturation and a turn of the hue as matrices on RGB, [B, 3, 3]; grey stays as it is (a rotation in YIQ)."""
    cosine, sine = turn.cos() * saturation, turn.sin() * saturation
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    rotation = torch.stack(
        [
            torch.stack([one, zero, zero], 1),
            torch.stack([zero, cosine, -sine], 1),
            torch.stack([zero, sine, cosine], 1),
        ],
        1,
    )
    return from_yiq @ rotation @ to_yiq
