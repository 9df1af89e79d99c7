"""The heads of many trials as one stack of matrices, with their optimiser and their averages of weights.

Shapes: K trials, B images of a batch, V of validation, D features, C outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.head_member import Member
from trainables.schedule import warmup_cosine

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's AdamW's own


class HeadStack:
    """The stack of heads with its optimiser (AdamW; Loshchilov and Hutter 2019) and its averages of weights."""

    def __init__(self, members: Sequence[Member], steps: int, device: torch.device) -> None:
        configs = [m.config for m in members]
        self.members, self.steps, self.done = members, steps, 0
        linears = [m.linear for m in members]
        self.weight = torch.stack([linear.weight.detach().T for linear in linears]).to(device).contiguous()  # [K, D, C]
        self.bias = torch.stack([linear.bias.detach() for linear in linears]).to(device)[:, None]  # [K, 1, C]
        self.moments = [torch.zeros_like(p) for p in (self.weight, self.bias) for _ in range(2)]
        self.averages = [self.weight.clone(), self.bias.clone()]

        def of(values: Sequence[Any] | np.ndarray) -> Tensor:
            """Numbers of trials, or of steps and trials, on the device: once for all steps, which wait for nothing."""
            return torch.tensor(values, dtype=torch.float64, device=device)[..., None, None]

        count = np.arange(1, steps + 1)
        self.rates = of([[c.head_lr * warmup_cosine(s, steps, c.warmup) for c in configs] for s in range(steps)])
        self.decay = of([c.head_weight_decay for c in configs])
        self.clip = of([c.clip for c in configs]).float()
        span_decay = np.array([max(0.0, 1 - 1 / max(c.ema * steps, 1.0)) for c in configs])
        self.fresh = of(1 - np.minimum(span_decay, ((1 + count) / (10 + count))[:, None])).float()
        self.averaged = of([c.ema > 0 for c in configs]).bool()

    def part(self, part: slice) -> HeadStack:
        """Some of the heads: their numbers are these heads' own, but for the steps that are done."""
        own = copy.copy(self)
        own.members = self.members[part]
        own.weight, own.bias = self.weight[part], self.bias[part]
        own.moments = [moment[part] for moment in self.moments]
        own.averages = [average[part] for average in self.averages]
        own.rates, own.fresh = self.rates[:, part], self.fresh[:, part]
        own.decay, own.clip, own.averaged = self.decay[part], self.clip[part], self.averaged[part]
        return own

    def step(self, x_KBD: Tensor, masses: Tensor) -> Tensor:
        """One step of each trial; their losses [K], means over the batch."""
        trials, batch = x_KBD.shape[:2]
        weight, bias = (p.detach().requires_grad_() for p in (self.weight, self.bias))
        outputs = torch.baddbmm(bias, x_KBD, weight)
        of_images = self.members[0].model.output.losses(outputs.flatten(0, 1), masses.flatten(0, 1))
        losses = of_images.view(trials, batch).sum(1) / batch
        gradients = torch.autograd.grad(losses.sum(), (weight, bias))
        norm = sum(g.square().sum(dim=(1, 2), keepdim=True) for g in gradients) ** 0.5
        scale = (self.clip / (norm + 1e-6)).clamp_max(1)
        rates = self.rates[self.done]
        self.done += 1
        self._update(self.weight, gradients[0] * scale, self.moments[:2], rates, self.decay)
        self._update(self.bias, gradients[1] * scale, self.moments[2:], rates, None)
        self._average()
        return losses.detach()

    def _update(
        self, value: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor | None
    ) -> None:
        first, second = moments
        if decay is not None:
            value.mul_((1 - rate * decay).to(value.dtype))
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        denominator = second.sqrt().div_((1 - BETAS[1] ** self.done) ** 0.5).add_(EPSILON)
        value.sub_((rate / (1 - BETAS[0] ** self.done)).to(value.dtype) * first / denominator)

    def _average(self) -> None:
        fresh = self.fresh[self.done - 1]
        for average, value in zip(self.averages, (self.weight, self.bias), strict=True):
            average.copy_(torch.where(self.averaged, average.lerp(value, fresh), value))

    def outputs(self, k: int, features: Tensor) -> Tensor:
        """Outputs [V, C] of a trial's averaged head for features [V, D]."""
        weight, bias = (average[k] for average in self.averages)
        return features.to(weight.device).float() @ weight + bias

    @torch.no_grad()
    def put_back(self) -> None:
        """The averaged heads into the trials' models."""
        for k, member in enumerate(self.members):
            member.linear.weight.copy_(self.averages[0][k].T)
            member.linear.bias.copy_(self.averages[1][k, 0])

    def state(self) -> dict[str, Tensor]:
        """Everything to go on exactly."""
        named = zip(("m_weight", "v_weight", "m_bias", "v_bias"), self.moments, strict=True)
        averages = {"a_weight": self.averages[0], "a_bias": self.averages[1]}
        return {"weight": self.weight, "bias": self.bias, **dict(named), **averages}

    def load(self, state: dict[str, Tensor], done: int) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.done = done
