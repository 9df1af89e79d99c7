"""What heads that train in one pass hold in memory beyond one trial, known without training them.

Shapes: K heads, N images of training, B images of a batch, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from spaces.backbone import backbone
from spaces.config import TrialConfig
from spaces.dimensions import Choice, Space
from trainables.data.manifest import Task
from trainables.place import Place, precision
from trainables.prefix import views_looked_at

FLOAT, ROW = 4, 8  # bytes of a number, and of the number of an image
STACKS = 8  # of [K, D, C] in a step: weights, two moments, averages; gradients and what is computed of them
BEFORE = 4  # of the same on the host, to begin a pass anew from
GATHERED, MIXED = 2, 4  # of a step's features [K, B, D]
MADE = 3  # of one trial's targets, while they are made beside those that differ
ORDERS = 2  # of the rows of all batches of an epoch [K, N], and of the shares of mixup, on the host
TARGETS = ("label_smoothing", "class_weights", "uncertain", "blank")
"""Where these are the same, trials share their targets [N, C], but for uncertain findings that each draws itself."""


@dataclass(frozen=True)
class Held:
    """Bytes."""

    host: int = 0
    device: int = 0
    """Of an accelerator; 0 on a CPU. Copies of features there aren't counted: they make way."""


def different_targets(space: Space, heads: int, task: Task) -> int:
    """How many different targets so many heads of a space learn at the most."""
    ranges = {dimension.name for dimension in space.dimensions if not isinstance(dimension, Choice)}
    drawn = task == "multilabel" and "smooth" in space.offered("uncertain")  # by the trial's seed
    if drawn or ranges & set(TARGETS):
        return heads
    return min(heads, prod(max(1, len(space.offered(name))) for name in TARGETS))


def held(
    configs: Sequence[TrialConfig],
    heads: int,
    images: tuple[int, int],
    classes: int,
    task: Task,
    budget: int,
    place: Place,
    different: int,
) -> Held:
    """What so many heads hold at the most: a stack of them, what each learns and in which order, and the features of
    all images of a view where the store of activations has no room for the views that a trial looks at.

    Args:
        configs: what the heads may be, of one backbone and batch size.
        images: of training and of validation.
        classes: or findings.
        budget: bytes that the store may take.
        different: targets that the heads learn (`different_targets`).
    """
    train, validation = images
    width = max(backbone(config.backbone).feature_width(config.feature) for config in configs)
    each = width * precision(place.device).itemsize
    views = max(views_looked_at(config) for config in configs)
    live = sum(rows * each for rows, seen in ((train, views), (validation, 1)) if seen * rows * each > budget)
    stack = heads * width * classes * FLOAT
    target = train * classes * (2 if task == "multilabel" else 1) * FLOAT
    mixed = any(config.mixup for config in configs)
    shares = heads * train * FLOAT if mixed else 0
    step = (MIXED if mixed else GATHERED) * heads * configs[0].batch_size * width * FLOAT
    orders = ORDERS * (heads * train * ROW + shares)
    host = live + BEFORE * stack + (different + MADE) * target + orders
    working = STACKS * stack + step
    if place.device.type == "cpu":
        return Held(host + working)
    return Held(host, working + different * target + shares)
