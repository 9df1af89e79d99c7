"""What heads that train in one pass hold in memory beyond one trial, known without training them.

Shapes: K heads, N images of training, B images of a batch, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spaces.backbone import backbone
from spaces.config import TrialConfig
from trainables.data.manifest import Task
from trainables.place import Place, precision
from trainables.prefix import views_looked_at

FLOAT = 4  # bytes
STACKS = 8  # of [K, D, C] in a step: weights, two moments, averages; gradients and what is computed of them
BEFORE = 4  # of the same on the host, to begin a pass anew from
GATHERED, MIXED = 2, 4  # of a step's features [K, B, D]
TARGETS = ("label_smoothing", "class_weights", "uncertain", "blank")
"""Where these are the same, trials share their targets [N, C]."""


@dataclass(frozen=True)
class Held:
    """Bytes."""

    host: int = 0
    device: int = 0
    """Of an accelerator; 0 on a CPU. Copies of features there aren't counted: they make way."""


def held(
    configs: Sequence[TrialConfig],
    heads: int,
    images: tuple[int, int],
    classes: int,
    task: Task,
    budget: int,
    place: Place,
) -> Held:
    """What so many heads hold at the most: a stack of them, what each learns, and the features of all images of a view
    where the store of activations has no room for the views that a trial looks at.

    Args:
        configs: what the heads may be, of one backbone and batch size.
        images: of training and of validation.
        classes: or findings.
        budget: bytes that the store may take.
    """
    train, validation = images
    width = max(backbone(config.backbone).feature_width(config.feature) for config in configs)
    each = width * precision(place.device).itemsize
    views = max(views_looked_at(config) for config in configs)
    live = sum(rows * each for rows, seen in ((train, views), (validation, 1)) if seen * rows * each > budget)
    stack = heads * width * classes * FLOAT
    different = min(heads, len({tuple(getattr(config, name) for name in TARGETS) for config in configs}))
    targets = different * train * classes * (2 if task == "multilabel" else 1) * FLOAT
    copies = MIXED if any(config.mixup for config in configs) else GATHERED
    step = copies * heads * configs[0].batch_size * width * FLOAT
    host, working = live + BEFORE * stack + targets, STACKS * stack + targets + step
    return Held(host + working) if place.device.type == "cpu" else Held(host, working)
