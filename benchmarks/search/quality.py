"""Searches instead of replays: what each costs, and how good the best configuration is that it finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.search.outcome import Outcome
from benchmarks.search.regimes import Recorded, Trained
from benchmarks.search.replay import SIDES, Order, run
from benchmarks.search.setting import Setting

SEEDS = 3
LEVEL = 1


def equal_quality(
    setting: Setting, trials: int, blocks: Sequence[Trained], cpus: int, repeats: int, console: Console
) -> list[dict[str, Any]]:
    """Each side searches; its best configuration is trained by the plain script, which keeps nothing, on new seeds."""
    found = []
    for repeat in range(repeats):
        turn = repeat % len(SIDES)
        for side in (*SIDES[turn:], *SIDES[:turn]):
            order = Order(side, setting, cpus, count=trials, blocks=tuple(blocks), level=LEVEL)
            searched = run(order)
            best = _best(searched, setting.epochs)
            seeds = [dataclasses.replace(best, seed=1000 + seed) for seed in range(SEEDS)]
            retrained = run(Order("plain", setting, cpus, tuple(seeds)))
            values = [done.value for done in retrained.trials]
            found.append(
                {
                    "side": side,
                    "wall": searched.wall,
                    "device_seconds": setting.held(cpus) * searched.wall,
                    "trials": len(searched.trials),
                    "epochs": sum(len(done.values) for done in searched.trials),
                    "best": dataclasses.asdict(best),
                    "values": values,
                }
            )
            console.print(f"{side}: {searched.wall:.0f} s, {np.mean(values):.4f} over {SEEDS} seeds", highlight=False)
    return found


def _best(outcome: Outcome, epochs: int) -> Recorded:
    """Of the trials that ran to their end."""
    whole = [done for done in outcome.trials if len(done.values) == epochs]
    return max(whole, key=lambda done: done.value).trial


def quality_table(found: Sequence[dict[str, Any]]) -> Table:
    shown = Table(
        "search", "wall, s", "device-seconds", "trials", "epochs", "trained blocks of the best", "its quality"
    )
    for one in found:
        shown.add_row(
            one["side"],
            f"{one['wall']:.0f}",
            f"{one['device_seconds']:.0f}",
            str(one["trials"]),
            str(one["epochs"]),
            str(one["best"]["trained_blocks"]),
            f"{np.mean(one['values']):.4f} ({', '.join(f'{v:.4f}' for v in one['values'])})",
        )
    return shown
