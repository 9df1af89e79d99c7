"""The families of backbones: what each needs beside its rows in spaces/backbones/*.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from spaces.backbone import BackboneSpec
from trainables.backbones import aimv2, any_timm, clip, coca, dinov2, dinov3, mae, sam2, vmamba
from trainables.backbones.any_timm import TimmBackbone
from trainables.backbones.coca import CocaBackbone
from trainables.backbones.dinov3 import Dinov3Backbone
from trainables.backbones.protocol import Backbone
from trainables.backbones.sam2 import Sam2Backbone
from trainables.backbones.vit import State, VitBackbone, vit_trunk
from trainables.backbones.vmamba import VmambaBackbone


class MakeTrunk(Protocol):
    def __call__(self, spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
        """The bare model for inputs of this height and width."""


class Convert(Protocol):
    def __call__(self, state: State) -> State:
        """Weights in any layout in circulation -> in the trunk's layout. Keys it doesn't know stay."""


class Resize(Protocol):
    def __call__(self, state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
        """Weights made for one input size -> for the trunk's, as the family's authors do."""


class Unused(Protocol):
    def __call__(self, spec: BackboneSpec) -> re.Pattern[str]:
        """Keys of a file that the backbone has no use for."""


NONE = re.compile(r"$^")
POSITIONS = re.compile(r"pos_embed$")


@dataclass(frozen=True)
class Family:
    backbone: type[Backbone]
    trunk: MakeTrunk
    convert: Convert
    resize: Resize
    unused: re.Pattern[str] | Unused
    """Keys of a converted file that the backbone has no use for. Any other key without a place is a mistake."""
    resized: re.Pattern[str] = NONE
    """Weights whose shape depends on the input size."""
    meta: bool = True
    """Whether a trunk can be built without its weights. Not where building computes more than the file holds."""

    def without_unused(self, state: State, spec: BackboneSpec) -> State:
        pattern = self.unused if isinstance(self.unused, re.Pattern) else self.unused(spec)
        return {key: tensor for key, tensor in state.items() if not pattern.match(key)}


FAMILIES: dict[str, Family] = {
    "dinov2": Family(VitBackbone, vit_trunk, dinov2.convert, dinov2.resize, dinov2.UNUSED, POSITIONS),
    "dinov3": Family(Dinov3Backbone, dinov3.trunk, dinov3.convert, dinov3.resize, dinov3.UNUSED, meta=False),
    "mae": Family(VitBackbone, vit_trunk, mae.convert, mae.resize, mae.UNUSED, POSITIONS),
    "aimv2": Family(VitBackbone, vit_trunk, aimv2.convert, aimv2.resize, aimv2.UNUSED, POSITIONS),
    "clip": Family(VitBackbone, vit_trunk, clip.convert, clip.resize, clip.UNUSED, POSITIONS),
    "coca": Family(CocaBackbone, coca.trunk, coca.convert, clip.resize, coca.UNUSED, POSITIONS),
    "sam2": Family(Sam2Backbone, sam2.trunk, sam2.convert, sam2.resize, sam2.UNUSED),
    "vmamba": Family(VmambaBackbone, vmamba.trunk, vmamba.convert, vmamba.resize, vmamba.UNUSED),
    "timm": Family(
        TimmBackbone, any_timm.trunk, any_timm.convert, any_timm.resize, any_timm.unused, any_timm.RESIZED, meta=False
    ),
}
