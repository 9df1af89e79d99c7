"""What a search will cost, before it is started: device-hours, time, memory and disk, from a short measured probe of
each kind of configuration that its space holds."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

import psutil
import torch

from search.launch import group_size
from search.plan import Plan, pixels_of_trials, policies_of
from search.rungs import rung_epochs
from search.sampler import Exhausted, Sampler
from search.spent import devices
from spaces.config import BudgetConfig, StoppingConfig, TrialConfig
from spaces.library import trial_config
from spaces.words import counted
from trainables.causes import Diverged
from trainables.head_member import can_share
from trainables.head_memory import Held, different_targets, held
from trainables.kinds import kind
from trainables.place import Place, this_machine
from trainables.prefix import activation_budget
from trainables.probe import Cost, Past, freed, own_memory, past, remembered

SAMPLED = 64  # points of the space, evenly drawn
SECONDS = 20.0  # of probing, after which no further kind is begun: the rest is estimated from those that were measured
TURN: dict[Past, int] = {"measured": 0, "untried": 1, "failed": 2, "diverged": 2}
"""Whose turn comes first. What failed takes as long each time, and would keep the others from theirs for ever."""
HOUR = 3600
GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Of a search, were its space sampled evenly."""

    kinds: int
    """Kinds of configuration among those that were drawn."""
    measured: int
    hours_each: float
    """Of the devices of one trial that runs to its end, everything computed."""
    hours_all: float
    """Of all trials, if none is stopped early."""
    hours_stopped: float
    """Of all trials, if at every rung one in eta goes on."""
    wall_hours: float
    """Until all trials are over, if none is stopped early, as many at once as run on this machine."""
    wall_stopped: float
    """The same, if at every rung one in eta goes on."""
    fit: int | None
    """Trials for which the budget's hours and device-hours last, stopped as above; None without either."""
    device_memory: int
    """Bytes of an accelerator that the kind takes which needs most; 0 on a CPU."""
    host_memory: int
    """Bytes of a process of the kind that needs most, without the files that it maps."""
    smaller: int
    """Kinds that were measured with a smaller batch than theirs, which would take long, and need more memory."""
    diverged: int
    """Kinds that weren't measured, since their loss wasn't finite, now or when they last had a turn."""
    earlier: int
    """Kinds that ran out of memory in an earlier check, and had no turn in this one."""
    unreached: int
    """Kinds of which nothing is known, since there was no time left for them."""
    infeasible: float
    """Share of the drawn configurations that run out of memory, now or in an earlier check."""
    pixels: int
    """Bytes of decoded images on disk."""
    activations: int
    """Bytes on disk that activations may take."""


def estimate(plan: Plan, progress: Callable[[int, int], None] | None = None) -> Estimate | None:
    """None where this machine has not the accelerators that a trial asks for, or where no kind could be measured: what
    they would need isn't known here.

    Args:
        progress: called with (kinds looked at, kinds).
    """
    resources, budget = plan.config.resources, plan.config.budget
    if not _has_devices(plan):
        return None
    configs = _drawn(plan)
    place = this_machine(resources.accelerators, resources.cpus)
    freed(place)
    before = own_memory(psutil.Process())
    costs, diverged, earlier = _costs(plan, configs, place, progress)
    measured = [cost for cost in costs.values() if cost.fits]
    if not measured:
        return None
    backbones = {kind(config): config.backbone for config in configs}
    device_memory, host_memory = _most_memory(plan, configs, costs, place)
    fitting = [config for config in configs if kind(config) not in costs or costs[kind(config)].fits]
    each = fmean(_hours(plan, config, costs, backbones) for config in fitting)
    share = share_of_epochs(budget.epochs, plan.config.stopping, plan.config.dataset.split.folds)
    length = each / devices(resources)
    limits = [trials_within(budget.hours, plan.concurrent, length, share)] if budget.hours else []
    limits += [int(budget.device_hours / (each * share))] if budget.device_hours else []
    return Estimate(
        kinds=len(backbones),
        measured=len(costs) - earlier,
        hours_each=each,
        hours_all=each * budget.trials,
        hours_stopped=each * share * budget.trials,
        wall_hours=wall_hours(budget.trials, plan.concurrent, length),
        wall_stopped=wall_hours(budget.trials, plan.concurrent, length, share),
        fit=min(limits) if limits else None,
        device_memory=device_memory,
        host_memory=before + host_memory,
        smaller=sum(not cost.whole for cost in measured),
        diverged=diverged,
        earlier=earlier,
        unreached=len(backbones) - len(costs) - diverged,
        infeasible=1 - len(fitting) / len(configs),
        pixels=_pixels(plan),
        activations=activation_budget(plan.cache, plan.config.activations),
    )


def _costs(
    plan: Plan, configs: list[TrialConfig], place: Place, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, Cost], int, int]:
    """Of each kind that could be measured in time, by `TURN` and then the most frequent ones first, and of those that
    didn't fit in an earlier check; how many diverged, then or now; and how many didn't fit then and had no turn now."""
    counts = Counter(kind(config) for config in configs)
    of_kind = {kind(config): config for config in configs}
    classes, task = len(plan.prepared.manifest.classes), plan.prepared.manifest.task
    before = {name: past(config, classes, task, place, plan.cache) for name, config in of_kind.items()}
    costs: dict[str, Cost] = {}
    diverged = 0
    earlier = 0
    started = time.monotonic()
    for done, name in enumerate(sorted(counts, key=lambda name: (TURN[before[name]], -counts[name]))):
        if before[name] == "measured" or time.monotonic() - started < SECONDS:
            try:
                costs[name] = remembered(of_kind[name], classes, task, place, plan.cache)
            except Diverged:
                diverged += 1
        elif before[name] == "failed":
            costs[name] = Cost(0.0, 0.0, 0, 0, fits=False)
            earlier += 1
        elif before[name] == "diverged":
            diverged += 1
        if progress:
            progress(done + 1, len(counts))
    return costs, diverged, earlier


def share_of_epochs(epochs: int, stopping: StoppingConfig, folds: int = 1) -> float:
    """Which part of all epochs is trained where one in eta trials goes on at every rung."""
    total = epochs * folds
    ends = [*rung_epochs(epochs, stopping, folds), total]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return sum(length / stopping.eta**i for i, length in enumerate(lengths)) / total


def wall_hours(trials: int, at_once: int, length: float, share: float = 1) -> float:
    """How long trials take, each of which begins as soon as another one has made room.

    None lasts longer than a whole one, and no place is empty while one waits: all are over after their work divided by
    the places and, but for a place's part of it, one whole trial more (Graham 1969, "Bounds on multiprocessing timing
    anomalies"). A trial that goes on to its end takes its time however many places there are.

    Args:
        length: hours of a whole trial.
        share: of a whole trial's epochs that one trains on average.
    """
    places = min(at_once, trials)
    whole = math.ceil(trials / places) * length
    return min(whole, max(1.0, share * trials / places + 1 - 1 / places) * length)


def trials_within(hours: float, at_once: int, length: float, share: float) -> int:
    """How many trials are over after so many hours, at most; arguments as of `wall_hours`."""
    most = int(hours * at_once / (length * share))  # were there no rest when the last ones end
    return bisect_right(range(1, most + 2), hours, key=lambda trials: wall_hours(trials, at_once, length, share))


def estimate_lines(found: Estimate | None, plan: Plan) -> list[str]:
    """The estimate in sentences."""
    if found is None:
        why = "this machine hasn't the accelerators that a trial asks for"
        if _has_devices(plan):
            why = (
                "none of the kinds of configuration that were tried could be measured, for want of memory or of a "
                "finite loss"
            )
        return [f"What it will cost can't be told here: {why}."]
    config = plan.config
    device = "accelerator" if config.resources.accelerators else "CPU"
    trials = counted(config.budget.trials, "trial")
    measured = "" if found.measured == found.kinds else f" ({found.measured} of {found.kinds} kinds were measured)"
    stopped = f", about {found.hours_stopped:.3g} with early stopping" if found.hours_stopped < found.hours_all else ""
    sooner = (
        f", if none is stopped early, and about {found.wall_stopped:.3g} with early stopping"
        if found.wall_stopped < found.wall_hours
        else ""
    )
    earlier = (
        f" ({counted(found.earlier, 'kind')} didn't in an earlier check, and had no turn in this one)"
        if found.earlier
        else ""
    )
    infeasible = f"; {found.infeasible:.0%} of configurations don't fit in memory{earlier}" if found.infeasible else ""
    return [
        f"Cost, measured on this machine{measured}: {found.hours_each:.3g} {device}-hours a full trial, "
        f"{found.hours_all:.3g} for {trials}{stopped}, less where activations are shared{infeasible}.",
        f"Time: about {found.wall_hours:.3g} hours for {trials}, {min(plan.concurrent, config.budget.trials)} at once"
        f"{sooner}.",
        *_fit_lines(found, config.budget),
        _memory_line(found, config.resources.workers),
        f"Disk: {found.pixels / GIB:.2f} GiB for decoded images, up to {found.activations / GIB:.1f} GiB for "
        "activations.",
    ]


def _fit_lines(found: Estimate, budget: BudgetConfig) -> list[str]:
    limits = [f"budget.{name}: {hours:g}" for name in ("hours", "device_hours") if (hours := getattr(budget, name))]
    if found.fit is None:
        return []
    how = "With early stopping some" if found.hours_stopped < found.hours_all else "Some"
    if found.fit < budget.trials:
        return [
            f"WARNING: {how.lower()} {found.fit} of the {budget.trials} trials fit into {' and '.join(limits)}; give "
            "more of it, or order fewer trials or epochs."
        ]
    return [f"{how} {found.fit} trials would fit into {' and '.join(limits)}."]


def _memory_line(found: Estimate, workers: int) -> str:
    of = "a trial" if workers == 1 else "a worker"
    amounts = [f"{found.device_memory / GIB:.2f} GiB of its accelerator"] if found.device_memory else []
    amounts += [f"{found.host_memory / GIB:.2f} GiB of the host, mapped images left out"]
    reasons = [
        (found.smaller, "would take long"),
        (found.diverged, "had no finite loss on noise"),
        (found.unreached, f"had no turn within {SECONDS:g} s (the next check goes on with them)"),
    ]
    lacking = sum(count for count, _ in reasons)
    if not lacking:
        return f"Memory of {of}: about {', '.join(amounts)}."
    return (
        f"Memory of {of}: at least {', '.join(amounts)}; {lacking} of {found.kinds} kinds weren't measured with a "
        f"whole batch: {', '.join(f'{count} {why}' for count, why in reasons if count)}."
    )


def _has_devices(plan: Plan) -> bool:
    return not plan.config.resources.accelerators or torch.cuda.is_available()


def _drawn(plan: Plan) -> list[TrialConfig]:
    sampler = Sampler(plan.space, plan.direction, plan.config.seed, "random", [])
    configs = []
    for number in range(SAMPLED):
        try:
            point = sampler.ask(number)
        except Exhausted:
            break
        configs.append(
            trial_config(
                plan.config, point, metric=str(plan.config.metric), policy=str(plan.config.dataset.policy), seed=0
            )
        )
    return configs


def _hours(plan: Plan, config: TrialConfig, costs: Mapping[str, Cost], backbones: Mapping[str, str]) -> float:
    """Device-hours of a full trial; of a kind that wasn't measured as the mean of its backbone's kinds, or of all.

    Args:
        costs: by kind.
        backbones: of every kind.
    """
    own = costs.get(kind(config))
    fitting = {name: cost for name, cost in costs.items() if cost.fits}
    alike = [cost for name, cost in fitting.items() if backbones[name] == config.backbone]
    like = [own] if own else alike or list(fitting.values())
    training, evaluating = fmean(cost.training for cost in like), fmean(cost.evaluating for cost in like)
    images = [(len(train), len(validation)) for train, validation in plan.prepared.folds]
    seconds = sum(train * training + validation * evaluating for train, validation in images) * config.epochs
    resources = plan.config.resources  # of one worker: several take as many times fewer seconds each
    return seconds * (resources.accelerators or resources.cpus) / HOUR


def _most_memory(plan: Plan, configs: list[TrialConfig], costs: dict[str, Cost], place: Place) -> tuple[int, int]:
    """Bytes of the accelerator and of the host that the kind takes which needs most: one trial of it, or, of heads that
    train in one pass, a job of as many as it may have."""
    heads = group_size(plan, plan.concurrent)
    manifest, (train, validation) = plan.prepared.manifest, plan.prepared.folds[0]
    budget = activation_budget(plan.cache, plan.config.activations)
    different = different_targets(plan.space, heads, manifest.task)
    device, host = 0, 0
    for name, cost in costs.items():
        alike = [config for config in configs if heads > 1 and kind(config) == name and can_share(config)]
        more = Held()
        if cost.fits and alike:
            images = len(train), len(validation)
            more = held(alike, heads, images, len(manifest.classes), manifest.task, budget, place, different)
        device, host = max(device, cost.device_bytes + more.device), max(host, cost.host_bytes + more.host)
    return device, host


def _pixels(plan: Plan) -> int:
    policies = policies_of(plan.config, plan.space, plan.prepared.manifest.policy)
    parts = pixels_of_trials(plan.config, plan.space, plan.prepared, policies)
    return sum(len(rows) * 3 * spec.height * spec.width for rows, specs in parts for spec in specs)
