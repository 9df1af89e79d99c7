"""Fine-tuning, from top to bottom. Runs alike in a plain process, in a Tune trial and in a Ray Train group.

Same configuration, data and thread count: the same losses, bit by bit, with one worker; with several, the same up to
the order of summation.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from spaces.config import METRICS, TrialConfig
from spaces.strict import digest
from trainables import checkpoint as checkpoints
from trainables import sharding, watchdog
from trainables.accumulation import Parts, Pieces
from trainables.augment import Augment
from trainables.average import Average
from trainables.best_epoch import BestEpoch
from trainables.calibration import temperature, tempered
from trainables.checkpoint import Checkpoint
from trainables.data.order import epoch_order, global_batches, rank_share
from trainables.data.parts import Part, TrialData
from trainables.data.strata import strata_of
from trainables.freezing import parameter_groups
from trainables.influence import keep as keep_influence
from trainables.intervals import error_of, influence
from trainables.metrics import Undefined, classes_numbered, compute, summary
from trainables.mixup import MixedForward, Mixup, mix
from trainables.model import Model, averaged_state, build_model, load_trained_state, trained_state
from trainables.place import Place
from trainables.prefix import BATCH, ActivationStore, Counts, Prefix
from trainables.saver import Saver
from trainables.telling import Telling

ALONE = Place()
TEMPERED = "tempered_log_loss"
LAST = 3  # epochs that a value without an average is the mean of


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch. Plain data, fit for a record."""

    epoch: int
    """Epochs done, from 1."""
    value: float | None
    """The search's metric on the validation set after this epoch; None where it isn't defined, as the kappa of a model
    that gives one grade to every image isn't."""
    standard_error: float | None
    """Of `value`, over groups of the validation set."""
    train_loss: float
    metrics: dict[str, float]
    """Other metrics of the validation set; one that isn't defined there is left out."""
    seconds: float
    time: float
    """Unix time in seconds at the end of the epoch."""
    undefined: str = ""
    """Why `value` is None."""
    step_losses: tuple[float, ...] = field(default=(), repr=False)


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


Report = Callable[[EpochReport], bool | None]
"""Gets a report; False when the trial isn't to go on."""


class Diverged(Exception):
    """The loss became infinite or not a number."""


class Infeasible(Exception):
    """This configuration can't run here, whatever the seed."""


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
    state = _Resumable(config, data, folder, model, optimizer, schedule, average, best, place)
    reports: list[EpochReport] = state.restore()
    probabilities = np.empty((0, len(data.classes)), np.float32)
    recent = state.recent

    parts = Parts(config, model, place)

    def backward(given: Tensor, wanted: Tensor, share: Tensor | None, size: int, part: slice) -> Tensor:
        own = None if share is None else share[part]
        with torch.autocast(place.device.type, torch.bfloat16, enabled=place.device.type == "cuda"):
            outputs = forward(given[part], own)
        loss = model.output.loss(outputs, wanted[part] if own is None else mix(wanted[part], own)) / size
        (loss * place.world).backward()  # DDP takes the mean over workers, each of which has a part of the sum
        return loss.detach()

    with Telling(reports, partial(state.save, reports), report, place, pause) as telling:
        for epoch in range(len(reports), config.epochs):
            started = time.time()
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


def predict(model: Model, config: TrialConfig, part: Part, place: Place = ALONE) -> np.ndarray:
    """Class probabilities float32 [U, classes] of a part's units."""
    outputs = torch.from_numpy(predict_outputs(model, Prefix(model, config, part, place)))
    return part.units.combined(model.output.probabilities(outputs).numpy())


def judge(model: Model, validation: Prefix, apart: bool = True) -> np.ndarray:
    """`predict` for the part that the outputs' own parameters are fitted on: cross-fitted, where there are any.

    Args:
        apart: whether the model didn't learn from that part; else nothing is fitted on it.
    """
    units, outputs = validation.part.units, predict_outputs(model, validation)
    if not apart:
        return units.combined(model.output.probabilities(torch.from_numpy(outputs)).numpy())
    return units.combined(model.output.judge(outputs, units))


def predict_outputs(model: Model, prefix: Prefix) -> np.ndarray:
    """The model's outputs float32 [N, width] for the images of a prefix's part, without augmentation."""
    model.eval()
    place, total, shared_out = prefix.place, len(prefix.part), sharding.sharded(model)
    # Where a block's weights come together for each batch, all workers need as many batches.
    least = -(-total // place.world) * place.world if shared_out else place.world
    rows = rank_share(np.arange(max(total, least)), place.rank, place.world)
    rows = np.minimum(rows, total - 1)  # a worker without rows takes one again, which `gather` leaves out
    pieces, outputs = Pieces(BATCH, place.device), []

    def forward(given: Tensor) -> Tensor:
        with torch.autocast(place.device.type, torch.bfloat16, enabled=place.device.type == "cuda"):
            return (model(given) if model.stem_trained else model.from_hidden(given)).float()

    with torch.no_grad() if shared_out else torch.inference_mode():  # weights that came together are trained with
        prefix.look_at(0)
        for given in prefix.stream(list(torch.from_numpy(rows).split(BATCH))):
            outputs.append(pieces.of(given, forward))
            watchdog.beat()
        return place.gather(torch.cat(outputs), total).cpu().numpy()


def rate_share(config: TrialConfig, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step, by the trial's schedule."""
    share = warmup_cosine(step, steps, config.warmup)
    return share if config.schedule == "cosine" or step < config.warmup * steps else 1.0


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: a linear rise over `warmup` of all steps, then half a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))


def counted_epochs(config: TrialConfig) -> int:
    """Epochs, up to the last, whose values a trial's value is the mean of."""
    return 1 if config.ema or config.value == "best" else LAST


def stacked(earlier: Sequence[np.ndarray], like: np.ndarray) -> np.ndarray:
    """Predictions [E, U, classes] of several epochs, each like the given one, or of none."""
    return np.stack(earlier) if earlier else np.empty((0, *like.shape), like.dtype)


def trial_value(config: TrialConfig, values: Sequence[float | None]) -> float:
    """A trial's value after these epochs: the last epoch's with an average of weights, else the mean of the last three.

    The best epoch's, which is a second maximum over noise and favours long trials, only where the configuration says
    so.

    Raises:
        Infeasible: the metric isn't defined after one of the epochs that count, or after none.
    """
    if config.value == "best":
        known = [value for value in values if value is not None]
        if not known:
            raise Infeasible(f"{config.metric} isn't defined on the validation set after any epoch")
        return max(known) if METRICS[config.metric] == "maximize" else min(known)
    counted = values[-counted_epochs(config) :]
    defined = [value for value in counted if value is not None]
    if len(defined) < len(counted):
        raise Infeasible(f"{config.metric} isn't defined on the validation set after the last epochs")
    return float(np.mean(defined))


def evaluated(
    epoch: int,
    config: TrialConfig,
    data: TrialData,
    probabilities: np.ndarray,
    losses: Tensor,
    started: float,
    folder: Path | None = None,
) -> EpochReport:
    """The report of an epoch from the probabilities [U, classes] of the validation units and the steps' losses.

    Args:
        folder: of the trial, where it is kept what each group does to its scores (`trainables.influence`).
    """
    units, classes = data.validation.units, len(data.classes)
    over = classes_numbered(config.classes_averaged, data.classes)
    value, error, undefined, moved = None, None, "", None
    try:
        value = compute(config.metric, units.truth, probabilities, classes, over=over)
        moved = influence(config.metric, units.truth, probabilities, units.groups, classes, over=over)
        error = None if moved is None else error_of(moved)
    except Undefined as reason:
        undefined = str(reason)
    others = summary(units.truth, probabilities, classes, data.task, over=over)
    proper, moved_proper = tempered_log_loss(config, data, probabilities)
    others[TEMPERED] = proper
    if folder is not None:
        none = np.full(len(np.unique(units.groups)), np.nan)
        rows = [none if one is None else one for one in (moved, moved_proper)]
        keep_influence(folder, epoch, config.epochs, np.stack(rows))
    now = time.time()
    return EpochReport(
        epoch=epoch,
        value=value,
        standard_error=error,
        undefined=undefined,
        train_loss=float(losses.mean()),
        metrics={name: number for name, number in others.items() if isinstance(number, float)},
        seconds=now - started,
        time=now,
        step_losses=tuple(losses.tolist()),
    )


def tempered_log_loss(
    config: TrialConfig, data: TrialData, probabilities: np.ndarray
) -> tuple[float | None, np.ndarray | None]:
    """A proper score that smoothing, mixup and a focal loss don't put at a disadvantage: the log loss at the
    temperature that suits the validation set best; and each group's influence on it [G]. Lower is better.

    None where the outputs weren't learned as probabilities (`loss: regression`), or it isn't defined.
    """
    if config.loss == "regression":
        return None, None
    units, classes, several = data.validation.units, len(data.classes), data.task == "multilabel"
    over = classes_numbered(config.classes_averaged, data.classes) if several else None
    try:
        best = temperature(units.truth, probabilities)
        suited = tempered(probabilities, best, several=several)
        value = compute("log_loss", units.truth, suited, classes, over=over)
    except Undefined:
        return None, None
    return value, influence("log_loss", units.truth, suited, units.groups, classes, over=over)


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


class _Resumable:
    """Everything that a trial needs to go on exactly."""

    def __init__(
        self,
        config: TrialConfig,
        data: TrialData,
        folder: Path | None,
        model: Model,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        average: Average | None,
        best: BestEpoch | None,
        place: Place,
    ) -> None:
        self.model, self.optimizer, self.schedule, self.average = model, optimizer, schedule, average
        self.best, self.place, self.epochs = best, place, config.epochs
        self.folder = folder / "checkpoints" if folder else None
        self.trial = digest({"config": config.plain(), "data": data.digest()})
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.recent: deque[np.ndarray] = deque(maxlen=counted_epochs(config))
        """Validation predictions [U, classes] of the epochs that would count, were the newest the last."""

    def restore(self) -> list[EpochReport]:
        """Puts the newest checkpoint back; the reports of the epochs done."""
        found = checkpoints.load_newest(self.folder, self.trial) if self.folder else None
        if found is None:
            return []
        load_trained_state(self.model, found.kind("model"))
        checkpoints.set_optimizer_tensors(self.optimizer, found.kind("optimizer"), self.names)
        self.schedule.load_state_dict(found.state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, found.state["schedule"]["_last_lr"], strict=True):
            group["lr"] = rate
        if self.average:
            like = trained_state(self.model)
            kept = {name: sharding.part_of(tensor, like[name]) for name, tensor in found.kind("average").items()}
            self.average.load(kept, found.state["average_steps"])
        if self.best:
            self.best.restore(found)
        seen = found.kind("validation")
        self.recent.extend(seen[number].numpy() for number in sorted(seen, key=int))
        checkpoints.set_random_state(found.kind(f"random{self.place.rank}") or found.kind("random0"), self.place.device)
        return [EpochReport(**{**r, "step_losses": tuple(r["step_losses"])}) for r in found.state["reports"]]

    def _averaged(self, trained: dict[str, Tensor]) -> dict[str, Tensor]:
        """The average's tensors, whole, in the first process."""
        assert self.average is not None
        of = {name: sharding.held_as(part, trained[name]) for name, part in self.average.tensors.items()}
        return sharding.together(of, self.place.first)

    def save(self, reports: Sequence[EpochReport], saver: Saver) -> None:
        """Begins to write a checkpoint, with the validation predictions: a trial that is stopped here keeps its last
        ones. After the last epoch nothing goes on, so that the optimizer isn't kept."""
        if self.folder is None:
            return
        last = reports[-1].epoch == self.epochs
        generators = self.place.collect(checkpoints.random_state(self.place.device))
        trained = trained_state(self.model)
        model = sharding.together(trained, self.place.first)
        moments = sharding.together(checkpoints.optimizer_tensors(self.optimizer, self.names), self.place.first)
        averaged = self._averaged(trained) if self.average else {}
        if self.place.first:
            schedule = {**self.schedule.state_dict(), "lr_lambdas": [None] * len(self.optimizer.param_groups)}
            state: dict[str, Any] = {"reports": [vars(r) for r in reports], "schedule": schedule}
            new = Checkpoint(reports[-1].epoch, self.trial, state=state)
            new.add("model", model)
            new.add("validation", {str(i): torch.from_numpy(p) for i, p in enumerate(self.recent)})
            if not last:
                new.add("optimizer", moments)
            for rank, generator in enumerate(generators):
                new.add(f"random{rank}", generator)
            if self.average:
                new.add("average", averaged)
                state["average_steps"] = self.average.steps
            if self.best:
                self.best.save(new)
            saver.start(self.folder, new, keep=1 if last else 2)
