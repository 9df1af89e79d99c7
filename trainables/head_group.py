"""Many trials that train a linear head alone, in one pass: their heads are one stack of matrices.

What each trial is, draws and reports is what it would be by itself (`trainables.loop.fine_tune`): its own initial head,
order of samples, learning rate, weight decay, smoothing, mixup and average of weights; losses are the same but for the
order of summation. Shapes: K trials, V images of validation, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaces.config import TrialConfig
from trainables import watchdog
from trainables.accumulation import Pieces
from trainables.augment import Augment
from trainables.causes import End, Infeasible, end_of
from trainables.data.order import global_batches
from trainables.data.parts import TrialData
from trainables.data.strata import strata_of
from trainables.epoch import EpochReport
from trainables.head_checkpoints import HeadCheckpoints
from trainables.head_member import Member, can_share, shared
from trainables.head_passes import Passes, close_epoch, masses_of, train_heads
from trainables.head_stack import HeadStack
from trainables.model import Model, build_model
from trainables.place import Place
from trainables.prefix import ActivationStore, Counts, Prefix
from trainables.value import trial_value


def fine_tune_heads(
    configs: Sequence[TrialConfig],
    data: TrialData,
    folder: Path | None = None,
    report: Callable[[int, EpochReport], bool] = lambda _, __: True,
    place: Place | None = None,
    store: ActivationStore | None = None,
    pause: float = 0,
    folders: Sequence[Path] | None = None,
    ended: Callable[[int, End], None] = lambda _, __: None,
) -> tuple[list[Member], Counts]:
    """Trains the heads of all trials together.

    Args:
        configs: trials that can share, all with the same `shared`.
        data: of all of them.
        folder: of the group; checkpoints go to its `checkpoints`; None keeps none.
        report: called with a trial's place in `configs` after each of its epochs; False stops that trial alone. When
            the group goes on from a checkpoint, called first again for the epochs that were done.
        place: one worker's.
        pause: as for `fine_tune`.
        folders: each trial's own, where it is kept what groups do to its scores; None keeps nothing.
        ended: called where an error leaves the group, with a trial's place and its end, for those that had ended before
            and have no part in it.

    Returns:
        The trials, with their values or why they have none.
    """
    if not all(can_share(config) for config in configs) or len({shared(config) for config in configs}) != 1:
        raise ValueError("trials of one pass differ in more than their linear heads")
    place = place or Place()
    members = [_member(config, data, place, None) for config in configs[:1]]
    members += [_member(config, data, place, members[0].model) for config in configs[1:]]
    first = configs[0]
    train = Prefix(members[0].model, first, data.train, place, Augment(first), store)
    validation = Prefix(members[0].model, first, data.validation, place, store=store)
    validation.look_at(0)
    judged = validation.all_rows()
    strata = strata_of(data.train.labels.numpy())
    masses, which_K = masses_of(members, data)
    steps_an_epoch = len(global_batches(np.arange(len(data.train)), first.batch_size))
    heads = HeadStack(members, steps_an_epoch * first.epochs, place.device)
    passes = Passes(members, heads, steps_an_epoch)
    judging = Pieces(len(data.validation), place.device)
    everyone = torch.arange(len(data.validation))
    saved = HeadCheckpoints(folder, configs, data, heads, members)
    done = saved.restore()
    _tell(members, report)

    def outputs_of(k: int, rows: Tensor) -> Tensor:
        """[B, C] of rows that follow each other. Their features are asked for anew each time and held no longer: a copy
        of them may have to make way, for training and for what is computed of them here."""
        return heads.outputs(k, judged.between(int(rows[0]), int(rows[-1]) + 1))

    def close(epoch: int, running: Sequence[int], losses: Tensor, share: float) -> None:
        for k in running:
            if members[k].ended is None:
                own = folders[k] if folders else None
                outputs = partial(judging.of, everyone, partial(outputs_of, k))
                close_epoch(members[k], epoch, losses[:, k], outputs, data, time.monotonic() - share, own)
            watchdog.beat()

    saved_at = time.monotonic()
    with _ends_kept(members, report, ended):
        for epoch in range(done, first.epochs):
            running = [k for k, m in enumerate(members) if m.ended is None and not m.stopped]
            if not running:
                break
            started = time.monotonic()
            train.look_at(epoch)
            losses = passes.train(partial(train_heads, epoch, train.all_rows(), masses, which_K, strata))
            share = (time.monotonic() - started) / len(running)  # of the pass, which is no trial's own
            close(epoch, running, losses, share)
            if epoch + 1 == first.epochs or time.monotonic() - saved_at >= pause:
                saved.save(epoch + 1)
                saved_at = time.monotonic()
                _tell(members, report)

    heads.put_back()
    for member in members:
        if member.ended is None and not member.stopped:
            try:
                member.value = trial_value(member.config, [r.value for r in member.reports])
            except Infeasible as reason:
                member.ended = end_of(reason)
    return members, train.counts


def _tell(members: Sequence[Member], report: Callable[[int, EpochReport], bool]) -> None:
    """What wasn't told yet of each trial, an epoch of all trials after the other."""
    new = [(r.epoch, k, r) for k, m in enumerate(members) for r in m.reports[m.told :] if not m.stopped]
    for _, k, of_epoch in sorted(new, key=lambda entry: entry[:2]):
        members[k].told += 1
        members[k].stopped |= not report(k, of_epoch)


@contextmanager
def _ends_kept(
    members: Sequence[Member], report: Callable[[int, EpochReport], bool], ended: Callable[[int, End], None]
) -> Iterator[None]:
    """Whatever ends the block early isn't the end of those trials that had ended: what wasn't told yet of them is."""
    try:
        yield
    except Exception:
        for k, member in enumerate(members):
            if member.ended is not None:
                new = [] if member.stopped else member.reports[member.told :]
                member.told += len(new)
                for of_epoch in new:
                    report(k, of_epoch)
                ended(k, member.ended)
        raise


def _member(config: TrialConfig, data: TrialData, place: Place, like: Model | None) -> Member:
    """A trial with the head that it would start from by itself, on the backbone of the first one."""
    torch.manual_seed(config.seed)
    model = build_model(config, len(data.classes), data.task, like.backbone if like else None)
    return Member(config, model.to(place.device))
