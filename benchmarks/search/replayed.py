"""Replays a regime's list by all sides, in turns, and puts the figures together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from benchmarks.search.outcome import Outcome, agreement, median_and_range
from benchmarks.search.plain import Setting
from benchmarks.search.regimes import Recorded, Regime, ceiling, recorded, scaled, tenth
from benchmarks.search.replay import BASELINES, SIDES, Order, run
from spaces.backbone import backbone

RANGE = "least to most over repeats"
LONG = 12  # trials above which a baseline runs a tenth of them


def measure(regime: Regime, setting: Setting, cpus: int, repeats: int, whole: bool, console: Console) -> dict[str, Any]:
    """All sides, `repeats` times; as plain data."""
    trials = recorded(regime, regime.trials)
    slots = cpus // setting.cpus
    part = trials if whole or len(trials) <= LONG else tenth(trials, slots)
    runs: dict[str, list[Outcome]] = {side: [] for side in (*SIDES, "uncached")}
    for repeat in range(repeats):
        turn = repeat % len(SIDES)
        for side in (*SIDES[turn:], *SIDES[:turn], *(["uncached"] if repeat == 0 else [])):
            replayed = trials if side == "ours" else part
            outcome = run(Order(side, setting, cpus, tuple(replayed)))
            runs[side].append(outcome)
            console.print(
                f"{regime.name}, {side}: {len(replayed)} trials in {outcome.wall:.1f} s, of which "
                f"{outcome.before():.1f} s before the first and {outcome.building:.1f} s of building; {outcome.counts}",
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
    walls = {side: [_whole(o, trials, slots) for o in runs[side]] for side in SIDES}
    inside = {side: [w - o.around() for w, o in zip(walls[side], runs[side], strict=True)] for side in SIDES}
    ratios = {
        side: {
            "wall": _ratios(walls[side], walls["ours"]),
            "inside": _ratios(inside[side], inside["ours"]),
            "epoch": _ratios([o.epoch() for o in runs[side]], [o.epoch() for o in runs["ours"]]),
        }
        for side in BASELINES
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
        "wall": {side: median_and_range(walls[side]) for side in SIDES},
        "scaled": len(part) < len(trials),
        "building": {side: median_and_range([o.building for o in runs[side]]) for side in ("strong", "ours")},
        "around": {side: median_and_range([o.around() for o in runs[side]]) for side in SIDES},
        "counts": {side: runs[side][0].counts for side in runs},
        "agreement": {
            "cached and uncached": agreement(runs["ours"][0], runs["uncached"][0]),
            "ours and strong": agreement(runs["ours"][0], runs["strong"][0]),
            "strong and plain": agreement(runs["strong"][0], runs["plain"][0]),
        },
        "runs": {side: [dataclasses.asdict(outcome) for outcome in runs[side]] for side in runs},
    }


def _ratios(theirs: Sequence[float], own: Sequence[float]) -> tuple[float, float, float]:
    return median_and_range([one / other for one, other in zip(theirs, own, strict=True)])


def _whole(outcome: Outcome, trials: Sequence[Recorded], slots: int) -> float:
    """Wall seconds of the whole list: measured, or scaled from the part that was replayed."""
    if len(outcome.trials) == len(trials):
        return outcome.wall
    done = [d.trial for d in outcome.trials]
    return outcome.around() + scaled(trials, done, outcome.slot_seconds(slots), slots)


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
    )
    for one in regimes:
        star, counts, apart = "*" if one["scaled"] else "", one["counts"], one["agreement"]
        ratios = {side: one["ratios"][side] for side in BASELINES}
        times.add_row(
            f"{one['regime']}, {one['images']['kind']}",
            f"{len(one['trials'])}",
            *(f"{one['wall'][side][0]:,.0f}{star}" for side in BASELINES),
            f"{one['wall']['ours'][0]:,.0f}",
            f"{one['building']['ours'][0]:.0f}",
            *(_spread(ratios[side]["wall"]) for side in BASELINES),
            ", ".join(_wanted(side, *bounds) for side, bounds in one["wanted"].items()),
            *(_spread(ratios[side]["inside"]) for side in BASELINES),
            _spread(ratios["strong"]["epoch"]) if _of_one_kind(one) else "",
            f"{one['ceiling']:.1f}",
        )
        checks.add_row(
            one["regime"],
            ", ".join(f"{side} {counts[side]['decoded']:,}{star if side != 'ours' else ''}" for side in SIDES),
            ", ".join(f"{side} {counts[side]['computed']:,}{star if side != 'ours' else ''}" for side in SIDES),
            str(counts["ours"]["builds"]),
            _apart(apart["cached and uncached"]),
            _apart(apart["ours and strong"]),
        )
    return Group(times, checks, f"* a tenth of the list; its times scaled, its counts not. Median ({RANGE}).")


def _of_one_kind(one: dict[str, Any]) -> bool:
    """Whether an epoch of one trial is like that of any other, and isn't shared with others."""
    return len(kinds := {trial["trained_blocks"] for trial in one["trials"]}) == 1 and 0 not in kinds


def _spread(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} ({low:.2f} to {high:.2f})" if high > low else f"{middle:.2f}"


def _wanted(side: str, low: float, high: float | None) -> str:
    return f"{side} {low:.3g}" + (f" to {high:.3g}" if high is not None else " or more")


def _apart(values: dict[str, float]) -> str:
    return f"{values['mean']:.4f}, at most {values['largest']:.4f}" if values else ""
