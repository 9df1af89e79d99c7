"""Checkpoints of trials that train their heads in one pass: one for all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spaces.config import TrialConfig
from spaces.strict import digest
from trainables import checkpoint as checkpoints
from trainables.causes import End
from trainables.checkpoint import Checkpoint
from trainables.data.parts import TrialData
from trainables.epoch import EpochReport
from trainables.head_member import Member, shared
from trainables.head_stack import HeadStack

log = logging.getLogger(__name__)


class HeadCheckpoints:
    """A group's checkpoints: one for all of its trials."""

    def __init__(
        self,
        folder: Path | None,
        configs: Sequence[TrialConfig],
        data: TrialData,
        heads: HeadStack,
        members: Sequence[Member],
    ) -> None:
        self.folder = folder / "checkpoints" if folder else None
        self.names = [digest(config.plain()) for config in configs]
        self.group = digest([shared(configs[0]), data.digest()])
        self.heads, self.members = heads, members

    def restore(self) -> int:
        """Puts the newest checkpoint that holds all of these trials back; epochs done. One in which another version
        wrote of the trials otherwise is left aside."""
        found = checkpoints.load_newest(self.folder, self.group) if self.folder else None
        if found is None or not set(self.names) <= set(found.state["trials"]):
            return 0
        # Some of its trials may have ended before the group goes on.
        places = [found.state["trials"].index(name) for name in self.names]
        try:
            reports = [[_report(told) for told in found.state["reports"][place]] for place in places]
            # An end comes back at its own step: the trial would diverge again at the first one from here.
            ends = [End(**why) if (why := found.state["ended"][place]) else None for place in places]
        except (KeyError, TypeError) as error:
            log.warning("checkpoint epoch-%04d of a group is left aside: of another version (%s)", found.epoch, error)
            return 0
        self.heads.load({name: tensor[places] for name, tensor in found.kind("heads").items()}, found.state["steps"])
        for member, place, told, end in zip(self.members, places, reports, ends, strict=True):
            member.reports, member.ended = told, end
            kept = found.kind(f"validation{place}")
            member.recent = [kept[number].numpy() for number in sorted(kept, key=int)]
            member.model.output.load_state_dict(found.kind(f"output{place}"), strict=False)
        return found.epoch

    def save(self, epoch: int) -> None:
        if self.folder is None:
            return
        state: dict[str, Any] = {
            "trials": self.names,
            "steps": self.heads.done,
            "reports": [[{**vars(r), "step_losses": ()} for r in member.reports] for member in self.members],
            "ended": [vars(member.ended) if member.ended else None for member in self.members],
        }
        new = Checkpoint(epoch, self.group, state=state)
        new.add("heads", self.heads.state())
        for k, member in enumerate(self.members):
            new.add(f"validation{k}", {str(i): torch.from_numpy(p) for i, p in enumerate(member.recent)})
            new.add(f"output{k}", dict(member.model.output.state_dict()))
        checkpoints.save(self.folder, new, keep=1 if epoch == self.members[0].config.epochs else 2)


def _report(told: dict[str, Any]) -> EpochReport:
    return EpochReport(**{**told, "step_losses": tuple(told["step_losses"])})
