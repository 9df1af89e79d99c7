"""What is replayed: lists of trials, drawn once from a seed, and what sharing alone could gain on each of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Trained = int | Literal["all"]
TENTH = 10
SLACK = 0.15  # by which the gain at the last k blocks may miss its formula


@dataclass(frozen=True)
class Recorded:
    """One trial of a list. Its fields are dimensions of medtune's space and arguments of the baselines."""

    seed: int
    """Its place in the list, and what its randomness follows from."""
    trained_blocks: Trained
    level: int
    """Of augmentation. At 0 every epoch sees the same view; above, each a fresh one."""
    head_lr: float
    backbone_lr_ratio: float
    head_weight_decay: float
    label_smoothing: float
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0
    batch_size: int = 32


@dataclass(frozen=True)
class Regime:
    """A kind of list, and the images that it is run on."""

    name: str
    images: Literal["digits", "jpegs"]
    trained: tuple[Trained, ...]
    """Of the trials, in turn."""
    trials: int
    level: int
    wanted: dict[str, tuple[float, float]]
    """Ratios of wall time that are to be reached over `plain` and `strong`, at least and at most; of the median epoch,
    in which nothing is built, under `epoch`."""


def _last(k: int, blocks: int = 12) -> Regime:
    formula = (blocks + 2 * k) / (3 * k)
    return Regime(f"last-{k}", "digits", (k,), 8, 1, {"epoch": ((1 - SLACK) * formula, (1 + SLACK) * formula)})


REGIMES = (
    Regime("head-one-view", "jpegs", (0,), 50, 0, {"plain": (50, math.inf), "strong": (20, math.inf)}),
    Regime("head-fresh-views", "jpegs", (0,), 50, 1, {"plain": (8, math.inf), "strong": (4, math.inf)}),
    _last(1),
    _last(2),
    _last(4),
    Regime("full", "jpegs", ("all",), 8, 1, {"plain": (3, math.inf), "strong": (0.95, math.inf)}),
    Regime("mix", "jpegs", (0, 1, 2, 4, "all"), 20, 1, {}),
    # Nothing can be shared and little is decoded: who shows more than 1 here measures something else than sharing.
    Regime("control", "digits", ("all",), 8, 0, {"strong": (0.9, 1.1)}),
)


def recorded(regime: Regime, trials: int, seed: int = 0) -> list[Recorded]:
    """The regime's list."""
    rng = np.random.default_rng([seed, len(regime.name), *regime.name.encode()])
    return [
        Recorded(
            seed=index,
            trained_blocks=regime.trained[index % len(regime.trained)],
            level=regime.level,
            head_lr=_log_uniform(rng, 1e-3, 1e-2),
            backbone_lr_ratio=_log_uniform(rng, 1e-2, 1e-1),
            head_weight_decay=float(rng.choice([0.0, 0.01, 0.05])),
            label_smoothing=float(rng.choice([0.0, 0.1])),
        )
        for index in range(trials)
    ]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def stratum(trial: Recorded) -> str:
    """Trials of one stratum cost about the same."""
    return str(trial.trained_blocks)


def tenth(trials: Sequence[Recorded], slots: int) -> list[Recorded]:
    """A tenth of every stratum, evenly spaced by learning rate, in the list's order; of each at least one trial, and in
    all at least two a slot."""
    strata: dict[str, list[Recorded]] = defaultdict(list)
    for trial in trials:
        strata[stratum(trial)].append(trial)
    least = math.ceil(2 * slots / len(strata))
    chosen: list[Recorded] = []
    for members in strata.values():
        ordered = sorted(members, key=lambda t: t.head_lr)
        count = min(len(ordered), max(least, math.ceil(len(ordered) / TENTH)))
        places = np.linspace(0, len(ordered) - 1, count + 2)[1:-1].round().astype(int) if count < len(ordered) else None
        chosen += ordered if places is None else [ordered[place] for place in places]
    return sorted(chosen, key=lambda t: t.seed)


def scaled(trials: Sequence[Recorded], done: Sequence[Recorded], seconds: Sequence[float], slots: int) -> float:
    """Seconds that a whole list would take in so many slots, each stratum costing what its replayed trials did.

    Args:
        seconds: in a slot, of each trial that was done.
    """
    strata: dict[str, list[float]] = defaultdict(list)
    for trial, took in zip(done, seconds, strict=True):
        strata[stratum(trial)].append(took)
    return sum(float(np.mean(strata[stratum(trial)])) for trial in trials) / slots


def ceiling(trials: Sequence[Recorded], epochs: int, blocks: int, train: int, validation: int) -> float:
    """How many times fewer block passes a list needs where what frozen blocks give is computed once for each image and
    view: a backward pass counts as two forward ones, heads as nothing, decoding as nothing."""
    k = _trained(blocks)
    kept = {t.trained_blocks for t in trials if 2 * (blocks - k(t)) > blocks}
    alone = sum(epochs * (train * (blocks + 2 * k(t)) + validation * blocks) for t in trials)
    shared = 0
    for t in trials:
        passes = 3 * k(t) if t.trained_blocks in kept else blocks + 2 * k(t)
        shared += epochs * (train * passes + validation * (k(t) if t.trained_blocks in kept else blocks))
    for boundary in kept:
        of_boundary = next(t for t in trials if t.trained_blocks == boundary)
        views = epochs if of_boundary.level else 1
        shared += (blocks - k(of_boundary)) * (views * train + validation)
    return alone / shared


def _trained(blocks: int) -> Callable[[Recorded], int]:
    return lambda trial: blocks if trial.trained_blocks == "all" else trial.trained_blocks


def of_plain(data: dict[str, Any]) -> Recorded:
    return Recorded(**data)
