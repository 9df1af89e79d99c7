"""Which backbone a file of weights looks like, by its keys and shapes: for the sentence that tells a wrong file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from spaces.backbone import table

Shapes = Mapping[str, tuple[int, ...]]


class Signature(NamedTuple):
    family: str
    present: str
    """Pattern of a key that its files have."""
    absent: str = "$"
    """Pattern of a key that they haven't."""
    rows: str = "$"
    """Pattern of its rows' names in the table."""


SIGNATURES = (
    # the first that fits
    Signature("CoCa", r"text_decoder\."),
    Signature("CLIP", r"visual\."),
    Signature("SAM2", r"image_encoder\."),
    Signature("AIMv2", r"preprocessor\.patchifier\.|embeddings\.patch_embed\.|encoder\.layers\.0\.rms_norm1\."),
    Signature("VMamba", r"layers\.\d+\.blocks\.\d+\.op\.x_proj_weight"),
    Signature("DINOv2 with registers", r"register_tokens|reg_token", rows=r"dinov2_reg_"),
    Signature("DINOv2", r"blocks\.0\.ls1\.gamma", rows=r"dinov2_(?!reg_)"),
    Signature("MAE", r"patch_embed\.proj\.weight", absent=r"head\.|layers\.", rows=r"mae_"),
)


def looks_like(shapes: Shapes) -> str | None:
    """A row of the table where family and size are clear, otherwise the family, otherwise None."""
    for signature in SIGNATURES:
        if _any(signature.present, shapes) and not _any(signature.absent, shapes):
            return _row(signature, shapes) or signature.family
    return None


def _row(signature: Signature, shapes: Shapes) -> str | None:
    blocks = {found[1] for key in shapes if (found := re.match(r"blocks\.(\d+)\.", key))}
    size = (shapes.get("norm.weight", (0,))[0], len(blocks))
    rows = [spec for spec in table().values() if re.match(signature.rows, spec.name) and spec.pretrained]
    fitting = [spec.name for spec in rows if (spec.width, spec.blocks) == size]
    return fitting[0] if len(fitting) == 1 else None


def _any(pattern: str, shapes: Shapes) -> bool:
    return any(re.match(pattern, key) for key in shapes)
