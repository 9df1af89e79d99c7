"""DINOv3 (Simeoni et al. 2025) over timm's Eva: rotary positions, so nothing of it depends on the input size."""

from __future__ import annotations

import re
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from trainables.backbones.vit import State, VitBackbone, checked, renamed

UNUSED = re.compile(r"mask_token$|rope_embed\.periods$|blocks\.\d+\.attn\.qkv\.bias_mask$|local_cls_norm\.")
"""Of training only; the rotation's frequencies; which biases count (the key's don't)."""

AUTHORS = (
    (r"^storage_tokens$", "reg_token"),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
)


class QkvLinear(nn.Linear):
    """Projects to query, key and value; the key's bias stays 0, whatever is stored.

    timm's attention reads the weight of its layer instead of calling it: adapters in it would get no gradient.
    """

    def forward(self, input: Tensor) -> Tensor:
        query, key, value = self.bias.chunk(3)
        return F.linear(input, self.weight, torch.cat([query, torch.zeros_like(key), value]))


class Dinov3Backbone(VitBackbone):
    """Its hidden state is all tokens; the rotation is made anew from the input's size at every cut."""

    trunk: Eva  # type: ignore[assignment]

    def prefix(self, images: Tensor, boundary: int) -> Tensor:
        x_BTC, _ = self.trunk._pos_embed(self.trunk.patch_embed(images))
        return self._blocks(self.trunk.norm_pre(x_BTC), 0, boundary)

    def _beside(self) -> dict[str, Any]:
        patch = self.trunk.patch_embed.patch_size
        grid = [side // size for side, size in zip(self.resolution, patch, strict=True)]
        positions: Any = self.trunk.rope
        return {"rope": positions.get_embed(shape=grid)}


def trunk(spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
    """timm's model of a row of the table."""
    assert spec.timm is not None
    arguments: dict[str, Any] = {"num_classes": 0, "drop_path_rate": drop_path, "device": device, **spec.build}
    # As for all vision transformers here: timm's own pooling would replace the pretrained last norm.
    eva = cast(Eva, timm.create_model(spec.timm, pretrained=False, global_pool="", **arguments))
    for block in eva.blocks:
        attention: Any = block.attn
        width = attention.qkv.in_features
        projection = QkvLinear(width, 3 * width, device=device)
        nn.init.trunc_normal_(projection.weight, std=0.02)
        nn.init.zeros_(projection.bias)
        attention.qkv, attention.q_bias, attention.k_bias, attention.v_bias = projection, None, None, None
    return checked(eva, spec, len(eva.blocks), eva.num_features)


def convert(state: State) -> State:
    """The authors' layout, or timm's, with each block's biases in one, of which the key's is 0."""
    converted = renamed(state, AUTHORS) if "storage_tokens" in state else dict(state)
    for key in list(converted):
        if re.match(r"blocks\.\d+\.attn\.qkv\.bias$", key):
            query, _, value = converted[key].chunk(3)
            converted[key] = torch.cat([query, torch.zeros_like(query), value])
        match = re.match(r"(blocks\.\d+\.attn\.)q_bias$", key)
        if match and f"{match[1]}v_bias" in converted:
            query, value = converted.pop(key), converted.pop(f"{match[1]}v_bias")
            converted[f"{match[1]}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    return converted


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Nothing to do: there are no stored positions."""
    return state
