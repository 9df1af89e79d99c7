"""MAE (He et al. 2022), the encoder: the layout of its files, its positions."""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from trainables.backbones.vit import State, resize_positions

UNUSED = re.compile(r"mask_token$|decoder_")
"""Of pretraining only; the files come with and without them."""


def convert(state: State) -> State:
    """The authors' layout is timm's."""
    return state


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Positions as the authors resample them for fine-tuning at another resolution."""
    return resize_positions(state, spec, trunk, where, _interpolate)


def _interpolate(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(positions, size=grid, mode="bicubic", align_corners=False, antialias=False)
