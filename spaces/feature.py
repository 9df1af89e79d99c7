"""Which of a backbone's features a linear head reads.

`pooled` is the family's own global feature. `clsN` is the CLS token after each of the last N blocks, all under the last
norm, one beside the other, oldest first; `clsN_mean` is that and the mean of the last block's patch tokens. DINOv2's
linear evaluation (Oquab et al. 2023) tries `cls1`, `cls1_mean`, `cls4` and `cls4_mean`. `trunk` is of SAM2 alone: the
mean of the trunk's last map, layer-normed as before Hiera's own classifier (Ryali et al. 2023), without the neck.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Feature(NamedTuple):
    """What a feature is made of; by default the family's own."""

    blocks: int = 0
    """How many of the last blocks give their CLS token."""
    mean: bool = False
    """Whether the mean of the patch tokens goes with it."""
    trunk: bool = False
    """Whether it comes from before the neck."""

    @property
    def name(self) -> str:
        if self.trunk:
            return "trunk"
        return f"cls{self.blocks}{'_mean' if self.mean else ''}" if self.blocks else "pooled"


POOLED = Feature()


def parse_feature(name: str) -> Feature:
    """Raises a ValueError where there is no such feature."""
    if name in ("pooled", "trunk"):
        return Feature(trunk=name == "trunk")
    match = re.fullmatch(r"cls([1-9]\d*)(_mean)?", name)
    if not match:
        raise ValueError(
            "should be pooled, clsN (CLS of the last N blocks), clsN_mean (with the mean of the patch tokens), or trunk"
        )
    return Feature(int(match[1]), match[2] is not None)
