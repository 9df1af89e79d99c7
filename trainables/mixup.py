"""Mixup at the freeze boundary. What is mixed are images' hidden states and their targets' masses
(trainables.outputs)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import TrialConfig
from trainables.model import Model


class Mixup:
    """Mixup (Zhang et al. 2018) at the freeze boundary: what the frozen blocks gave for two images is mixed, not their
    pixels. Where nothing is frozen that is the output of the patch embedding, on which mixing means the same as on
    pixels. Shares are a function of (seed, epoch, row), partners of the place in the batch."""

    def __init__(self, config: TrialConfig) -> None:
        self.alpha = config.mixup
        self.seed = config.seed

    def shares(self, epoch: int, rows: int) -> Tensor | None:
        """Each image's own share in its mixture, by row, [rows] in [1/2, 1]; None where mixup is off."""
        if self.alpha == 0:
            return None
        key = np.array([self.seed, epoch + (1 << 32)], dtype=np.uint64)  # apart from the order's and augmentation's
        share = np.random.Generator(np.random.Philox(key=key)).beta(self.alpha, self.alpha, rows)
        return torch.from_numpy(np.maximum(share, 1 - share).astype(np.float32))


def mix(values: Tensor, share: Tensor) -> Tensor:
    """Each row of `values` [B, ...] mixed with the row half a batch away; `share` [B] is its own part."""
    share = share.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
    return share * values + (1 - share) * values.roll(len(values) // 2, dims=0)


class MixedForward(nn.Module):
    """The trained part's forward with mixing where it begins: one module, so that DDP can wrap it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Tensor, share: Tensor | None = None) -> Tensor:
        """Outputs [B, width] of hidden states or, where the stem is trained, of images [B, C, H, W] in [0, 1].

        Args:
            given: what `trainables.prefix.Prefix` gives.
            share: [B] as `mix` takes it.
        """
        hidden = self.model.hidden(given) if self.model.stem_trained else given
        if share is not None:
            # What a head alone reads is mixed in the head's own fp32, as trainables.head_passes does.
            hidden = mix(hidden.float() if self.model.frozen else hidden, share)
        return self.model.from_hidden(hidden)
