"""Where a trial runs: its device, and its rank in a group of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """One process of a trial. `world` is 1 unless a torch process group was set up before."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the group, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor, total: int) -> Tensor:
        """Rows that were shared out in turns (row i to rank i mod world), together again, [total, ...]."""
        if self.world == 1:
            return values
        longest = -(-total // self.world)
        padded = values.new_zeros((longest, *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    def collect(self, value: object) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def agree(self, decision: bool) -> bool:
        """What the first process decided."""
        if self.world == 1:
            return decision
        told = [decision]
        dist.broadcast_object_list(told, src=0)
        return bool(told[0])

    def wait(self) -> None:
        """Until every process of the group is here."""
        if self.world > 1:
            dist.barrier()


ALONE = Place()
"""One process on a CPU."""

REDUCED = frozenset({"cuda"})
"""Kinds of devices on which backbones compute in bf16; on others all is fp32."""


def precision(device: torch.device) -> torch.dtype:
    """What a backbone computes in on a device, and in which what it gave is kept."""
    return torch.bfloat16 if device.type in REDUCED else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Lets operations within its block compute in the device's precision, where that is enough for them."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(device) == torch.bfloat16)


def this_machine(accelerators: float = 0, threads: int = 1) -> Place:
    """A place for one process: the first accelerator where one is asked for, else the CPU with `threads` threads."""
    torch.set_num_threads(threads)
    return Place(torch.device("cuda", 0) if accelerators else torch.device("cpu"))
