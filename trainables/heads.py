"""Heads: what turns a backbone's features into outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from spaces.config import Head

HEAD_WIDTH = 64
"""Channels of one attention head, as in vision transformers of all sizes."""


class LinearHead(nn.Module):
    """One linear layer on the pooled feature.

    Args:
        normalised: with a BatchNorm without parameters before it, as in MAE's linear probing (He et al. 2022).
    """

    reads_tokens = False

    def __init__(self, width: int, outputs: int, normalised: bool = False) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(width, affine=False, eps=1e-6) if normalised else nn.Identity()
        self.linear = _linear(width, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.linear(self.norm(pooled.float()))


class AttentiveHead(nn.Module):
    """One learned query that attends to the patch tokens, and a linear layer on what it finds.

    The smallest of attentive probes, keys and values alone (El-Nouby et al. 2024; Bardes et al. 2024).

    Args:
        width: channels of the tokens.
    """

    reads_tokens = True

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        heads = next(count for count in range(max(1, width // HEAD_WIDTH), 0, -1) if width % count == 0)
        self.pool = AttentionPoolLatent(width, out_features=0, num_heads=heads, q_proj=False)
        nn.init.trunc_normal_(self.pool.kv.weight, std=0.02)
        nn.init.zeros_(self.pool.kv.bias)
        self.linear = _linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.pool(tokens))


class DeitHead(nn.Module):
    """A DeiT-Base (Touvron et al. 2021) on the patch tokens, without patch embedding and positions: 85 M parameters.

    Huix et al. 2024 put it on frozen foundation models: tokens are projected to its width and normed, a CLS token of
    its own goes first, and 12 blocks later a linear layer reads that.

    Args:
        width: channels of the tokens.
    """

    reads_tokens = True

    def __init__(self, width: int, outputs: int, depth: int = 12, inner: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, inner), nn.LayerNorm(inner, eps=1e-6))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.blocks = nn.Sequential(*(Block(inner, heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(inner, eps=1e-6)
        self.linear = _linear(inner, outputs)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens_BNC = self.project(tokens)
        x_BTC = torch.cat([self.cls_token.expand(len(tokens_BNC), -1, -1).to(tokens_BNC.dtype), tokens_BNC], dim=1)
        return self.linear(self.norm(self.blocks(x_BTC)[:, 0]))


HEADS: dict[Head, Callable[[int, int, int], nn.Module]] = {
    # channels of the feature, of the tokens; outputs
    "linear": lambda feature, tokens, outputs: LinearHead(feature, outputs),
    "bn_linear": lambda feature, tokens, outputs: LinearHead(feature, outputs, normalised=True),
    "attentive": lambda feature, tokens, outputs: AttentiveHead(tokens, outputs),
    "deit": lambda feature, tokens, outputs: DeitHead(tokens, outputs),
}


def build_head(kind: Head, spec: BackboneSpec, outputs: int, feature: str = "pooled") -> nn.Module:
    """A head that maps a backbone's feature to outputs [B, outputs], initialised from torch's global random state.

    Its `reads_tokens` says whether it reads the tokens [B, N, C] instead of the pooled feature [B, C].

    Args:
        feature: which one is pooled (spaces/feature.py).

    Raises:
        ValueError: no outputs, or the backbone has no such feature.
    """
    if outputs < 1:
        raise ValueError(f"outputs: expected at least 1, found {outputs}")
    return HEADS[kind](spec.feature_width(feature), spec.token_width or spec.width, outputs)


class OutputLayer(nn.Linear):
    """The last layer of every head: in fp32 wherever it computes, also within `trainables.place.autocast`.

    It is small, and a trial that trains it by itself is then what it would be in a group (trainables.head_group).
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def _linear(width: int, classes: int) -> OutputLayer:
    linear = OutputLayer(width, classes)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
