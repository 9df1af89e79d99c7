"""Everything that a trial needs to go on exactly: put into checkpoints, and put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from spaces.config import TrialConfig
from spaces.strict import digest
from trainables import checkpoint as checkpoints
from trainables import sharding
from trainables.average import Average
from trainables.best_epoch import BestEpoch
from trainables.checkpoint import Checkpoint
from trainables.data.parts import TrialData
from trainables.epoch import EpochReport
from trainables.model import Model, load_trained_state, trained_state
from trainables.place import Place
from trainables.saver import Saver
from trainables.value import counted_epochs


class Resumable:
    """The parts of a trial in this process that change while it trains."""

    def __init__(
        self,
        config: TrialConfig,
        data: TrialData,
        folder: Path | None,
        model: Model,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        average: Average | None,
        best: BestEpoch | None,
        place: Place,
    ) -> None:
        self.model, self.optimizer, self.schedule, self.average = model, optimizer, schedule, average
        self.best, self.place, self.epochs = best, place, config.epochs
        self.folder = folder / "checkpoints" if folder else None
        self.trial = digest({"config": config.plain(), "data": data.digest()})
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.recent: deque[np.ndarray] = deque(maxlen=counted_epochs(config))
        """Validation predictions [U, classes] of the epochs that would count, were the newest the last."""

    def restore(self) -> list[EpochReport]:
        """Puts the newest checkpoint back; the reports of the epochs done."""
        found = checkpoints.load_newest(self.folder, self.trial) if self.folder else None
        if found is None:
            return []
        load_trained_state(self.model, found.kind("model"))
        checkpoints.set_optimizer_tensors(self.optimizer, found.kind("optimizer"), self.names)
        self.schedule.load_state_dict(found.state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, found.state["schedule"]["_last_lr"], strict=True):
            group["lr"] = rate
        if self.average:
            like = trained_state(self.model)
            kept = {name: sharding.part_of(tensor, like[name]) for name, tensor in found.kind("average").items()}
            self.average.load(kept, found.state["average_steps"])
        if self.best:
            self.best.restore(found)
        seen = found.kind("validation")
        self.recent.extend(seen[number].numpy() for number in sorted(seen, key=int))
        checkpoints.set_random_state(found.kind(f"random{self.place.rank}") or found.kind("random0"), self.place.device)
        return [EpochReport(**{**r, "step_losses": tuple(r["step_losses"])}) for r in found.state["reports"]]

    def _averaged(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """The average's tensors, whole, in the first process."""
        assert self.average is not None
        of = {name: sharding.held_as(part, trained[name]) for name, part in self.average.tensors.items()}
        return sharding.together(of, self.place.first)

    def save(self, reports: Sequence[EpochReport], saver: Saver) -> None:
        """Begins to write a checkpoint, with the validation predictions: a trial that is stopped here keeps its last
        ones. After the last epoch nothing goes on, so that the optimizer isn't kept."""
        if self.folder is None:
            return
        last = reports[-1].epoch == self.epochs
        generators = self.place.collect(checkpoints.random_state(self.place.device))
        trained = trained_state(self.model)
        model = sharding.together(trained, self.place.first)
        moments = sharding.together(checkpoints.optimizer_tensors(self.optimizer, self.names), self.place.first)
        averaged = self._averaged(trained) if self.average else {}
        if self.place.first:
            schedule = {**self.schedule.state_dict(), "lr_lambdas": [None] * len(self.optimizer.param_groups)}
            state: dict[str, Any] = {"reports": [vars(r) for r in reports], "schedule": schedule}
            new = Checkpoint(reports[-1].epoch, self.trial, state=state)
            new.add("model", model)
            new.add("validation", {str(i): torch.from_numpy(p) for i, p in enumerate(self.recent)})
            if not last:
                new.add("optimizer", moments)
            for rank, generator in enumerate(generators):
                new.add(f"random{rank}", generator)
            if self.average:
                new.add("average", averaged)
                state["average_steps"] = self.average.steps
            if self.best:
                self.best.save(new)
            saver.start(self.folder, new, keep=1 if last else 2)
