"""Batches that don't fit an accelerator's memory: cut into parts, one after the other, whose gradients add up.

The batch stays as large as it was asked for, and so does the step: gradients are the same but for the order of
summation, and for which paths drop-path drops. What can't be cut is an error as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spaces.config import TrialConfig
from trainables.checkpoint import random_state, set_random_state
from trainables.kinds import kind
from trainables.memory_errors import out_of_memory
from trainables.place import Place
from trainables.resident import RESIDENT

log = logging.getLogger(__name__)

_known: dict[tuple[str, torch.device], int] = {}
"""Parts that a kind of configuration was found to need in this process."""


class Parts:
    """Into how many parts a trial's batches are cut."""

    def __init__(self, config: TrialConfig, model: nn.Module, place: Place) -> None:
        self.model, self.place = model, place
        self.pairs = config.mixup > 0  # half a batch apart: every second, fourth... row keeps them together
        # Statistics of a part aren't those of the batch; and the other workers of a group wouldn't cut theirs.
        trained = any(isinstance(m, _BatchNorm) and m.training for m in model.modules())
        self.whole = trained or place.world > 1
        self.name = (kind(config), place.device)
        self.count = 1 if self.whole else _known.get(self.name, 1)

    def backward(self, size: int, of_part: Callable[[slice], Tensor]) -> Tensor:
        """The sum over a batch's parts of what `of_part` gives. Cuts further where memory runs out.

        Args:
            size: rows of the batch.
            of_part: for some of its rows adds to the gradients and gives their loss [], without a graph.

        Raises:
            RuntimeError: out of memory with a part that can't be cut.
        """
        while True:
            before = random_state(self.place.device)
            count = self._fitting(size)
            try:
                return torch.stack([of_part(slice(i, None, count)) for i in range(count)]).sum()
            except RuntimeError as error:
                if out_of_memory(error) != "accelerator" or self.whole:
                    raise
                if not (RESIDENT.make_way() or self._cut(size)):
                    raise
            # Behind the handler: the error is gone, and with it all that the failed pass held.
            self.model.zero_grad()
            set_random_state(before, self.place.device)
            free(self.place.device)

    def _fitting(self, size: int) -> int:
        """Parts of a batch, which may be smaller than others: as many as are needed, or the next fewer that may be."""
        count = self.count
        while not self._may(size, count):
            count //= 2
        return count

    def _may(self, size: int, count: int) -> bool:
        return count == 1 or (count <= size and not (self.pairs and size % (2 * count)))

    def _cut(self, size: int) -> bool:
        """Twice as many parts, or one for each row; whether that can be."""
        more = min(2 * self.count, size)
        if more == self.count or not self._may(size, more):
            return False
        self.count = _known[self.name] = more
        log.warning("a batch of %d images doesn't fit the device: its gradients are summed over %d parts", size, more)
        return True


class Pieces:
    """Rows that nothing is learned from, so many at a time, or fewer where an accelerator's memory runs out."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device

    def of(self, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What `compute` gives for rows [B, ...], piece by piece, together again.

        Raises:
            RuntimeError: out of memory with one row.
        """
        found: list[Tensor] = []
        start = 0
        while start < len(rows):
            piece = rows[start : start + self.size]
            try:
                found.append(compute(piece))
                start += len(piece)
                continue
            except RuntimeError as error:
                if out_of_memory(error) != "accelerator" or not (RESIDENT.make_way() or len(piece) > 1):
                    raise
            self.size = max(1, len(piece) // 2)
            free(self.device)
        return found[0] if len(found) == 1 else torch.cat(found)


def free(device: torch.device) -> None:
    """Gives torch's own reserve of an accelerator's memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
