"""Backbones over timm's VisionTransformer: DINOv2 with and without registers, MAE, AIMv2, CLIP, CoCa."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from spaces.mistakes import Mistake
from trainables.backbones.protocol import Backbone, Features

State = dict[str, Tensor]
Interpolation = Callable[[Tensor, tuple[int, int]], Tensor]
"""Position embeddings [1, C, h, w] of one grid of patches -> [1, C, *grid] of another."""

BLOCK = re.compile(r"trunk\.blocks\.(\d+)(\.|$)")
TAIL = re.compile(r"trunk\.(norm|fc_norm|attn_pool|pooler|head_drop|head)(\.|$)")


class VitBackbone(Backbone):
    """A plain vision transformer; its hidden state is all tokens, [B, P + N, C], and behind them the CLS tokens of
    blocks before that its feature wants, oldest first."""

    trunk: VisionTransformer

    def prefix(self, images: Tensor, boundary: int) -> Tensor:
        x_BTC = self.trunk._pos_embed(self.trunk.patch_embed(images))
        return self._blocks(self.trunk.norm_pre(x_BTC), 0, boundary)

    def suffix(self, hidden: Tensor, boundary: int) -> Features:
        x_BTC = self.trunk.norm(self._blocks(hidden, boundary, self.spec.blocks))
        x_BTC, earlier_BKC = self._parted(x_BTC, self.spec.blocks)
        prefix_BPC, tokens_BNC = x_BTC.tensor_split([self.trunk.num_prefix_tokens], dim=1)
        if self.feature.blocks:
            mean = [tokens_BNC.mean(dim=1)] if self.feature.mean else []
            pooled_BD = torch.cat([earlier_BKC.flatten(1), prefix_BPC[:, 0], *mean], dim=1)
        else:
            pooled_BD = prefix_BPC[:, 0] if self.spec.pooled == "cls" else tokens_BNC.mean(dim=1)
        return Features(tokens_BNC, prefix_BPC, pooled_BD)

    def depth_of(self, name: str) -> int:
        # Not timm's group matcher: without a classifier it counts the last norm to the last block.
        if block := BLOCK.match(name):
            return int(block[1]) + 1
        return self.spec.blocks + 1 if TAIL.match(name) else 0

    def no_weight_decay(self) -> frozenset[str]:
        return frozenset(f"trunk.{name}" for name in self.trunk.no_weight_decay())

    def _blocks(self, hidden: Tensor, first: int, last: int) -> Tensor:
        x_BTC, earlier_BKC = self._parted(hidden, first)
        kept, more = [earlier_BKC], self._beside()
        for step in self.steps(first, last):
            if self.carried(step + 1) > self.carried(step):
                kept.append(x_BTC[:, :1])
            x_BTC = self.run_block(self.trunk.blocks[step], x_BTC, **more)
        return torch.cat([x_BTC, *kept], dim=1) if self.carried(last) else x_BTC

    def _parted(self, hidden: Tensor, boundary: int) -> tuple[Tensor, Tensor]:
        """A hidden state's own tokens, and the CLS tokens that it carries [B, K, C]."""
        own, carried = hidden.tensor_split([hidden.shape[1] - self.carried(boundary)], dim=1)
        return own, carried

    def _beside(self) -> dict[str, Any]:
        """What each block gets beside the tokens."""
        return {}


def vit_trunk(spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
    """timm's model of a row of the table, without a classifier, its weights as timm initialises them.

    Args:
        resolution: height and width of the input in pixels.
        drop_path: rate of the last block; it falls linearly to 0 at the first.
        device: `meta` leaves the weights out.
    """
    arguments: dict[str, Any] = {
        "num_classes": 0,
        "img_size": resolution,
        "drop_path_rate": drop_path,
        "device": device,
    }
    # With global_pool="avg" timm replaces the pretrained last norm by one of its own: pooling is left to the backbone.
    assert spec.timm is not None
    created = timm.create_model(spec.timm, pretrained=False, global_pool="", **arguments, **spec.build)
    trunk = cast(VisionTransformer, created)
    return checked(trunk, spec, len(trunk.blocks), trunk.num_features)


def checked(trunk: nn.Module, spec: BackboneSpec, blocks: int, width: int) -> nn.Module:
    """The trunk, if it has as many blocks and channels as its row of the table says.

    Raises:
        ValueError: it hasn't.
    """
    if (blocks, width) != (spec.blocks, spec.width):
        raise ValueError(
            f"{spec.name}: the table says {spec.blocks} blocks of width {spec.width}, "
            f"the model has {blocks} of width {width}"
        )
    return trunk


def renamed(state: State, patterns: Iterable[tuple[str, str]]) -> State:
    """The same weights under other names: each pattern is replaced, in this order, in every key."""
    compiled = [(re.compile(pattern), by) for pattern, by in patterns]
    names = {}
    for key in state:
        names[key] = key
        for pattern, by in compiled:
            names[key] = pattern.sub(by, names[key])
    return {names[key]: tensor for key, tensor in state.items()}


def antialiased(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, as open_clip and timm resample positions."""
    return F.interpolate(positions, size=grid, mode="bicubic", align_corners=False, antialias=True)


def resize_positions(
    state: State, spec: BackboneSpec, trunk: nn.Module, where: str, interpolation: Interpolation
) -> State:
    """The weights with the position embedding brought to the trunk's grid of patches.

    Args:
        state: in the trunk's layout; `pos_embed` is [1, tokens, C].
        where: begins the sentence of a mistake.
        interpolation: the family authors' way.

    Raises:
        Mistake: the stored positions aren't those of a square grid, nor of the native one.
    """
    vit = cast(VisionTransformer, trunk)
    others = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = state["pos_embed"]
    grid = cast(tuple[int, int], tuple(vit.patch_embed.grid_size))
    patch = vit.patch_embed.patch_size
    stored = (spec.native[0] // patch[0], spec.native[1] // patch[1])
    count = positions.shape[1] - others
    if math.prod(stored) != count:
        stored = (math.isqrt(count), math.isqrt(count)) if count > 0 else (0, 0)
    if math.prod(stored) != count or count == 0:
        raise Mistake(
            f"{where}: the position embedding holds {count} patches; {spec.name} needs a square; use the official file."
        )
    if stored == grid:
        return state
    of_patches = positions[:, others:].reshape(1, *stored, -1).permute(0, 3, 1, 2)
    resized = interpolation(of_patches, grid).flatten(2).transpose(1, 2)
    return {**state, "pos_embed": torch.cat([positions[:, :others], resized], dim=1)}
