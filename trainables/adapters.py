"""Low-rank adapters (LoRA, Hu et al. 2022; DoRA, Liu et al. 2024) by peft: added, trained alone, merged.

An adapted layer computes the same as before until its adapter is trained. peft is imported only when it is needed,
since that takes seconds.
"""

from __future__ import annotations

import re
from typing import Literal

from spaces.config import AdapterTargets
from spaces.mistakes import Mistake
from trainables.backbones import Backbone

MARK = "lora_"
"""Part of the name of every parameter that peft adds, for LoRA and DoRA alike."""
ATTENTION = re.compile(r"(^|\.)(attn|attention|ss2d)\.")
"""Attention, and what takes its place in VMamba."""


def add_adapters(backbone: Backbone, kind: Literal["lora", "dora"], rank: int, targets: AdapterTargets = "all") -> None:
    """Adapts linear layers of the trained blocks; from then on nothing else of the backbone is trained.

    Call it after `freeze`; with nothing to be trained it does nothing. Draws from torch's global random state.

    Args:
        rank: of the updates; their scale (alpha) is twice that.
        targets: all linear layers of a block, or those of its attention.

    Raises:
        Mistake: the trained blocks have no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if backbone.trained_from > backbone.spec.blocks + 1:
        return
    names = [
        name
        for name in backbone.linear_layers()
        if backbone.depth_of(f"trunk.{name}") >= backbone.trained_from and (targets == "all" or ATTENTION.search(name))
    ]
    if not names:
        raise Mistake(
            f"adapter: the trained blocks of {backbone.spec.name} have no linear layers"
            f"{' in attention' if targets == 'attention' else ''} to adapt; write adapter: none."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        # peft takes the pattern as a whole name.
        target_modules="|".join(map(re.escape, names)),
        use_dora=kind == "dora",
    )
    inject_adapter_in_model(config, backbone.trunk)
    backbone.train_only(lambda name: MARK in name)


def merge_adapters(backbone: Backbone) -> None:
    """Adds the updates to the weights and takes the adapters away: the backbone is then one without adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(backbone.trunk.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(backbone.trunk.get_submodule(parent), child, module.get_base_layer())
    backbone.train_only(None)
