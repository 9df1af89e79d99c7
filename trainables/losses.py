"""Training targets and losses. Each loss is a sum over images, so that its mean over a global batch can be taken
wherever the batch lies."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.config import TrialConfig
from trainables.model import Model


def targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Soft targets [B, classes] from class indices [B]; `smoothing` is spread evenly over all classes."""
    one_hot = F.one_hot(labels, classes).to(torch.float32)
    return one_hot * (1 - smoothing) + smoothing / classes


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over images of the cross-entropy with soft targets; both [B, classes], computed in fp32."""
    return -(targets * logits.float().log_softmax(dim=1)).sum()


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
    """The model's forward with mixing at its freeze boundary: one module, so that DDP can wrap it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, share: Tensor | None = None) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W] in [0, 1]; `share` [B] as `mix` takes it."""
        hidden = self.model.hidden(images)
        if share is not None:
            hidden = mix(hidden, share)
        return self.model.from_hidden(hidden)
