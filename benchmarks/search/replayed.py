"""Replays a regime's list by all sides, in turns, and puts the figures together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table

from benchmarks.search.kept import Kept
from benchmarks.search.outcome import Outcome, agreement, median_and_range
from benchmarks.search.regimes import Recorded, Regime, ceiling, recorded, scaled, tenth
from benchmarks.search.replay import BASELINES, SIDES, Order
from benchmarks.search.setting import Setting
from spaces.backbone import backbone

RANGE = "least to most over repeats"
LONG = 12  # trials above which a baseline runs a tenth of them


def measure(
    regime: Regime,
    setting: Setting,
    cpus: int,
    repeats: dict[str, int],
    whole: bool,
    console: Console,
    kept: Kept,
    plain_epochs: int | None = None,
) -> dict[str, Any]:
    """Each side as often as `repeats` says, in turns; as plain data.

    Args:
        plain_epochs: after which the plain side's trials end; the rest is taken to last as long as their median epoch.

    Raises:
        OutOfTime: `kept` has none left. What was run is there the next time.
    """
    trials = recorded(regime, regime.trials)
    slots = setting.slots(cpus)
    part = trials if whole or len(trials) <= LONG else tenth(trials, slots)
    runs: dict[str, list[Outcome]] = {side: [] for side in (*SIDES, "uncached")}
    for repeat in range(max(repeats.values())):
        turn = repeat % len(SIDES)
        for side in (*SIDES[turn:], *SIDES[:turn], "uncached"):
            if repeat >= repeats[side]:
                continue
            replayed = trials if side == "ours" else part
            epochs = min(plain_epochs or setting.epochs, setting.epochs) if side == "plain" else setting.epochs
            order = Order(side, dataclasses.replace(setting, epochs=epochs), cpus, tuple(replayed))
            outcome, load = kept.run(order, f"{regime.name}-{side}-{repeat}")
            runs[side].append(outcome)
            console.print(
                f"{regime.name}, {side}: {len(replayed)} trials in {outcome.wall:.1f} s, of which "
                f"{outcome.before():.1f} s before the first and {outcome.building:.1f} s of building; "
                f"{outcome.counts}; load before {load:.1f}",
                highlight=False,
            )
    return _figures(regime, trials, part, runs, setting, slots)


def _figures(
    regime: Regime,
    trials: Sequence[Recorded],
    part: Sequence[Recorded],
    runs: dict[str, list[Outcome]],
    setting: Setting,
    slots: int,
) -> dict[str, Any]:
    sides = [side for side in SIDES if runs[side]]
    walls = {side: [_whole(o, trials, slots, setting.epochs) for o in runs[side]] for side in sides}
    inside = {side: [w - o.idle() for w, o in zip(walls[side], runs[side], strict=True)] for side in sides}
    ratios = {
        side: {
            "wall": _ratios(walls[side], walls["ours"]),
            "inside": _ratios(inside[side], inside["ours"]),
            "epoch": _ratios([o.epoch() for o in runs[side]], [o.epoch() for o in runs["ours"]]),
        }
        for side in BASELINES
        if side in sides
    }
    count = {name: len(list((Path(setting.images) / name).glob("*/*"))) for name in ("train", "validation")}
    limit = ceiling(trials, setting.epochs, backbone(setting.backbone).blocks, count["train"], count["validation"])
    return {
        "regime": regime.name,
        "images": {"kind": regime.images, **count},
        "trials": [dataclasses.asdict(trial) for trial in trials],
        "replayed_by_baselines": [trial.seed for trial in part],
        "epochs": setting.epochs,
        "ceiling": limit,
        "wanted": {side: [low, high if math.isfinite(high) else None] for side, (low, high) in regime.wanted.items()},
        "ratios": ratios,
        "repeats": {side: len(runs[side]) for side in runs},
        "wall": {side: median_and_range(walls[side]) for side in sides},
        "scaled": [
            side
            for side in BASELINES
            if runs.get(side) and (len(part) < len(trials) or any(o.epochs < setting.epochs for o in runs[side]))
        ],
        "epochs_of_plain": [o.epochs for o in runs["plain"]],
        "building": {side: median_and_range([o.building for o in runs[side]]) for side in sides},
        "around": {side: median_and_range([o.around() for o in runs[side]]) for side in sides},
        "counts": {side: runs[side][0].counts for side in runs if runs[side]},
        "agreement": {
            f"{one} and {other}": agreement(runs[one][0], runs[other][0])
            for one, other in (("ours", "uncached"), ("ours", "strong"), ("ours", "plain"), ("strong", "plain"))
            if runs[one] and runs[other] and runs[one][0].epochs == runs[other][0].epochs
        },
        "runs": {side: [dataclasses.asdict(outcome) for outcome in runs[side]] for side in runs},
    }


def _ratios(theirs: Sequence[float], own: Sequence[float]) -> tuple[float, float, float]:
    """Repeat by repeat; where one side has fewer, its median by each of the other's."""
    if len(theirs) != len(own):
        few, many = sorted((theirs, own), key=len)
        middle = [float(np.median(few))] * len(many)
        theirs, own = (middle, many) if few is theirs else (many, middle)
    return median_and_range([one / other for one, other in zip(theirs, own, strict=True)])


def _whole(outcome: Outcome, trials: Sequence[Recorded], slots: int, epochs: int) -> float:
    """Wall seconds of the whole list: measured, or scaled from the trials and epochs that were replayed."""
    if len(outcome.trials) == len(trials) and outcome.epochs == epochs:
        return outcome.wall
    done = [d.trial for d in outcome.trials]
    return outcome.around() + scaled(trials, done, outcome.extended(slots, epochs), slots)


def table(regimes: Sequence[dict[str, Any]]) -> Group:
    """Times and ratios, then what was computed and how far final values lie apart."""
    times = Table(
        "regime", "trials", "plain, s", "strong, s", "ours, s", "building, s", "plain / ours", "strong / ours",
        "wanted", "inside: plain", "strong", "epoch: strong", "ceiling",
    )  # fmt: skip
    checks = Table(
        "regime",
        "images decoded",
        "training images through frozen blocks",
        "builds",
        "cached, uncached",
        "ours, strong",
        "strong, plain",
    )
    for one in regimes:
        star = {side: "*" if side in one["scaled"] else "" for side in SIDES}
        counts, apart = one["counts"], one["agreement"]
        ratios = one["ratios"]
        times.add_row(
            f"{one['regime']}, {one['images']['kind']}",
            f"{len(one['trials'])}",
            *(f"{one['wall'][side][0]:,.0f}{star[side]}" if side in ratios else "" for side in BASELINES),
            f"{one['wall']['ours'][0]:,.0f}",
            f"{one['building']['ours'][0]:.0f}",
            *(_spread(ratios[side]["wall"]) if side in ratios else "" for side in BASELINES),
            ", ".join(_wanted(side, *bounds, _reached(one, side)) for side, bounds in one["wanted"].items()),
            *(_spread(ratios[side]["inside"]) if side in ratios else "" for side in BASELINES),
            _spread(ratios["strong"]["epoch"]) if _of_one_kind(one) and "strong" in ratios else "",
            f"{one['ceiling']:.1f}",
        )
        checks.add_row(
            one["regime"],
            *(
                ", ".join(f"{side} {counts[side][what]:,}{star[side]}" for side in SIDES if side in counts)
                for what in ("decoded", "computed")
            ),
            str(counts["ours"]["builds"]),
            _apart(apart.get("ours and uncached", {})),
            _apart(apart.get("ours and strong", {})),
            _apart(apart.get("strong and plain", {})),
        )
    said = f"* a tenth of the list, of the plain side perhaps fewer epochs; times scaled, counts not. Median ({RANGE})."
    return Group(times, checks, said)


def _of_one_kind(one: dict[str, Any]) -> bool:
    """Whether an epoch of one trial is like that of any other, and isn't shared with others."""
    return len(kinds := {trial["trained_blocks"] for trial in one["trials"]}) == 1 and 0 not in kinds


def _spread(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} ({low:.2f} to {high:.2f})" if high > low else f"{middle:.2f}"


def _reached(one: dict[str, Any], side: str) -> float | None:
    """The ratio that a target speaks of; None where it wasn't measured."""
    of, what = ("strong", "epoch") if side == "epoch" else (side, "wall")
    return one["ratios"][of][what][0] if of in one["ratios"] else None


def _wanted(side: str, low: float, high: float | None, reached: float | None) -> str:
    text = f"{side} {low:.3g}" + (f" to {high:.3g}" if high is not None else " or more")
    if reached is None:
        return text
    return f"{text}: missed" if reached < low or (high is not None and reached > high) else text


def _apart(values: dict[str, float]) -> str:
    return f"{values['mean']:.4f}, at most {values['largest']:.4f}" if values else ""
