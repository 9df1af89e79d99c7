"""What all trials of a replay have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spaces.policy import Policy, policy


@dataclass(frozen=True)
class Setting:
    """What all trials of a replay have in common. Plain data."""

    images: str
    policy: str
    backbone: str
    """Name of medtune's row, which names timm's model."""
    weights: str
    resolution: int
    """Side of the input in pixels."""
    epochs: int
    cpus: int = 1
    """Of a trial."""
    accelerators: float = 0
    compile: bool = False
    """Whether the strong baseline compiles its model."""

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        return "cuda" if self.accelerators else "cpu"

    def slots(self, cpus: int) -> int:
        """Trials at once on so many CPUs and the accelerators that this process sees."""
        by_cpus = cpus // self.cpus
        if not self.accelerators:
            return by_cpus
        import torch

        return min(by_cpus, int(torch.cuda.device_count() / self.accelerators))

    def held(self, cpus: int) -> float:
        """Devices that trials hold at once: accelerators, or CPUs where trials have none."""
        return self.slots(cpus) * (self.accelerators or self.cpus)

    def ranges(self, level: int) -> Policy:
        return policy(self.policy).at(level)
