"""What a search will cost, before it is started: device-hours, disk and memory, from a short measured probe of each
kind of configuration that its space holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

import torch

from search.plan import Plan, pixels_of_trials, policies_of
from search.rungs import rung_epochs
from search.sampler import Exhausted, Sampler
from spaces.config import StoppingConfig, TrialConfig
from spaces.library import trial_config
from spaces.words import counted
from trainables.causes import Diverged
from trainables.kinds import kind
from trainables.place import this_machine
from trainables.prefix import activation_budget
from trainables.probe import Cost, remembered

SAMPLED = 64  # points of the space, evenly drawn
SECONDS = 20.0  # of probing, after which no further kind is begun: the rest is estimated from those that were measured
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
    peak: int
    """Bytes of device memory of the kind that needs most; on a CPU, by how much the process grew; 0 if unknown."""
    infeasible: float
    """Share of the drawn configurations that run out of memory."""
    pixels: int
    """Bytes of decoded images on disk."""
    activations: int
    """Bytes on disk that activations may take."""
    fit: int | None
    """Trials that fit into `budget.hours`; None without such a limit."""


def estimate(plan: Plan, progress: Callable[[int, int], None] | None = None) -> Estimate | None:
    """None where this machine has not the accelerators that a trial asks for, or where no kind could be measured: what
    they would need isn't known here.

    Args:
        progress: called with (kinds looked at, kinds).
    """
    resources = plan.config.resources
    if not _has_devices(plan):
        return None
    configs = _drawn(plan)
    place = this_machine(resources.accelerators, resources.cpus)
    counts = Counter(kind(config) for config in configs)
    of_kind = {kind(config): config for config in configs}
    classes, task = len(plan.prepared.manifest.classes), plan.prepared.manifest.task
    costs: dict[str, Cost] = {}
    started = time.monotonic()
    for done, (name, _) in enumerate(counts.most_common()):
        if time.monotonic() - started < SECONDS:
            with suppress(Diverged):  # it stays one that wasn't measured
                costs[name] = remembered(of_kind[name], classes, task, place, plan.cache)
        if progress:
            progress(done + 1, len(counts))
    fitting = [config for config in configs if kind(config) not in costs or costs[kind(config)].fits]
    if not any(cost.fits for cost in costs.values()):
        return None
    each = fmean(_hours(plan, config, costs) for config in fitting)
    trials = plan.config.budget.trials
    share = share_of_epochs(plan.config.budget.epochs, plan.config.stopping, plan.config.dataset.split.folds)
    hours = plan.config.budget.hours
    return Estimate(
        kinds=len(counts),
        measured=len(costs),
        hours_each=each,
        hours_all=each * trials,
        hours_stopped=each * trials * share,
        peak=max(cost.peak_bytes for cost in costs.values()),
        infeasible=1 - len(fitting) / len(configs),
        pixels=_pixels(plan),
        activations=activation_budget(plan.cache, plan.config.activations),
        fit=int(hours * plan.concurrent / (each * share)) if hours else None,
    )


def share_of_epochs(epochs: int, stopping: StoppingConfig, folds: int = 1) -> float:
    """Which part of all epochs is trained where one in eta trials goes on at every rung."""
    total = epochs * folds
    ends = [*rung_epochs(epochs, stopping, folds), total]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return sum(length / stopping.eta**i for i, length in enumerate(lengths)) / total


def estimate_lines(found: Estimate | None, plan: Plan) -> list[str]:
    """The estimate in sentences."""
    if found is None:
        why = "this machine hasn't the accelerators that a trial asks for"
        if _has_devices(plan):
            why = "none of the kinds of configuration could be measured, for want of memory or of a finite loss"
        return [f"What it will cost can't be told here: {why}."]
    config = plan.config
    device = "accelerator" if config.resources.accelerators else "CPU"
    measured = "" if found.measured == found.kinds else f" ({found.measured} of {found.kinds} kinds were measured)"
    stopped = f", about {found.hours_stopped:.3g} with early stopping" if found.hours_stopped < found.hours_all else ""
    memory = f"up to {found.peak / GIB:.2f} GiB of memory a trial" if found.peak else "its memory wasn't measured"
    if found.infeasible:
        memory += f"; {found.infeasible:.0%} of configurations don't fit"
    lines = [
        f"Cost, measured on this machine{measured}: {found.hours_each:.3g} {device}-hours a full trial, "
        f"{found.hours_all:.3g} for {counted(config.budget.trials, 'trial')}{stopped}, less where activations "
        f"are shared; {memory}.",
        f"Disk: {found.pixels / GIB:.2f} GiB for decoded images, up to {found.activations / GIB:.1f} GiB for "
        "activations.",
    ]
    if found.fit is not None and found.fit < config.budget.trials:
        lines.append(
            f"WARNING: some {found.fit} of the {config.budget.trials} trials fit into budget.hours: "
            f"{config.budget.hours:g} at {plan.concurrent} at once."
        )
    return lines


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


def _hours(plan: Plan, config: TrialConfig, costs: dict[str, Cost]) -> float:
    """Device-hours of a full trial; of a kind that wasn't measured as the mean of its backbone's, or of all."""
    own = costs.get(kind(config))
    like = [own] if own else [cost for cost in costs.values() if cost.fits]
    training, evaluating = fmean(cost.training for cost in like), fmean(cost.evaluating for cost in like)
    images = [(len(train), len(validation)) for train, validation in plan.prepared.folds]
    seconds = sum(train * training + validation * evaluating for train, validation in images) * config.epochs
    resources = plan.config.resources  # of one worker: several take as many times fewer seconds each
    return seconds * (resources.accelerators or resources.cpus) / HOUR


def _pixels(plan: Plan) -> int:
    policies = policies_of(plan.config, plan.space, plan.prepared.manifest.policy)
    parts = pixels_of_trials(plan.config, plan.space, plan.prepared, policies)
    return sum(len(rows) * 3 * spec.height * spec.width for rows, specs in parts for spec in specs)
