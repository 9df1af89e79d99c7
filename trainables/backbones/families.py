"""The families of backbones: what each needs beside its rows in spaces/backbones/*.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from spaces.backbone import BackboneSpec
from trainables.backbones import dinov2, mae
from trainables.backbones.protocol import Backbone
from trainables.backbones.vit import State, VitBackbone, vit_trunk


class MakeTrunk(Protocol):
    def __call__(self, spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
        """The bare model for inputs of this height and width."""


class Convert(Protocol):
    def __call__(self, state: State) -> State:
        """Weights in any layout in circulation -> in the trunk's layout. Keys it doesn't know stay."""


class Resize(Protocol):
    def __call__(self, state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
        """Weights made for one input size -> for the trunk's, as the family's authors do."""


@dataclass(frozen=True)
class Family:
    backbone: type[Backbone]
    trunk: MakeTrunk
    convert: Convert
    resize: Resize
    unused: re.Pattern[str]
    """Keys of a file that the backbone has no use for. Any other key without a place is a mistake."""
    resized: frozenset[str] = frozenset()
    """Weights whose shape depends on the input size."""


POSITIONS = frozenset({"pos_embed"})

FAMILIES: dict[str, Family] = {
    "dinov2": Family(VitBackbone, vit_trunk, dinov2.convert, dinov2.resize, dinov2.UNUSED, POSITIONS),
    "mae": Family(VitBackbone, vit_trunk, mae.convert, mae.resize, mae.UNUSED, POSITIONS),
}
