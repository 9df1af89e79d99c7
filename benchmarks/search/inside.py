"""What trials cost without what lies around them: one process, no Ray, processor seconds.

    python -m benchmarks.search.inside [--regime NAME ...] [--images 200] [--epochs 3] [--repeats 2] [--json FILE]

Processor seconds of all threads and child processes hardly depend on what else a machine does, unlike wall time, which
`python -m benchmarks.search` measures with imports, Ray and idle slots. Each side runs one or two trials of a regime's
list, in turns, and the whole list is put together from that: what is done once (files of resized images; ours: all that
a search looks at before its first trial), and what each trial takes. Ours writes checkpoints as in a search, trains
heads in passes of as many as two slots would give, and keeps activations in a store that is empty at first: the trial
that builds it counts once, the others read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.search import images, plain, strong
from benchmarks.search.ours import _point, settings
from benchmarks.search.regimes import REGIMES, Recorded, Regime, recorded
from benchmarks.search.setting import Setting
from search.plan import Plan, plan
from spaces.config import TrialConfig
from spaces.library import trial_config
from trainables.augment import store_resolution
from trainables.data.parts import TrialData, trial_data
from trainables.head_group import fine_tune_heads
from trainables.loop import fine_tune
from trainables.place import this_machine
from trainables.prefix import ActivationStore
from trainables.trials import PAUSE

SLOTS = 2
ROOM = 8 << 30
BACKBONE, SIDE = "dinov2_small", 56


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def cost(work: Callable[[], object]) -> float:
    before = processor_seconds()
    work()
    return processor_seconds() - before


@dataclasses.dataclass
class Costs:
    """Processor seconds of one side: what is done once, the first trial (or pass), and each further one."""

    once: float
    first: float
    later: float
    together: int = 1
    """Trials of one pass."""

    def whole(self, trials: int) -> float:
        passes = math.ceil(trials / self.together)
        return self.once + self.first + (passes - 1) * self.later


def of_plain(trials: Sequence[Recorded], setting: Setting, home: Path) -> Costs:
    took = cost(lambda: plain.fine_tune(trials[0], setting, _saving(home)))
    return Costs(0.0, took, took)


def of_strong(trials: Sequence[Recorded], setting: Setting, home: Path) -> Costs:
    resized = home / "resized"
    resized.mkdir()
    once = cost(lambda: strong.resize_all(setting, trials[0].level, resized, SLOTS))
    strong.fine_tune(trials[0], dataclasses.replace(setting, epochs=1), str(resized), lambda *_: None)  # warms up
    took = cost(lambda: strong.fine_tune(trials[1], setting, str(resized), _saving(home)))
    return Costs(once, took, took)


def of_ours(trials: Sequence[Recorded], setting: Setting, home: Path) -> Costs:
    found: list[Plan] = []
    config = settings("inside", setting, len(trials), [trials[0].trained_blocks], trials[0].level, home)
    once = cost(lambda: found.append(plan(config, home)))
    [planned] = found
    configs = [_config(planned, trial) for trial in trials]
    cache, place = planned.cache, this_machine(0, 1)
    store = ActivationStore(home / "activations", ROOM)
    data: list[TrialData] = []
    once += cost(
        lambda: data.append(
            trial_data(
                planned.prepared, planned.config.dataset, configs[0].resolution, store_resolution(configs[0]), cache
            )
        )
    )
    together = max(1, len(trials) // (2 * SLOTS)) if trials[0].trained_blocks == 0 else 1

    def run(number: int, epochs: int) -> None:
        folder = home / f"{number}"
        few = [c.model_copy(update={"epochs": epochs}) for c in configs[number * together : (number + 1) * together]]
        if trials[0].trained_blocks == 0:
            fine_tune_heads(few, data[0], folder, place=place, store=store, pause=PAUSE)
        else:
            fine_tune(few[0], data[0], folder, place=place, store=store, pause=PAUSE)

    # Warms up what a process does once, on views of its own.
    warm = configs[0].model_copy(update={"epochs": 1, "view_seed": 10**6})
    fine_tune(warm, data[0], place=place, store=ActivationStore(home / "warm", ROOM))
    return Costs(once, cost(lambda: run(0, setting.epochs)), cost(lambda: run(1, setting.epochs)), together)


SIDES: dict[str, Callable[[Sequence[Recorded], Setting, Path], Costs]] = {
    "plain": of_plain,
    "strong": of_strong,
    "ours": of_ours,
}


def _config(planned: Plan, trial: Recorded) -> TrialConfig:
    point = _point(trial, planned.space)
    return trial_config(
        planned.config, point, metric="balanced_accuracy", policy=str(planned.config.dataset.policy), seed=trial.seed
    )


def _saving(home: Path) -> plain.Report:
    def report(_: dict[str, Any], model: nn.Module | None) -> None:
        if model is not None:
            torch.save(model.state_dict(), home / "model.pt")

    return report


def measure(regime: Regime, setting: Setting, sides: Sequence[str], repeats: int, console: Console) -> dict[str, Any]:
    """All sides, in turns; as plain data."""
    trials = recorded(regime, regime.trials)
    runs: dict[str, list[Costs]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in (*sides[repeat % len(sides) :], *sides[: repeat % len(sides)]):
            home = Path(tempfile.mkdtemp())
            try:
                runs[side].append(SIDES[side](trials, setting, home))
            finally:
                shutil.rmtree(home)
            console.print(f"{regime.name}, {side}: {runs[side][-1]}", highlight=False)
    whole = {side: [c.whole(len(trials)) for c in of_side] for side, of_side in runs.items()}
    later = {side: [c.later / c.together for c in of_side] for side, of_side in runs.items()}
    return {
        "regime": regime.name,
        "trials": len(trials),
        "whole": {side: float(np.median(values)) for side, values in whole.items()},
        "ratios": {
            side: {"whole": _ratio(whole[side], whole["ours"]), "later": _ratio(later[side], later["ours"])}
            for side in sides
            if side != "ours"
        },
        "wanted": {side: [low, high if math.isfinite(high) else None] for side, (low, high) in regime.wanted.items()},
        "runs": {side: [dataclasses.asdict(c) for c in of_side] for side, of_side in runs.items()},
    }


def _ratio(theirs: Sequence[float], own: Sequence[float]) -> list[float]:
    ratios = [one / other for one, other in zip(theirs, own, strict=True)]
    return [float(np.median(ratios)), min(ratios), max(ratios)]


def table(found: Sequence[dict[str, Any]]) -> Table:
    shown = Table(
        "regime", "trials", *(f"{side}, s" for side in SIDES), "plain / ours", "strong / ours", "a later trial"
    )
    for one in found:
        ratios = one["ratios"]
        shown.add_row(
            one["regime"],
            str(one["trials"]),
            *(f"{one['whole'][side]:.0f}" if side in one["whole"] else "" for side in SIDES),
            *(_spread(ratios[side]["whole"]) if side in ratios else "" for side in ("plain", "strong")),
            _spread(ratios["strong"]["later"]),
        )
    return shown


def _spread(values: Sequence[float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [regime.name for regime in REGIMES if regime.name != "mix"]
    parser.add_argument("--regime", nargs="+", choices=names, default=names)
    parser.add_argument("--sides", nargs="+", choices=["plain", "strong"], default=["plain", "strong"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = 160
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        images.write_weights(options.backbone, SIDE, home / "weights.safetensors")
        for regime in (regime for regime in REGIMES if regime.name in options.regime):
            if not (home / regime.images).exists():
                images.write(regime.images, home / regime.images, options.images)
            setting = Setting(
                str(home / regime.images), "digits" if regime.images == "digits" else "natural", options.backbone,
                str(home / "weights.safetensors"), SIDE, options.epochs,
            )  # fmt: skip
            found.append(measure(regime, setting, (*options.sides, "ours"), options.repeats, console))
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    console.print(table(found))


if __name__ == "__main__":
    main()
