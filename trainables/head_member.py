"""A trial that trains its linear head in one pass with others: which trials can, and one of them while it runs.

Shapes: E epochs, U units of validation, L classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from torch import nn

from spaces.config import TrialConfig
from spaces.strict import digest
from trainables.causes import End
from trainables.epoch import EpochReport
from trainables.heads import LinearHead
from trainables.model import Model
from trainables.value import stacked

ALIKE = (
    "backbone", "weights", "metric", "epochs", "feature", "resolution", "policy", "augmentation", "level", "views",
    "view_seed", "batch_size", "loss", "focal", "logit_adjustment",
)  # fmt: skip
"""What trials of a group have in common. All else may differ."""


def can_share(config: TrialConfig) -> bool:
    """Whether a trial can train in a group: a linear head on a frozen backbone, by the usual schedule to its end."""
    usual = config.schedule == "cosine" and config.value == "last"
    return config.trained_blocks == 0 and config.head == "linear" and usual


def shared(config: TrialConfig) -> str:
    """Trials that can share and for which this is the same may be of one group."""
    plain = config.plain()
    return digest({name: plain[name] for name in ALIKE})


@dataclass
class Member:
    """One trial of a group, while it runs."""

    config: TrialConfig
    model: Model
    """Its head is what the group trains; the backbone is the group's."""
    reports: list[EpochReport] = field(default_factory=list)
    recent: list[np.ndarray] = field(default_factory=list)
    """Validation predictions [U, L] of the epochs that would count in its value, were the newest the last."""
    ended: End | None = None
    """Why it ended before its time."""
    strange: bool = False
    """Whether that was an error of unknown kind, met in this process: it should have no further job."""
    stopped: bool = False
    told: int = 0
    """Reports that were told."""
    value: float | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """Of the newest epoch."""
        return self.recent[-1]

    @property
    def earlier(self) -> np.ndarray:
        """[E, U, L] of the epochs before it that count."""
        return stacked(self.recent[:-1], self.probabilities)

    @property
    def linear(self) -> nn.Linear:
        """Its head's layer."""
        return cast(LinearHead, self.model.head).linear
