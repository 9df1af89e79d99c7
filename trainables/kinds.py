"""Kinds of configuration: what decides the cost of a step."""

from __future__ import annotations

from spaces.config import TrialConfig
from spaces.strict import digest

KIND = (
    "backbone",
    "resolution",
    "head",
    "trained_blocks",
    "adapter",
    "adapter_rank",
    "adapter_targets",
    "grad_checkpointing",
    "batch_size",
)
"""What decides the cost of a step, but for small things."""


def kind(config: TrialConfig) -> str:
    """Digest of what decides the cost of a configuration."""
    plain = config.plain()
    return digest({name: plain[name] for name in KIND})
