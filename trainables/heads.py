"""Heads: what turns a backbone's features into logits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from spaces.config import Head
from trainables.backbones import Features


class LinearHead(nn.Module):
    """One linear layer on the pooled feature."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features) -> Tensor:
        return self.linear(features.pooled)


HEADS: dict[Head, Callable[[BackboneSpec, int], nn.Module]] = {
    "linear": lambda spec, classes: LinearHead(spec.width, classes),
}


def build_head(kind: Head, spec: BackboneSpec, classes: int) -> nn.Module:
    """A head that maps `Features` to logits [B, classes], initialised from torch's global random state.

    Raises:
        ValueError: fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"classes: expected at least 2, found {classes}")
    return HEADS[kind](spec, classes)
