"""CoCa (Yu et al. 2022), the image tower of open_clip's models: a vision transformer and an attention pooler."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from trainables.backbones import clip
from trainables.backbones.protocol import Features
from trainables.backbones.vit import State, VitBackbone, checked, renamed

UNUSED = re.compile(r"(text|text_decoder)\.|logit_scale$")
"""The text towers."""
EPSILON = 1e-5

POOLER = (
    (r"^visual\.attn_pool\.attn\.([qkv])_proj_weight$", r"pooler.\1.weight"),
    (r"^visual\.attn_pool\.attn\.out_proj\.", "pooler.out."),
    (r"^visual\.attn_pool\.ln_([qk])\.", r"pooler.norm_\1."),
    (r"^visual\.attn_pool\.query$", "pooler.query"),
    (r"^visual\.ln_post\.", "pooler.norm."),
    (r"^visual\.proj$", "pooler.proj.weight"),
)


class AttentionPooler(nn.Module):
    """Learned queries that attend to all tokens of the trunk: query 0 is the image, the others are its tokens.

    torch's MultiheadAttention computes the same, but not with its layers: adapters in them would get no gradient.

    Args:
        width: channels of the trunk's tokens.
        out: channels of queries and features.
    """

    def __init__(self, width: int, out: int, heads: int, queries: int, device: str | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(queries, out, device=device))
        nn.init.normal_(self.query)
        self.norm_q = nn.LayerNorm(out, eps=EPSILON, device=device)
        self.norm_k = nn.LayerNorm(width, eps=EPSILON, device=device)
        self.q = nn.Linear(out, out, device=device)
        self.k = nn.Linear(width, out, device=device)
        self.v = nn.Linear(width, out, device=device)
        self.out = nn.Linear(out, out, device=device)
        self.norm = nn.LayerNorm(out, eps=EPSILON, device=device)
        self.proj = nn.Linear(out, out, bias=False, device=device)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """[B, T, width] -> [B, queries, out], normed."""
        x_BTC = self.norm_k(x_BTC)
        query = self.q(self.norm_q(self.query)).expand(len(x_BTC), -1, -1)
        parts = (self._split(query), self._split(self.k(x_BTC)), self._split(self.v(x_BTC)))
        attended = F.scaled_dot_product_attention(*parts)
        return self.norm(self.out(attended.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CocaTower(VisionTransformer):
    """timm's vision transformer without a last norm, and the pooler."""

    def __init__(self, *, out: int, pooler_heads: int, queries: int, device: str, **arguments: Any) -> None:
        super().__init__(
            num_classes=0,
            global_pool="",
            pre_norm=True,
            final_norm=False,
            norm_layer=partial(nn.LayerNorm, eps=EPSILON),
            device=device,
            **arguments,
        )
        self.pooler = AttentionPooler(self.embed_dim, out, pooler_heads, queries, device)


class CocaBackbone(VitBackbone):
    trunk: CocaTower

    def suffix(self, hidden: Tensor, boundary: int) -> Features:
        queries = self.trunk.pooler(self._blocks(hidden, boundary, self.spec.blocks))
        return Features(queries[:, 1:], queries[:, :1], self.trunk.pooler.proj(queries[:, 0]))

    def no_weight_decay(self) -> frozenset[str]:
        return super().no_weight_decay() | {"trunk.pooler.query"}

    def for_pooled_alone(self) -> frozenset[str]:
        return frozenset({"trunk.pooler.proj.weight"})


def trunk(spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
    """The tower of a row of the table; its arguments are `spec.build`."""
    tower = CocaTower(out=spec.width, img_size=resolution, drop_path_rate=drop_path, device=device, **spec.build)
    return checked(tower, spec, len(tower.blocks), tower.pooler.proj.out_features)


def convert(state: State) -> State:
    """open_clip's layout as the tower's; the tower's own stays as it is."""
    converted = renamed(state, POOLER)
    if "visual.proj" in state:
        converted["pooler.proj.weight"] = state["visual.proj"].T
    biases = converted.pop("visual.attn_pool.attn.in_proj_bias", None)
    if biases is not None:
        converted |= {f"pooler.{part}.bias": bias for part, bias in zip("qkv", biases.chunk(3), strict=True)}
    return clip.convert(converted)
