"""Many trials that train a linear head alone, in one pass: their heads are one stack of matrices.

What each trial is, draws and reports is what it would be by itself (`trainables.loop.fine_tune`): its own initial head,
order of samples, learning rate, weight decay, smoothing, mixup and average of weights; losses are the same but for the
order of summation. Shapes: K trials, N images, B images of a batch, D features, C outputs, L classes.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from spaces.config import TrialConfig
from spaces.strict import digest
from trainables import checkpoint as checkpoints
from trainables import watchdog
from trainables.accumulation import Pieces, free
from trainables.augment import Augment
from trainables.causes import End, Infeasible, end_of, unknown
from trainables.checkpoint import Checkpoint
from trainables.data.order import epoch_order, global_batches
from trainables.data.parts import TrialData
from trainables.data.strata import strata_of
from trainables.epoch import EpochReport, evaluated
from trainables.heads import LinearHead
from trainables.loop import first_infinite
from trainables.mixup import Mixup
from trainables.model import Model, build_model
from trainables.place import Place
from trainables.prefix import ActivationStore, Counts, Prefix
from trainables.resident import RESIDENT
from trainables.schedule import warmup_cosine
from trainables.value import counted_epochs, stacked, trial_value

log = logging.getLogger(__name__)

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's AdamW's own
ALIKE = (
    "backbone", "weights", "metric", "epochs", "feature", "resolution", "policy", "augmentation", "level", "views",
    "view_seed", "batch_size", "loss", "focal", "logit_adjustment",
)  # fmt: skip
"""What trials of a group have in common. All else may differ."""


def can_share(config: TrialConfig) -> bool:
    """Whether a trial can train in a group: a linear head on a frozen backbone, by the usual schedule to its end."""
    usual = config.schedule == "cosine" and config.value == "last"
    return config.trained_blocks == 0 and config.head == "linear" and usual


def shared(config: TrialConfig) -> str:
    """Trials that can share and for which this is the same may be of one group."""
    plain = config.plain()
    return digest({name: plain[name] for name in ALIKE})


@dataclass
class Member:
    """One trial of a group, while it runs."""

    config: TrialConfig
    model: Model
    """Its head is what the group trains; the backbone is the group's."""
    reports: list[EpochReport] = field(default_factory=list)
    recent: list[np.ndarray] = field(default_factory=list)
    """Validation predictions [U, L] of the epochs that would count in its value, were the newest the last."""
    ended: End | None = None
    """Why it ended before its time."""
    stopped: bool = False
    told: int = 0
    """Reports that were told."""
    value: float | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """Of the newest epoch."""
        return self.recent[-1]

    @property
    def earlier(self) -> np.ndarray:
        """[E, U, L] of the epochs before it that count."""
        return stacked(self.recent[:-1], self.probabilities)

    @property
    def linear(self) -> nn.Linear:
        """Its head's layer."""
        return cast(LinearHead, self.model.head).linear


def fine_tune_heads(
    configs: Sequence[TrialConfig],
    data: TrialData,
    folder: Path | None = None,
    report: Callable[[int, EpochReport], bool] = lambda _, __: True,
    place: Place | None = None,
    store: ActivationStore | None = None,
    pause: float = 0,
    folders: Sequence[Path] | None = None,
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
    judged_VD = validation.all_rows()
    strata = strata_of(data.train.labels.numpy())
    masses, which_K = _masses(members, data)
    steps_an_epoch = len(global_batches(np.arange(len(data.train)), first.batch_size))
    heads = _Heads(members, steps_an_epoch * first.epochs, place.device)
    passes = _Passes(members, heads, steps_an_epoch)
    judging = Pieces(len(data.validation), place.device)
    saved = _Saved(folder, configs, data, heads, members)
    done = saved.restore()
    _tell(members, report)

    saved_at = time.monotonic()
    for epoch in range(done, first.epochs):
        running = [k for k, m in enumerate(members) if m.ended is None and not m.stopped]
        if not running:
            break
        started = time.monotonic()
        train.look_at(epoch)
        of_trials = passes.train(partial(_train, epoch, train.all_rows(), masses, which_K, strata)).T
        share = (time.monotonic() - started) / len(running)  # of the pass, which is no trial's own
        for k in running:
            own = folders[k] if folders else None
            if members[k].ended is None:
                outputs = partial(judging.of, judged_VD, partial(heads.outputs, k))
                _close_epoch(members[k], epoch, of_trials[k], outputs, data, time.monotonic() - share, own)
            watchdog.beat()
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


def _member(config: TrialConfig, data: TrialData, place: Place, like: Model | None) -> Member:
    """A trial with the head that it would start from by itself, on the backbone of the first one."""
    torch.manual_seed(config.seed)
    model = build_model(config, len(data.classes), data.task, like.backbone if like else None)
    return Member(config, model.to(place.device))


def _masses(members: Sequence[Member], data: TrialData) -> tuple[Tensor, Tensor]:
    """Targets [M, N, ...] without repetition, and which of them each trial learns, [K]; on the host."""
    of_trials = [m.model.output.masses(data.train.labels, data.classes) for m in members]
    different: list[Tensor] = []
    which = []
    for masses in of_trials:
        same = next((i for i, other in enumerate(different) if torch.equal(other, masses)), len(different))
        different += [masses] if same == len(different) else []
        which.append(same)
    return torch.stack(different), torch.tensor(which)


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


def _train(
    epoch: int, features_ND: Tensor, masses: Tensor, which_K: Tensor, strata: np.ndarray, heads: _Heads, part: slice
) -> Tensor:
    """Trains some of the trials' heads for an epoch; their losses [steps, K] on the host.

    Args:
        heads: of these trials.
        part: which of all of them they are.
    """
    configs, device = [m.config for m in heads.members], heads.weight.device
    used, which_K = which_K[part].unique(return_inverse=True)
    masses, which_K = masses[used].to(device), which_K.to(device)
    orders = [epoch_order(c.seed, epoch, strata, c.sampling) for c in configs]
    batches = np.stack([np.stack(global_batches(o, configs[0].batch_size)) for o in orders])  # [K, steps, B]
    shares = _shares(configs, epoch, len(strata), device)
    losses = torch.zeros(batches.shape[1], len(configs), device=device)
    for step in range(len(losses)):
        on_host = torch.from_numpy(batches[:, step])
        rows_KB = on_host.to(device, non_blocking=True)
        near = features_ND.device == rows_KB.device
        x_KBD = features_ND[rows_KB if near else on_host].to(device, non_blocking=True).float()
        wanted = masses[which_K[:, None], rows_KB]
        if shares is not None:
            share_KB = shares.gather(1, rows_KB)
            x_KBD, wanted = _mixed(x_KBD, share_KB), _mixed(wanted, share_KB)
        losses[step] = heads.step(x_KBD, wanted)
        watchdog.beat()
    return losses.cpu()


class _Passes:
    """Which trials' heads are trained together: all of them, or as many as memory allows.

    A pass that runs out of memory is begun anew, from how its heads were before the epoch: once copies on the device
    have made way, then as two passes of half the trials, down to single trials. One that doesn't fit by itself ends.
    """

    def __init__(self, members: Sequence[Member], heads: _Heads, steps_an_epoch: int) -> None:
        self.members, self.heads, self.steps = members, heads, steps_an_epoch
        self.parts = [slice(0, len(members))]

    def train(self, of_part: Callable[[_Heads, slice], Tensor]) -> Tensor:
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


def _close_epoch(
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
        log.warning("a trial of a group could not be evaluated", exc_info=True)
        member.ended = end_of(error) or unknown(error)
        return
    member.recent = [*member.recent, probabilities][-counted_epochs(config) :]
    member.reports.append(told)


class _Heads:
    """The stack of heads with its optimiser (AdamW; Loshchilov and Hutter 2019) and its averages of weights."""

    def __init__(self, members: Sequence[Member], steps: int, device: torch.device) -> None:
        configs = [m.config for m in members]
        self.members, self.steps, self.done = members, steps, 0
        linears = [m.linear for m in members]
        self.weight = torch.stack([linear.weight.detach().T for linear in linears]).to(device).contiguous()  # [K, D, C]
        self.bias = torch.stack([linear.bias.detach() for linear in linears]).to(device)[:, None]  # [K, 1, C]
        self.moments = [torch.zeros_like(p) for p in (self.weight, self.bias) for _ in range(2)]
        self.averages = [self.weight.clone(), self.bias.clone()]

        def of(values: Sequence[Any] | np.ndarray) -> Tensor:
            """Numbers of trials, or of steps and trials, on the device: once for all steps, which wait for nothing."""
            return torch.tensor(values, dtype=torch.float64, device=device)[..., None, None]

        count = np.arange(1, steps + 1)
        self.rates = of([[c.head_lr * warmup_cosine(s, steps, c.warmup) for c in configs] for s in range(steps)])
        self.decay = of([c.head_weight_decay for c in configs])
        self.clip = of([c.clip for c in configs]).float()
        span_decay = np.array([max(0.0, 1 - 1 / max(c.ema * steps, 1.0)) for c in configs])
        self.fresh = of(1 - np.minimum(span_decay, ((1 + count) / (10 + count))[:, None])).float()
        self.averaged = of([c.ema > 0 for c in configs]).bool()

    def part(self, part: slice) -> _Heads:
        """Some of the heads: their numbers are these heads' own, but for the steps that are done."""
        own = copy.copy(self)
        own.members = self.members[part]
        own.weight, own.bias = self.weight[part], self.bias[part]
        own.moments = [moment[part] for moment in self.moments]
        own.averages = [average[part] for average in self.averages]
        own.rates, own.fresh = self.rates[:, part], self.fresh[:, part]
        own.decay, own.clip, own.averaged = self.decay[part], self.clip[part], self.averaged[part]
        return own

    def step(self, x_KBD: Tensor, masses: Tensor) -> Tensor:
        """One step of each trial; their losses [K], means over the batch."""
        trials, batch = x_KBD.shape[:2]
        weight, bias = (p.detach().requires_grad_() for p in (self.weight, self.bias))
        outputs = torch.baddbmm(bias, x_KBD, weight)
        of_images = self.members[0].model.output.losses(outputs.flatten(0, 1), masses.flatten(0, 1))
        losses = of_images.view(trials, batch).sum(1) / batch
        gradients = torch.autograd.grad(losses.sum(), (weight, bias))
        norm = sum(g.square().sum(dim=(1, 2), keepdim=True) for g in gradients) ** 0.5
        scale = (self.clip / (norm + 1e-6)).clamp_max(1)
        rates = self.rates[self.done]
        self.done += 1
        self._update(self.weight, gradients[0] * scale, self.moments[:2], rates, self.decay)
        self._update(self.bias, gradients[1] * scale, self.moments[2:], rates, None)
        self._average()
        return losses.detach()

    def _update(
        self, value: Tensor, gradient: Tensor, moments: list[Tensor], rate: Tensor, decay: Tensor | None
    ) -> None:
        first, second = moments
        if decay is not None:
            value.mul_((1 - rate * decay).to(value.dtype))
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        denominator = second.sqrt().div_((1 - BETAS[1] ** self.done) ** 0.5).add_(EPSILON)
        value.sub_((rate / (1 - BETAS[0] ** self.done)).to(value.dtype) * first / denominator)

    def _average(self) -> None:
        fresh = self.fresh[self.done - 1]
        for average, value in zip(self.averages, (self.weight, self.bias), strict=True):
            average.copy_(torch.where(self.averaged, average.lerp(value, fresh), value))

    def outputs(self, k: int, features: Tensor) -> Tensor:
        """Outputs [V, C] of a trial's averaged head for features [V, D]."""
        weight, bias = (average[k] for average in self.averages)
        return features.to(weight.device).float() @ weight + bias

    @torch.no_grad()
    def put_back(self) -> None:
        """The averaged heads into the trials' models."""
        for k, member in enumerate(self.members):
            member.linear.weight.copy_(self.averages[0][k].T)
            member.linear.bias.copy_(self.averages[1][k, 0])

    def state(self) -> dict[str, Tensor]:
        """Everything to go on exactly."""
        named = zip(("m_weight", "v_weight", "m_bias", "v_bias"), self.moments, strict=True)
        averages = {"a_weight": self.averages[0], "a_bias": self.averages[1]}
        return {"weight": self.weight, "bias": self.bias, **dict(named), **averages}

    def load(self, state: dict[str, Tensor], done: int) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.done = done


class _Saved:
    """A group's checkpoints: one for all of its trials."""

    def __init__(
        self,
        folder: Path | None,
        configs: Sequence[TrialConfig],
        data: TrialData,
        heads: _Heads,
        members: Sequence[Member],
    ) -> None:
        self.folder = folder / "checkpoints" if folder else None
        self.names = [digest(config.plain()) for config in configs]
        self.group = digest([shared(configs[0]), data.digest()])
        self.heads, self.members = heads, members

    def restore(self) -> int:
        """Puts the newest checkpoint that holds all of these trials back; epochs done."""
        found = checkpoints.load_newest(self.folder, self.group) if self.folder else None
        if found is None or not set(self.names) <= set(found.state["trials"]):
            return 0
        # Some of its trials may have ended before the group goes on.
        places = [found.state["trials"].index(name) for name in self.names]
        self.heads.load({name: tensor[places] for name, tensor in found.kind("heads").items()}, found.state["steps"])
        for member, place in zip(self.members, places, strict=True):
            told = found.state["reports"][place]
            if why := found.state["ended"][place]:
                member.ended = End(**why)  # at its own step: it would diverge again at the first one from here
            member.reports = [EpochReport(**{**r, "step_losses": tuple(r["step_losses"])}) for r in told]
            kept = found.kind(f"validation{place}")
            member.recent = [kept[number].numpy() for number in sorted(kept, key=int)]
            member.model.output.load_state_dict(found.kind(f"output{place}"), strict=False)
        return found.epoch

    def save(self, epoch: int) -> None:
        if self.folder is None:
            return
        state: dict[str, Any] = {
            "trials": self.names,
            "steps": self.heads.done,
            "reports": [[{**vars(r), "step_losses": ()} for r in member.reports] for member in self.members],
            "ended": [vars(member.ended) if member.ended else None for member in self.members],
        }
        new = Checkpoint(epoch, self.group, state=state)
        new.add("heads", self.heads.state())
        for k, member in enumerate(self.members):
            new.add(f"validation{k}", {str(i): torch.from_numpy(p) for i, p in enumerate(member.recent)})
            new.add(f"output{k}", dict(member.model.output.state_dict()))
        checkpoints.save(self.folder, new, keep=1 if epoch == self.members[0].config.epochs else 2)
