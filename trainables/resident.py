"""Tensors that stay on an accelerator from trial to trial, as far as they fit: pixels, and what frozen blocks gave."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from copy import copy as shallow

import torch
from torch import Tensor

SHARE = 0.5  # of the memory that nothing else uses; the rest is for training


def unused_memory(device: torch.device) -> int:
    """Bytes of an accelerator that this process can still take."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Lent:
    """A copy that one asker alone can want: it goes with the last who holds this, or when it has to make way."""

    def __init__(self, copy: Tensor) -> None:
        self.copy: Tensor | None = copy

    def __call__(self) -> Tensor | None:
        """The copy, while it is there."""
        return self.copy


class Resident:
    """Copies of tensors on an accelerator, by key. Those not wanted for longest make room."""

    def __init__(self, unused: Callable[[torch.device], int] = unused_memory, share: float = SHARE) -> None:
        self.unused, self.usual, self.share = unused, share, share
        self.held: OrderedDict[tuple[str, torch.device], Tensor] = OrderedDict()
        self.lent: weakref.WeakSet[Lent] = weakref.WeakSet()
        """Copies without a key."""

    def begin(self, fraction: float = 1) -> None:
        """Before a trial: how much room an earlier one needed says nothing of this one.

        Args:
            fraction: of the accelerator, in (0, 1], that is this process's: others have the rest.
        """
        self.share = self.usual * fraction

    def copy_of(self, key: str | None, host: Tensor, device: torch.device) -> Tensor | None:
        """The tensor on a device; None where it doesn't fit beside training, so that it is to be read from the host.

        Args:
            key: names the content: the same key never stands for other numbers. None: no other trial can want it, so
                that the copy is the caller's alone, and nothing makes room for it.
        """
        if key is None:
            return _sent(host, device) if host.nbytes <= int(self.share * self.unused(device)) else None
        name = (key, device)
        if name in self.held:
            self.held.move_to_end(name)
            return self.held[name]
        taken = sum(tensor.nbytes for tensor in self.held.values())
        room = int(self.share * (self.unused(device) + taken))
        if host.nbytes > room:
            return None
        while taken + host.nbytes > room:
            _, oldest = self.held.popitem(last=False)
            taken -= oldest.nbytes
        self.held[name] = _sent(host, device)
        return self.held[name]

    def lend(self, copy: Tensor) -> Lent:
        """Lets a copy without a key make way with the others."""
        lent = Lent(copy)
        self.lent.add(lent)
        return lent

    def make_way(self) -> bool:
        """Gives everything up, and takes less until the next trial: training needs room. Whether there was anything."""
        lent = [one for one in self.lent if one.copy is not None]
        if not self.held and not lent:
            return False
        self.held.clear()
        for one in lent:
            one.copy = None
        self.share /= 4
        return True


def _sent(host: Tensor, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may use what an evaluation asked for first
        return host.to(device, copy=True)


RESIDENT = Resident()
"""This process's own."""


def resident_of(device: torch.device) -> Resident | None:
    """None for the CPU, whose memory is where the mapped files are."""
    return None if device.type == "cpu" else RESIDENT


class Rows:
    """Rows of a tensor on the host, given on a device: out of a copy there, or gathered first and sent.

    Args:
        host: [N, ...], mapped from disk as a rule.
        key: names its content; None where no other trial can want it.
        resident: where a copy may lie.
    """

    def __init__(self, host: Tensor, key: str | None, device: torch.device, resident: Resident | None) -> None:
        self.host, self.device = host, device
        self._places: Tensor | None = None
        copy = resident.copy_of(key, host, device) if resident else None
        # Never the copy itself, so that it can be given up in the middle of a trial.
        self._copy: Callable[[], Tensor | None] = lambda: None
        if copy is not None and resident is not None:
            self._copy = resident.lend(copy) if key is None else weakref.ref(copy)

    def at(self, places: Tensor | None) -> Rows:
        """Those in these places [M] int64, numbered anew; None: as they are."""
        chosen = shallow(self)
        chosen._places = places
        return chosen

    def gather(self, rows: Tensor) -> Tensor | None:
        """The host's share of `give`, which any thread may do beforehand; None where there is nothing to do."""
        if self._copy() is not None:
            return None
        pinned = self.device.type == "cuda"
        shape = (len(rows), *self.host.shape[1:])
        gathered = torch.empty(shape, dtype=self.host.dtype, pin_memory=pinned)
        return torch.index_select(self.host, 0, self._placed(rows), out=gathered)

    def give(self, rows: Tensor, gathered: Tensor | None) -> Tensor:
        """Rows [B] int64 (on the host) on the device. Nothing waits for the device."""
        if gathered is None:
            copy = self._copy()
            if copy is not None:
                return copy[self._placed(rows).to(self.device, non_blocking=True)]
            gathered = self.gather(rows)
            assert gathered is not None
        return gathered.to(self.device, non_blocking=True)

    def between(self, start: int, stop: int) -> Tensor:
        """Rows start to stop - 1: on the device where there is a copy, else on the host."""
        copy = self._copy()
        whole = self.host if copy is None else copy
        return whole[start:stop] if self._places is None else whole[self._places[start:stop].to(whole.device)]

    def _placed(self, rows: Tensor) -> Tensor:
        return rows if self._places is None else self._places[rows]
