"""How a trial ends whose fine-tuning raised: its state, and the cause in a sentence."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Literal

import torch

from trainables.loop import Diverged, Infeasible

HOST = ("can't allocate memory", "not enough memory: you tried to allocate")
"""What torch's allocator on the CPU says, in a RuntimeError."""
DEVICE = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What comes from an accelerator's libraries, past torch's own allocator."""


@dataclass(frozen=True)
class End:
    """Of a trial that has no value."""

    state: Literal["failed", "infeasible"]
    cause: str
    memory: bool = False
    """Whether memory ran out: what the trial held has to be given back before the next one."""


def end_of(error: Exception) -> End | None:
    """The end of a trial for a cause that lies in its configuration alone; None for any other error, after which
    nothing is known of the state of the process."""
    if isinstance(error, Diverged):
        return End("failed", str(error))
    if isinstance(error, Infeasible):
        return End("infeasible", str(error))
    short = _memory_of(error)
    if short is None:
        return None
    return End("infeasible", f"out of {short} memory: {_first_line(error)}", memory=True)


def _memory_of(error: Exception) -> str | None:
    """Whose memory ran out."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in DEVICE):
        return "the accelerator's"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "this machine's"
    if isinstance(error, RuntimeError) and any(words in text for words in HOST):
        return "this machine's"
    return None


def _first_line(error: Exception) -> str:
    """Without the place in torch's sources that its allocator begins with."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line.partition("DefaultCPUAllocator: ")[2] or line
