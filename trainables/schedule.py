"""Learning rates over a trial, as a share of their peak."""

from __future__ import annotations

import math

from spaces.config import TrialConfig


def rate_share(config: TrialConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step, by the trial's schedule."""
    share = warmup_cosine(step, steps, config.warmup)
    return share if config.schedule == "cosine" or step < config.warmup * steps else 1.0


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise over `warmup` of all steps, then half a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))
