"""Whose memory ran out, by what torch, the system and an accelerator's libraries say."""

from __future__ import annotations

import errno
from typing import Literal

import torch

HOST = ("can't allocate memory", "not enough memory: you tried to allocate")
"""What torch's allocator on the CPU says, in a RuntimeError."""
DEVICE = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What comes from an accelerator's libraries, past torch's own allocator."""


def out_of_memory(error: BaseException) -> Literal["accelerator", "host"] | None:
    """Whose memory ran out; None for any other error."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in DEVICE):
        return "accelerator"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "host"
    if isinstance(error, RuntimeError) and any(words in text for words in HOST):
        return "host"
    return None
