"""AIMv2 (Fini et al. 2024): the two layouts of its files, its positions."""

from __future__ import annotations

import re

import torch
from torch import nn

from spaces.backbone import BackboneSpec
from trainables.backbones.vit import State, antialiased, renamed, resize_positions

UNUSED = re.compile(r"$^")
"""Its files hold nothing else."""

AUTHORS = (
    (r"^preprocessor\.patchifier\.", "patch_embed."),
    (r"^preprocessor\.pos_embed$", "pos_embed"),
    (r"^trunk\.post_trunk_norm\.", "norm."),
    (r"^trunk\.", ""),
    (r"\.norm_([12])\.", r".norm\1."),
    (r"\.mlp\.fc1\.", ".mlp.fc1_g."),
    (r"\.mlp\.fc3\.", ".mlp.fc1_x."),
)
TRANSFORMERS = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embed\.", "patch_embed.proj."),
    (r"^embeddings\.rms_norm\.", "patch_embed.norm."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^rms_norm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.rms_norm([12])\.", r".norm\1."),
    (r"\.attention\.out_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.ffn\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.ffn\.up_proj\.", ".mlp.fc1_x."),
    (r"\.ffn\.down_proj\.", ".mlp.fc2."),
)


def convert(state: State) -> State:
    """The authors' layout, or that of transformers, as timm's; timm's own stays as it is."""
    if any(key.startswith("preprocessor.") for key in state):
        return renamed(state, AUTHORS)
    if any(re.match(r"(vision_model\.)?embeddings\.", key) for key in state):
        return _fused(renamed(state, TRANSFORMERS))
    return state


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Positions for another resolution, as timm does it: the authors trained a model for each."""
    return resize_positions(state, spec, trunk, where, antialiased)


def _fused(state: State) -> State:
    """Query, key and value projections, which transformers keep apart, as one."""
    fused = dict(state)
    for key in state:
        if match := re.match(r"(blocks\.\d+\.attn)\.q\.(weight|bias)$", key):
            names = [f"{match[1]}.{part}.{match[2]}" for part in "qkv"]
            if all(name in fused for name in names):
                fused[f"{match[1]}.qkv.{match[2]}"] = torch.cat([fused.pop(name) for name in names])
    if "pos_embed" in fused and fused["pos_embed"].ndim == 2:
        fused["pos_embed"] = fused["pos_embed"][None]
    return fused
