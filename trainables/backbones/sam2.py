"""SAM2's image encoder (Ravi et al. 2024): the Hiera trunk, and the two levels of its neck that make stride 16."""

from __future__ import annotations

import re
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models.hieradet_sam2 import HieraDet
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from trainables.backbones.protocol import Backbone, Features
from trainables.backbones.vit import State, checked, renamed

UNUSED = re.compile(
    r"image_encoder\.neck\.convs\.[23]\.|(memory_attention|memory_encoder|sam_prompt_encoder|sam_mask_decoder"
    r"|obj_ptr_proj|obj_ptr_tpos_proj|mask_downsample)\."
    r"|(maskmem_tpos_enc|no_mem_embed|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$"
)
"""The neck's levels of stride 8 and 4, and all that comes after the image encoder."""
STRIDE = 32
EPSILON = 1e-6

ENCODER = (
    (r"^image_encoder\.trunk\.", "hiera."),
    (r"\.mlp\.layers\.0\.", ".mlp.fc1."),
    (r"\.mlp\.layers\.1\.", ".mlp.fc2."),
    # The neck counts its convolutions from the deepest level.
    (r"^image_encoder\.neck\.convs\.0\.conv\.", "neck.deep."),
    (r"^image_encoder\.neck\.convs\.1\.conv\.", "neck.lateral."),
)
BLOCK = re.compile(r"trunk\.hiera\.blocks\.(\d+)(\.|$)")


class Neck(nn.Module):
    """The pyramid's level of stride 16: the third stage, and the fourth upsampled onto it."""

    def __init__(self, third: int, fourth: int, out: int, device: str | None = None) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(third, out, 1, device=device)
        self.deep = nn.Conv2d(fourth, out, 1, device=device)

    def forward(self, third: Tensor, fourth: Tensor) -> Tensor:
        """[B, H/16, W/16, C3] and [B, H/32, W/32, C4] -> [B, out, H/16, W/16]."""
        deep = self.deep(fourth.permute(0, 3, 1, 2))
        # In fp32, as the authors do.
        upsampled = F.interpolate(deep.float(), scale_factor=2.0, mode="nearest")
        return self.lateral(third.permute(0, 3, 1, 2)) + upsampled


class Sam2Trunk(nn.Module):
    def __init__(self, hiera: HieraDet, out: int, device: str | None = None) -> None:
        super().__init__()
        self.hiera = hiera
        third, fourth = (stage["num_chs"] for stage in hiera.feature_info[2:])
        self.neck = Neck(third, fourth, out, device)


class Sam2Backbone(Backbone):
    """Its hidden state is the map [B, h, w, C] before the next block; inside the fourth stage, that map and the third
    stage's, which the neck reads too, one after the other as [B, h * w * C + ...]."""

    trunk: Sam2Trunk

    def prefix(self, images: Tensor, boundary: int) -> Tensor:
        hiera = self.trunk.hiera
        third, x_BHWC = self._blocks(None, hiera._pos_embed(hiera.patch_embed(images)), 0, boundary)
        if third is None or boundary == self._third:
            return x_BHWC
        return torch.cat([third.flatten(1), x_BHWC.flatten(1)], dim=1)

    def suffix(self, hidden: Tensor, boundary: int) -> Features:
        third, x_BHWC = self._unpacked(hidden, boundary)
        third, x_BHWC = self._blocks(third, x_BHWC, boundary, self.spec.blocks)
        assert third is not None
        tokens_BNC = self.trunk.neck(third, x_BHWC).flatten(2).transpose(1, 2)
        pooled_BD = tokens_BNC.mean(dim=1)
        if self.feature.trunk:
            pooled_BD = F.layer_norm(x_BHWC.mean(dim=(1, 2)), x_BHWC.shape[-1:], eps=EPSILON)
        return Features(tokens_BNC, tokens_BNC[:, :0], pooled_BD)

    def depth_of(self, name: str) -> int:
        if block := BLOCK.match(name):
            return int(block[1]) + 1
        return self.spec.blocks + 1 if name.startswith("trunk.neck") else 0

    def no_weight_decay(self) -> frozenset[str]:
        return frozenset(f"trunk.hiera.{name}" for name in self.trunk.hiera.no_weight_decay())

    def for_tokens_alone(self) -> frozenset[str]:
        neck = (f"trunk.neck.{name}" for name, _ in self.trunk.neck.named_parameters())
        return frozenset(neck if self.feature.trunk else ())

    @property
    def _third(self) -> int:
        """The boundary at which the third stage ends."""
        return self.trunk.hiera.stage_ends[2] + 1

    def _blocks(self, third: Tensor | None, x_BHWC: Tensor, first: int, last: int) -> tuple[Tensor | None, Tensor]:
        for step in self.steps(first, last):
            if step == self._third:
                third = x_BHWC
            x_BHWC = self.run_block(self.trunk.hiera.blocks[step], x_BHWC)
        return third, x_BHWC

    def _unpacked(self, hidden: Tensor, boundary: int) -> tuple[Tensor | None, Tensor]:
        if boundary <= self._third:
            return None, hidden
        height, width = (side // STRIDE for side in self.resolution)
        stages = self.trunk.hiera.feature_info
        count = 4 * height * width * stages[2]["num_chs"]
        third, x_BHWC = hidden.tensor_split([count], dim=1)
        return third.unflatten(1, (2 * height, 2 * width, -1)), x_BHWC.unflatten(1, (height, width, -1))


def trunk(spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
    """Trunk and neck of a row of the table; the same for every resolution."""
    arguments: dict[str, Any] = {"num_classes": 0, "drop_path_rate": drop_path, "device": device, **spec.build}
    assert spec.timm is not None
    hiera = cast(HieraDet, timm.create_model(spec.timm, pretrained=False, **arguments))
    # timm's head brings an untrained norm.
    hiera.head = nn.Identity()  # type: ignore[assignment]
    made = Sam2Trunk(hiera, spec.width, device)
    if spec.trunk_width != hiera.num_features:
        raise ValueError(f"{spec.name}: trunk_width is {spec.trunk_width}, the trunk has {hiera.num_features} channels")
    return checked(made, spec, len(hiera.blocks), made.neck.deep.out_channels)


def convert(state: State) -> State:
    """The authors' layout as the trunk's; the trunk's own stays as it is."""
    return renamed(state, ENCODER)


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Nothing to do: the model resamples its positions for each input."""
    return state
