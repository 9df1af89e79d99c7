"""What is known of a trial after an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from spaces.config import TrialConfig
from trainables.calibration import temperature, tempered
from trainables.data.parts import TrialData
from trainables.influence import TEMPERED
from trainables.influence import keep as keep_influence
from trainables.intervals import error_of, influence
from trainables.metrics import Undefined, classes_numbered, compute, summary


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


Report = Callable[[EpochReport], bool | None]
"""Gets a report; False when the trial isn't to go on."""


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
        started: by `time.monotonic`, which a step of the clock leaves as it is.
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
    return EpochReport(
        epoch=epoch,
        value=value,
        standard_error=error,
        undefined=undefined,
        train_loss=float(losses.mean()),
        metrics={name: number for name, number in others.items() if isinstance(number, float)},
        seconds=time.monotonic() - started,
        time=time.time(),
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
