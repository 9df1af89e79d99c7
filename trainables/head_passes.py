"""Passes over the data that train and evaluate the heads of many trials.

Shapes: K trials, N images, B images of a batch, M targets that differ, D features, C outputs, L classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaces.config import TrialConfig
from trainables import watchdog
from trainables.accumulation import free
from trainables.causes import End, end_of, unknown
from trainables.data.order import epoch_order, global_batches
from trainables.data.parts import TrialData
from trainables.epoch import evaluated
from trainables.head_member import Member
from trainables.head_stack import HeadStack
from trainables.loop import first_infinite
from trainables.mixup import Mixup
from trainables.outages import outage
from trainables.resident import RESIDENT, Rows
from trainables.value import counted_epochs

log = logging.getLogger(__name__)


def masses_of(members: Sequence[Member], data: TrialData) -> tuple[Tensor, Tensor]:
    """Targets [M, N, ...] without repetition, and which of them each trial learns, [K]; on the host.

    Those that differ are made twice, the first time only to know how many they are: never are more held than they and
    one that is being made.
    """

    def made(member: Member) -> Tensor:
        return member.model.output.masses(data.train.labels, data.classes)

    def seen(member: Member) -> tuple[torch.Size, bytes]:
        masses = made(member)
        return masses.shape, hashlib.blake2b(masses.numpy().tobytes()).digest()

    of_trials = [seen(member) for member in members]
    different = list(dict.fromkeys(of_trials))
    targets = torch.empty(len(different), *different[0][0])
    for number, one in enumerate(different):
        targets[number] = made(members[of_trials.index(one)])
    return targets, torch.tensor([different.index(one) for one in of_trials])


def _batches(configs: Sequence[TrialConfig], epoch: int, strata: np.ndarray) -> np.ndarray:
    """Rows of each trial's batches, [K, steps, B] int64."""
    orders = (epoch_order(config.seed, epoch, strata, config.sampling) for config in configs)
    size = configs[0].batch_size
    return np.stack([np.stack(global_batches(order, size)) for order in orders])


def _shares(configs: Sequence[TrialConfig], epoch: int, rows: int, device: torch.device) -> Tensor | None:
    """[K, N] of mixup; 1 where a trial has none."""
    of_trials = [Mixup(config).shares(epoch, rows) for config in configs]
    if all(shares is None for shares in of_trials):
        return None
    return torch.stack([torch.ones(rows) if shares is None else shares for shares in of_trials]).to(device)


def _mixed(values: Tensor, share_KB: Tensor) -> Tensor:
    """`trainables.mixup.mix` within each trial's batch; values [K, B, ...]."""
    share = share_KB.view(*share_KB.shape, *[1] * (values.dim() - 2)).to(values.dtype)
    return share * values + (1 - share) * values.roll(values.shape[1] // 2, dims=1)


def train_heads(
    epoch: int, features: Rows, masses: Tensor, which_K: Tensor, strata: np.ndarray, heads: HeadStack, part: slice
) -> Tensor:
    """Trains some of the trials' heads for an epoch; their losses [steps, K] on the host.

    Args:
        features: [N, D] of the epoch's view, on the device or on the host.
        heads: of these trials.
        part: which of all of them they are.
    """
    configs, device = [m.config for m in heads.members], heads.weight.device
    used, which_K = which_K[part].unique(return_inverse=True)
    masses = masses if len(used) == len(masses) else masses[used]
    masses, which_K = masses.to(device), which_K.to(device)
    batches = _batches(configs, epoch, strata)
    shares = _shares(configs, epoch, len(strata), device)
    losses = torch.zeros(batches.shape[1], len(configs), device=device)
    for step in range(len(losses)):
        on_host = torch.from_numpy(batches[:, step])
        rows_KB = on_host.to(device, non_blocking=True)
        x_KBD = features.give(on_host.flatten(), None).unflatten(0, on_host.shape).float()
        wanted = masses[which_K[:, None], rows_KB]
        if shares is not None:
            share_KB = shares.gather(1, rows_KB)
            x_KBD, wanted = _mixed(x_KBD, share_KB), _mixed(wanted, share_KB)
        losses[step] = heads.step(x_KBD, wanted)
        watchdog.beat()
    return losses.cpu()


class Passes:
    """Which trials' heads are trained together: all of them, or as many as memory allows.

    A pass that runs out of memory is begun anew, from how its heads were before the epoch: once copies on the device
    have made way, then as two passes of half the trials, down to single trials. One that doesn't fit by itself ends.
    """

    def __init__(self, members: Sequence[Member], heads: HeadStack, steps_an_epoch: int) -> None:
        self.members, self.heads, self.steps = members, heads, steps_an_epoch
        self.parts = [slice(0, len(members))]

    def train(self, of_part: Callable[[HeadStack, slice], Tensor]) -> Tensor:
        """An epoch of all trials; their losses [steps, K], 0 of those that aren't running.

        Args:
            of_part: trains some of the heads for the epoch and gives their losses [steps, K].
        """
        losses = torch.zeros(self.steps, len(self.members))
        left, self.parts = self.parts, []
        while left:
            part = left.pop(0)
            if all(m.ended or m.stopped for m in self.members[part]):
                continue
            heads = self.heads.part(part)
            before = {name: tensor.to("cpu", copy=True) for name, tensor in heads.state().items()}
            short: End | None = None
            try:
                losses[:, part] = of_part(heads, part)
                self.parts.append(part)
                continue
            except Exception as error:
                short = end_of(error)
                if short is None or not short.memory:
                    raise
            # Behind the handler: the error is gone, and with it all that the failed pass held.
            heads.load(before, self.heads.done)
            made_way = RESIDENT.make_way()
            free(heads.weight.device)
            middle = (part.start + part.stop) // 2
            if made_way:
                left.insert(0, part)
            elif middle > part.start:
                log.warning("%d heads don't fit the memory at once: they train in two passes", part.stop - part.start)
                left[:0] = [slice(part.start, middle), slice(middle, part.stop)]
            else:
                self.members[part.start].ended = short
        self.heads.done += self.steps
        return losses


def close_epoch(
    member: Member,
    epoch: int,
    losses: Tensor,
    outputs: Callable[[], Tensor],
    data: TrialData,
    started: float,
    folder: Path | None,
) -> None:
    """Evaluates one trial after an epoch, or ends it.

    Args:
        outputs: gives its outputs [V, C] for the validation images.

    Raises:
        OSError: the storage of the files that are written has no room or is away, which says nothing of the trial: the
            driver takes it back. Any other is its end.
    """
    config, steps = member.config, len(losses)
    bad = first_infinite(losses)
    if bad is not None:
        member.ended = End("failed", f"the loss was {losses[bad].item()} at step {epoch * steps + bad + 1}")
        return
    try:
        output, units = member.model.output, data.validation.units
        probabilities = units.combined(output.judge(outputs().cpu().numpy(), units))
        if not np.isfinite(probabilities).all():
            member.ended = End("failed", f"the predictions weren't finite after step {(epoch + 1) * steps}")
            return
        told = evaluated(epoch + 1, config, data, probabilities, losses, started, folder)
    except Exception as error:  # this trial's alone: the others go on
        known = end_of(error)
        if known is None and isinstance(error, OSError) and outage(unknown(error).cause):
            raise
        log.warning("a trial of a group could not be evaluated", exc_info=True)
        member.ended, member.strange = known or unknown(error), known is None
        return
    member.recent = [*member.recent, probabilities][-counted_epochs(config) :]
    member.reports.append(told)
