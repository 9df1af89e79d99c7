"""The linear recurrence of state-space models, h_t = a_t * h_{t-1} + b_t, as one operation that compilers leave whole.

Two exact ways, of which each is faster somewhere: step by step, when a step is wide enough to be worth its launch; and
in blocks of about sqrt(L) steps, all blocks at once, then from block to block (the two-level scan of Blelloch 1990),
which does with 2 sqrt(L) dependent steps. Both only multiply and add numbers of the recurrence itself, so nothing
overflows and nothing is divided, however small the decays are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

SHORT = 64
"""Up to this length a plain loop is no slower on any device."""
WIDE = 3_000
"""From this many numbers a step on, a plain loop is faster on a CPU; an accelerator waits for launches instead."""


@torch.library.custom_op("medtune::linear_scan", mutates_args=())
def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """The states h_t = a_t * h_{t-1} + b_t from h_{-1} = 0.

    Args:
        a: decays [S, L, D], usually in [0, 1]; at t = 0 it has no effect.
        b: inputs [S, L, D], of the same type.

    Returns:
        [S, L, D], contiguous.
    """
    sequences, length, channels = b.shape
    wide = b.device.type == "cpu" and sequences * channels >= WIDE
    return step_by_step(a, b) if length <= SHORT or wide else in_blocks(a, b)


def step_by_step(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence as it is written: L dependent steps."""
    h = b.clone(memory_format=torch.contiguous_format)
    for t in range(1, h.shape[1]):
        h[:, t].addcmul_(a[:, t], h[:, t - 1])
    return h


def in_blocks(a: Tensor, b: Tensor) -> Tensor:
    """The same in two levels: within all blocks at once, then over the blocks."""
    sequences, length, channels = b.shape
    size = math.isqrt(max(length - 1, 0)) + 1
    blocks = -(-length // size)
    padded = (sequences, blocks * size, channels)
    h, decay = b.new_zeros(padded), a.new_zeros(padded)
    h[:, :length], decay[:, :length] = b, a
    h, decay = (x.view(sequences, blocks, size, channels) for x in (h, decay))
    for t in range(1, size):
        h[:, :, t].addcmul_(decay[:, :, t], h[:, :, t - 1])
        decay[:, :, t].mul_(decay[:, :, t - 1])
    for block in range(1, blocks):
        h[:, block].addcmul_(decay[:, block], h[:, block - 1, -1:])
    # Fresh and without the padding: an operation may not return a view of what it doesn't own.
    return h.view(padded)[:, :length].clone(memory_format=torch.contiguous_format)


@linear_scan.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _backward(ctx: Any, of_h: Tensor) -> tuple[Tensor, Tensor]:
    """The same recurrence from the end: g_t = of_h_t + a_{t+1} * g_{t+1}; then db = g and da_t = g_t * h_{t-1}."""
    a, h = ctx.saved_tensors
    following = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
    g = linear_scan(following.flip(1), of_h.flip(1)).flip(1)
    before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
    return g * before, g


linear_scan.register_autograd(_backward, setup_context=_keep)
