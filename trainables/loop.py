"""Fine-tuning, from top to bottom. Runs alike in a plain process, in a Tune trial and in a Ray Train group.

Same configuration, data and thread count: the same losses, bit by bit, with one worker; with several, the same up to
the order of summation.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from spaces.config import TrialConfig
from trainables import sharding, watchdog
from trainables.accumulation import Parts
from trainables.augment import Augment
from trainables.average import Average
from trainables.best_epoch import BestEpoch
from trainables.causes import Diverged, Infeasible
from trainables.data.order import epoch_order, global_batches, rank_share
from trainables.data.parts import TrialData
from trainables.data.strata import strata_of
from trainables.epoch import EpochReport, Report, evaluated
from trainables.freezing import parameter_groups
from trainables.inference import judge
from trainables.mixup import MixedForward, Mixup, mix
from trainables.model import Model, averaged_state, build_model, load_trained_state, trained_state
from trainables.place import ALONE, Place, autocast
from trainables.prefix import ActivationStore, Counts, Prefix
from trainables.resumable import Resumable
from trainables.schedule import rate_share
from trainables.telling import Telling
from trainables.value import stacked, trial_value


@dataclass(frozen=True)
class Outcome:
    """A finished trial."""

    value: float | None
    """None where nothing is validated."""
    reports: tuple[EpochReport, ...]
    probabilities: np.ndarray
    """Of the validation set's units, float32 [U, classes]."""
    model: Model
    counts: Counts
    """Of training images: how much of the frozen part was computed, and how much of it was there."""
    earlier: np.ndarray
    """As `probabilities`, of the epochs before the last that count in `value`: float32 [E, U, classes]."""


def fine_tune(
    config: TrialConfig,
    data: TrialData,
    folder: Path | None = None,
    report: Report = lambda _: None,
    place: Place = ALONE,
    judged: bool = True,
    store: ActivationStore | None = None,
    pause: float = 0,
    shard: bool = False,
) -> Outcome:
    """One trial: trains, evaluates after every epoch, goes on from its newest checkpoint where there is one.

    Args:
        config: the trial, completely.
        data: training and validation images and labels.
        folder: checkpoints go to its `checkpoints`; None keeps none.
        report: called in the first process for each epoch, once its checkpoint is on disk, which may be in the middle
            of the next epoch; when a trial goes on, first again for the epochs that were done.
        judged: whether the validation part is apart from the training part, so that the outcome has a value.
        place: device and rank.
        store: where activations of frozen blocks are kept; None computes them in every step.
        pause: seconds between checkpoints, at least, or 20 times what one takes; what was done since the last one is
            reported with the next. 0: a checkpoint each epoch. They are written beside the training.
        shard: whether several workers share out the weights instead of each holding all (`trainables.sharding`). Then
            `store` must be None, and the outcome's model is a whole one, on the CPU.

    Raises:
        Diverged: with the step at which the loss stopped being finite.
        Infeasible: with what doesn't fit.
        Stopped: in every process, once `report` gave False.
    """
    torch.manual_seed(config.seed)
    model = build_model(config, len(data.classes), data.task)
    shard = shard and place.world > 1
    if shard:
        sharding.shard(model.backbone, place)
    model.to(place.device)
    torch.manual_seed(config.seed + place.rank)  # drop-path differs between workers
    mixup = Mixup(config)
    prefix = Prefix(model, config, data.train, place, Augment(config), store)
    validation = Prefix(model, config, data.validation, place, store=store)
    masses = model.output.masses(data.train.labels, data.classes).to(place.device)
    strata = strata_of(data.train.labels.numpy())
    optimizer = torch.optim.AdamW(
        parameter_groups(
            model,
            head_lr=config.head_lr,
            backbone_lr_ratio=config.backbone_lr_ratio,
            layer_decay=config.layer_decay,
            weight_decay=config.weight_decay,
            head_weight_decay=config.head_weight_decay,
        ),
        fused=True,  # a quarter of the time on a CPU
    )
    _refuse_uneven_workers(config, len(data.train), place)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps_an_epoch = len(global_batches(np.arange(len(data.train)), config.batch_size))
    steps = steps_an_epoch * config.epochs
    schedule = LambdaLR(optimizer, lambda step: rate_share(config, step, steps))
    averaged = averaged_state(model)  # references: the optimizer changes them in place
    average = Average(averaged, span=config.ema * steps) if config.ema else None
    forward: nn.Module = MixedForward(model)
    if place.world > 1 and not shard:
        forward = DistributedDataParallel(forward)
    best = BestEpoch(config.metric) if config.value == "best" and judged else None
    state = Resumable(config, data, folder, model, optimizer, schedule, average, best, place)
    reports: list[EpochReport] = state.restore()
    probabilities = np.empty((0, len(data.classes)), np.float32)
    recent = state.recent

    parts = Parts(config, model, place)

    def backward(given: Tensor, wanted: Tensor, share: Tensor | None, size: int, part: slice) -> Tensor:
        own = None if share is None else share[part]
        with autocast(place.device):
            outputs = forward(given[part], own)
        loss = model.output.loss(outputs, wanted[part] if own is None else mix(wanted[part], own)) / size
        (loss * place.world).backward()  # DDP takes the mean over workers, each of which has a part of the sum
        return loss.detach()

    with Telling(reports, partial(state.save, reports), report, place, pause) as telling:
        for epoch in range(len(reports), config.epochs):
            started = time.monotonic()
            model.train()
            losses = torch.zeros(steps_an_epoch, device=place.device)
            prefix.look_at(epoch)
            shares = mixup.shares(epoch, len(data.train))
            shares = shares.to(place.device) if shares is not None else None
            order = epoch_order(config.seed, epoch, strata, config.sampling)
            batches = global_batches(order, config.batch_size)
            rows = [torch.from_numpy(rank_share(batch, place.rank, place.world)) for batch in batches]
            # Nothing within a step waits for the device, so that it always has the next ones to do.
            for step, (own_rows, given) in enumerate(zip(rows, prefix.stream(rows), strict=True)):
                of_batch = own_rows.to(place.device, non_blocking=True)
                wanted = masses[of_batch]
                share = shares[of_batch] if shares is not None else None
                losses[step] = parts.backward(
                    len(own_rows), partial(backward, given, wanted, share, len(batches[step]))
                )
                if shard:
                    sharding.clip_gradients(trained, config.clip, place)
                else:
                    nn.utils.clip_grad_norm_(trained, config.clip)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if average:
                    average.update(averaged)
                watchdog.beat()
                telling.look()

            step_losses = place.sum(losses).cpu()
            _refuse_divergence(step_losses, epoch * steps_an_epoch)
            if shard:
                sharding.alike(model)
            with average.in_place_of(averaged) if average else nullcontext():
                probabilities = judge(model, validation, judged)
                if not np.isfinite(probabilities).all():  # the epoch's last step alone can do that
                    raise Diverged(f"the predictions weren't finite after step {(epoch + 1) * steps_an_epoch}")
                own = folder if judged and place.first else None
                reports.append(evaluated(epoch + 1, config, data, probabilities, step_losses, started, own))
                recent.append(probabilities)
                if best:
                    best.offer(reports[-1].value, sharding.together(trained_state(model)), probabilities)
            telling.close_epoch(last=epoch + 1 == config.epochs)

    with average.in_place_of(averaged) if average else nullcontext():
        if not len(probabilities):  # every epoch was done before: only the outcome is asked for
            probabilities = judge(model, validation, judged)
    if average:
        average.put_in_place_of(averaged)
    if best and best.value is not None:
        load_trained_state(model, best.weights)
        probabilities = best.probabilities
    if shard:
        whole = build_model(config, len(data.classes), data.task)
        load_trained_state(whole, sharding.together(trained_state(model)))
        model = whole
    try:
        value = trial_value(config, [r.value for r in reports]) if judged else None
    except Infeasible as reason:
        raise Infeasible(f"{reason}: {next(r.undefined for r in reversed(reports) if r.undefined)}") from None
    return Outcome(
        value, tuple(reports), probabilities, model, prefix.counts, stacked(list(recent)[:-1], probabilities)
    )


def _refuse_uneven_workers(config: TrialConfig, rows: int, place: Place) -> None:
    """Every worker needs images, and with mixup the pairs that one worker would make."""
    batch = min(config.batch_size, rows)
    if batch < place.world:
        raise Infeasible(f"a batch of {batch} images is too small for {place.world} workers")
    if place.world > 1 and config.mixup and batch % (2 * place.world):
        raise Infeasible(
            f"mixup pairs images half a batch apart: {batch} isn't a multiple of {2 * place.world}, twice the workers"
        )


def first_infinite(losses: Tensor) -> int | None:
    """The first step whose loss isn't finite."""
    bad = (~losses.isfinite()).nonzero()
    return int(bad[0]) if len(bad) else None


def _refuse_divergence(losses: Tensor, before: int) -> None:
    step = first_infinite(losses)
    if step is not None:
        raise Diverged(f"the loss was {losses[step].item()} at step {before + step + 1}")
