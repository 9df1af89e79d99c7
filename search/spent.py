"""What a search has cost its devices, and what sharing has saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.record import Trial
from spaces.config import ResourcesConfig
from trainables.trial_files import END, trial_folder


@dataclass(frozen=True)
class Shared:
    """How often the frozen part of a backbone was computed, and how often it was there already."""

    computed: int
    """Training images for which it was computed, over all trials and epochs."""
    read: int
    """Training images for which it was read from what this or another trial had computed."""

    @property
    def saved(self) -> float:
        """Share of the passes through frozen blocks that weren't needed, in [0, 1]."""
        return self.read / (self.read + self.computed) if self.read else 0.0


def devices(resources: ResourcesConfig) -> float:
    """What one trial occupies with all its workers: accelerators, or CPUs where it has none."""
    return (resources.accelerators or resources.cpus) * resources.workers


def device_seconds(trials: Sequence[Trial], resources: ResourcesConfig) -> float:
    """Seconds that trials spent in epochs, times what one occupies. Trials that shared a pass have their share of it
    each; loading and waiting isn't in it."""
    return sum(trial.seconds for trial in trials) * devices(resources)


def shared(search: Path, trials: Sequence[Trial]) -> Shared:
    """What the complete trials of a search computed and shared; a trial that left no count adds nothing."""
    computed = read = 0
    for trial in trials:
        try:
            told = json.loads((trial_folder(search, trial.number) / END).read_text(encoding="utf-8"))
            counts = told[-1]["counts"]  # of what was told, the end is the last
            computed, read = computed + counts["computed"], read + counts["read"]
        except (OSError, ValueError, KeyError):
            continue  # it was stopped early
    return Shared(computed, read)
