"""Which backbone a file of weights looks like, by its keys and shapes: for the sentence that tells a wrong file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from spaces.backbone import BackboneSpec, table
from trainables.backbones.families import FAMILIES


class Signature(NamedTuple):
    name: str
    present: str
    """Pattern of a key that its files have."""
    absent: str = "$"
    """Pattern of a key that they haven't."""
    rows: str = "$"
    """Pattern of its rows' names in the table."""


SIGNATURES = (
    # the first that fits
    Signature("CoCa", r"text_decoder\.|pooler\.", rows=r"coca_"),
    Signature("CLIP", r"visual\.|norm_pre\.", rows=r"clip_"),
    Signature("SAM2", r"image_encoder\.|hiera\.", rows=r"sam2_"),
    Signature(
        "AIMv2",
        r"preprocessor\.patchifier\.|(vision_model\.)?embeddings\.patch_embed\.|blocks\.0\.mlp\.fc1_g\.",
        rows=r"aimv2_",
    ),
    Signature("VMamba", r"layers\.\d+\.blocks\.\d+\.op\.x_proj_weight|blocks\.0\.ss2d\.", rows=r"vmamba_"),
    Signature("DINOv3", r"storage_tokens|blocks\.0\.gamma_1", rows=r"dinov3_"),
    Signature("DINOv2 with registers", r"register_tokens|reg_token", rows=r"dinov2_reg_"),
    Signature("DINOv2", r"blocks\.0\.ls1\.gamma", rows=r"dinov2_(?!reg_)"),
    Signature("MAE", r"patch_embed\.proj\.weight", absent=r"head\.|layers\.", rows=r"mae_"),
)


def looks_like(file: Mapping[str, Tensor]) -> str | None:
    """A row of the table where the weights fit it, otherwise the family, otherwise None."""
    for signature in SIGNATURES:
        if _any(signature.present, file) and not _any(signature.absent, file):
            rows = [spec for spec in table().values() if re.match(signature.rows, spec.name) and spec.pretrained]
            fitting = [spec.name for spec in rows if _fits(file, spec)]
            return fitting[0] if fitting else signature.name
    return None


def _fits(file: Mapping[str, Tensor], spec: BackboneSpec) -> bool:
    family = FAMILIES[spec.family]
    state = family.without_unused(family.convert(dict(file)), spec)
    expected = family.trunk(spec, spec.native, 0.0, "meta").state_dict()
    return state.keys() == expected.keys() and all(
        tensor.shape == expected[key].shape or family.resized.match(key) is not None for key, tensor in state.items()
    )


def _any(pattern: str, file: Mapping[str, Tensor]) -> bool:
    return any(re.match(pattern, key) for key in file)
