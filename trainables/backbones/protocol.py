"""What every backbone gives and can be asked, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spaces.backbone import BackboneSpec
from spaces.feature import POOLED


class Features(NamedTuple):
    """What a backbone makes of a batch: B images, N patches, P prefix tokens, C = `spec.width` channels."""

    tokens: Tensor
    """[B, N, C]: normed patch tokens, row by row."""
    prefix: Tensor
    """[B, P, C]: normed CLS and register tokens; P is 0 in families that have none."""
    pooled: Tensor
    """[B, C]: the family's global feature; or the one that was asked for by `give`, [B, D]."""


class Backbone(nn.Module, ABC):
    """A backbone that can be cut before any of its blocks.

    Depth is the order of freezing and of layer-wise decay: 0 is the stem (patch and position embedding, CLS and
    register tokens), 1 to `spec.blocks` are the blocks, `spec.blocks + 1` is what follows (last norm, pooler, neck).

    A family gives `prefix`, `suffix` and `depth_of`. Where a block needs more than the output of the one before it (a
    neck that reads an earlier stage), its family packs all of it into the one tensor that `prefix` returns.
    """

    def __init__(self, spec: BackboneSpec, trunk: nn.Module, resolution: tuple[int, int]) -> None:
        super().__init__()
        self.spec = spec
        self.trunk = trunk
        self.resolution = resolution
        """Height and width of the input in pixels."""
        self.feature = POOLED
        """What `Features.pooled` is."""
        self.grad_checkpointing = False
        """Whether trained blocks compute their activations again in the backward pass instead of keeping them."""
        self._trained_from = 0
        self._chosen: Callable[[str], bool] | None = None

    @abstractmethod
    def prefix(self, images: Tensor, boundary: int) -> Tensor:
        """The stem and the first `boundary` blocks.

        Args:
            images: [B, 3, H, W], normalised.
            boundary: one of `boundaries`; at 0 no block has run yet.

        Returns:
            The hidden state: one tensor with B first, whose other dimensions are the family's own.
        """

    @abstractmethod
    def suffix(self, hidden: Tensor, boundary: int) -> Features:
        """The other blocks, last norm and pooling, from what `prefix` gave for the same boundary."""

    @abstractmethod
    def depth_of(self, name: str) -> int:
        """Depth of a parameter, buffer or module by its name here. Containers of several depths count as stem."""

    @abstractmethod
    def no_weight_decay(self) -> frozenset[str]:
        """Parameters with two or more dimensions that take no weight decay all the same (tokens, positions)."""

    def for_pooled_alone(self) -> frozenset[str]:
        """Parameters that only the pooled feature depends on: useless under a head that reads tokens."""
        return frozenset()

    def for_tokens_alone(self) -> frozenset[str]:
        """Parameters that only the tokens depend on: useless under a head that reads the pooled feature."""
        return frozenset()

    def linear_layers(self) -> tuple[str, ...]:
        """Names within `trunk` of the blocks' linear layers, as far as they can be adapted."""
        return tuple(
            name
            for name, module in self.trunk.named_modules()
            if isinstance(module, nn.Linear) and 1 <= self.depth_of(f"trunk.{name}") <= self.spec.blocks
        )

    def forward(self, images: Tensor) -> Features:
        """Features of images [B, 3, H, W], normalised; bitwise `suffix(prefix(images, b), b)` for every boundary b."""
        return self.suffix(self.prefix(images, 0), 0)

    def give(self, feature: str) -> None:
        """From now on this one of its features (see spaces/feature.py) is what is pooled.

        Raises:
            ValueError: the backbone hasn't got it.
        """
        self.feature = self.spec.feature(feature)

    def carried(self, boundary: int) -> int:
        """How many CLS tokens of blocks before the one at a boundary its hidden state holds for the feature."""
        return max(0, boundary - self.spec.blocks + self.feature.blocks - 1)

    def depth_of_parameters(self) -> dict[str, int]:
        """Depth of each parameter by name, 0 to `spec.blocks + 1`."""
        return {name: self.depth_of(name) for name, _ in self.named_parameters()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory in the trained blocks; results stay the same."""
        self.grad_checkpointing = enable

    @property
    def trained_from(self) -> int:
        """Everything from this depth on is trained, what lies below is frozen; `spec.blocks + 2` freezes all."""
        return self._trained_from

    def freeze_below(self, depth: int) -> None:
        """Freezes (no gradient, always in eval mode) what lies below a depth: 0 nothing, `spec.blocks + 2` all."""
        if not 0 <= depth <= self.spec.blocks + 2:
            raise ValueError(f"depth: expected 0 to {self.spec.blocks + 2}, found {depth}")
        self._trained_from = depth
        self._set_gradients()
        self.train(self.training)

    def train_only(self, chosen: Callable[[str], bool] | None) -> None:
        """Trains, of what isn't frozen, only the parameters with names that are chosen; None chooses all.

        The stem, which adapters leave as it is, then counts as frozen.
        """
        self._chosen = chosen
        self.freeze_below(max(self._trained_from, 1) if chosen else self._trained_from)

    def _set_gradients(self) -> None:
        for name, parameter in self.named_parameters():
            chosen = self._chosen is None or self._chosen(name)
            parameter.requires_grad_(chosen and self.depth_of(name) >= self._trained_from)

    @property
    def boundary(self) -> int:
        """Where it is cut: before the first trained block, or at the last possible place before that."""
        before = min(max(self._trained_from - 1, 0), self.spec.blocks)
        return max(boundary for boundary in self.boundaries if boundary <= before)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Where it can be cut, ascending from 0 to `spec.blocks`; before every block, if its family can."""
        return tuple(range(self.spec.blocks + 1))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self._trained_from:
            # Drop-path or dropout in a frozen block would give other features at every pass.
            for name, module in self.named_modules():
                if name and self.depth_of(name) < self._trained_from:
                    module.training = False
        return self

    def run_block(self, block: nn.Module, hidden: Tensor, **more: Any) -> Tensor:
        """One block on a hidden state, checkpointed where that is asked for and a gradient may be needed."""
        if self.grad_checkpointing and self.training and any(p.requires_grad for p in block.parameters()):
            return checkpoint(block, hidden, use_reentrant=False, **more)
        return block(hidden, **more)

    def steps(self, first: int, last: int) -> Iterator[int]:
        """Block numbers from `first` up to, without, `last`.

        Raises:
            ValueError: `first` or `last` isn't a boundary of this backbone.
        """
        if not 0 <= first <= last <= self.spec.blocks:
            raise ValueError(
                f"boundary: {self.spec.name} has boundaries 0 to {self.spec.blocks}, found {first} to {last}"
            )
        return iter(range(first, last))
