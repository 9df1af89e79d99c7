"""CLIP (Radford et al. 2021): the image tower of whole-model files, as OpenAI and open_clip lay them out."""

from __future__ import annotations

import re

from torch import nn

from spaces.backbone import BackboneSpec
from trainables.backbones.vit import State, antialiased, renamed, resize_positions

UNUSED = re.compile(
    r"visual\.proj$|head\.|(transformer|token_embedding|ln_final)\."
    r"|(positional_embedding|text_projection|logit_scale|input_resolution|context_length|vocab_size)$"
)
"""The projection into the space shared with text (`head` in timm's files), and the text tower."""

VISUAL = (
    (r"^visual\.conv1\.", "patch_embed.proj."),
    (r"^visual\.class_embedding$", "cls_token"),
    (r"^visual\.positional_embedding$", "pos_embed"),
    (r"^visual\.ln_pre\.", "norm_pre."),
    (r"^visual\.ln_post\.", "norm."),
    (r"^visual\.transformer\.resblocks\.", "blocks."),
    (r"^(blocks\.\d+\.)ln_", r"\1norm"),
    (r"^(blocks\.\d+\.attn\.)in_proj_", r"\1qkv."),
    (r"^(blocks\.\d+\.attn\.)out_proj\.", r"\1proj."),
    (r"^(blocks\.\d+\.mlp\.)c_fc\.", r"\1fc1."),
    (r"^(blocks\.\d+\.mlp\.)c_proj\.", r"\1fc2."),
)


def convert(state: State) -> State:
    """The image tower of a whole model as timm's; timm's own layout stays as it is."""
    converted = renamed(state, VISUAL)
    if "visual.class_embedding" in state:
        converted["cls_token"] = converted["cls_token"].reshape(1, 1, -1)
    if "visual.positional_embedding" in state:
        converted["pos_embed"] = converted["pos_embed"][None]
    return converted


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Positions as open_clip resamples them."""
    return resize_positions(state, spec, trunk, where, antialiased)
