"""Trials that ran out of memory: what needs as much isn't tried again."""

from __future__ import annotations

import math
import re

from search.record import State, Trial
from spaces.config import parse_resolution
from spaces.dimensions import Point, Value

ALIKE = ("backbone", "head", "adapter", "adapter_targets", "grad_checkpointing")
"""Where these differ, it isn't known which of two trials needs more memory."""
OUT_OF_MEMORY = re.compile(r"out of .* memory")
"""How the cause of a trial that ran out of memory begins (trainables/causes.py)."""


def ran_out_of_memory(trial: Trial) -> bool:
    return trial.state is State.INFEASIBLE and OUT_OF_MEMORY.match(trial.cause) is not None


def needs_as_much(point: Point, than: Point) -> bool:
    """Whether a trial of a point needs at least the memory of another, by all that is known without trying: it is alike
    but for what takes more memory the more there is of it, and has no less of that."""
    if any(point.get(name) != than.get(name) for name in ALIKE):
        return False
    return all(mine >= its for mine, its in zip(_amounts(point), _amounts(than), strict=True))


def _amounts(point: Point) -> tuple[float, ...]:
    height, width = parse_resolution(_plain(point.get("resolution", 0)))
    blocks = point.get("trained_blocks", 0)
    return (
        height * width,
        float(point.get("batch_size", 0)),
        math.inf if blocks == "all" else float(blocks),
        float(point.get("ema", 0) != 0),  # a copy of the weights
    )


def _plain(value: Value) -> int | str:
    return value if isinstance(value, str) else int(value)
