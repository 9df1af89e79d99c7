"""DINOv2 (Oquab et al. 2023), and with registers (Darcet et al. 2023): the layout of their files, their positions."""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from trainables.backbones.vit import State, antialiased, resize_positions

UNUSED = re.compile(r"mask_token$")
"""Of training only."""
OFFSET = 0.1
"""Added to the grid by the authors, so that rounding never makes it one patch short."""


def convert(state: State) -> State:
    """The authors' layout as timm's; timm's own stays as it is."""
    converted = {key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for key, v in state.items()}
    if {"register_tokens", "cls_token", "pos_embed"} <= converted.keys():
        # Here CLS has a position of its own and registers have none; in timm's layout only patches have one.
        converted["reg_token"] = converted.pop("register_tokens")
        positions = converted["pos_embed"]
        converted["cls_token"] = converted["cls_token"] + positions[:, :1]
        converted["pos_embed"] = positions[:, 1:]
    return converted


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Positions as the authors resample them: another way with registers than without."""
    return resize_positions(state, spec, trunk, where, antialiased if "reg_token" in state else _without_registers)


def _without_registers(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    native = positions.shape[-2:]
    factors = [float(side + OFFSET) / of for side, of in zip(grid, native, strict=True)]
    return F.interpolate(positions, scale_factor=factors, mode="bicubic", antialias=False)
