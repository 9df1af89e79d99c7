"""Exponential moving average of what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Average of tensors over about the last `span` steps.

    The decay grows with the steps done, min(1 - 1/span, (1 + n) / (10 + n)), so that a short run isn't dominated by
    where it started (Tan and Le 2019's moving average, as TensorFlow documents its warm-up).
    """

    def __init__(self, tensors: dict[str, Tensor], span: float) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.decay = max(0.0, 1 - 1 / max(span, 1.0))
        self.steps = 0

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor]) -> None:
        """Takes the values after a step in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        averaged: list[Tensor | torch.nn.Parameter] = [self.tensors[n] for n in floats]
        current: list[Tensor | torch.nn.Parameter] = [tensors[n].detach() for n in floats]
        get_ema_multi_avg_fn(decay)(averaged, current, self.steps)
        for name in self.tensors.keys() - set(floats):  # counters of normalisation layers
            self.tensors[name].copy_(tensors[name])

    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Puts an earlier state back."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.steps = steps

    @torch.no_grad()
    def put_in_place_of(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.copy_(self.tensors[name])

    @contextmanager
    def in_place_of(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """The averaged values in place of the given tensors while the block runs."""
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.put_in_place_of(tensors)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(own[name])
