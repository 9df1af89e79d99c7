"""A trial over all folds of its dataset: fine-tuned once for each, one after the other, and valued by their mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spaces.config import TrialConfig
from trainables.data.parts import TrialData
from trainables.epoch import EpochReport, Report
from trainables.loop import fine_tune
from trainables.place import Place
from trainables.predictions import Predictions, numbers_of
from trainables.prefix import ActivationStore, Counts
from trainables.trial_files import fold_folder


@dataclass(frozen=True)
class Valued:
    """A trial that came to its end in every fold."""

    value: float
    """Mean of the folds' values. Their standard deviation is no standard error of it (Bengio and Grandvalet 2004)."""
    last: EpochReport
    """The last epoch of the last fold."""
    predictions: Predictions
    """Of the validation sets of all folds."""
    counts: Counts


def fine_tune_folds(
    config: TrialConfig,
    data: Callable[[int], TrialData],
    folds: int,
    folder: Path,
    report: Report,
    place: Place,
    store: ActivationStore | None = None,
    pause: float = 0,
    shard: bool = False,
) -> Valued:
    """Fine-tunes in each fold. Epochs count on from fold to fold: the first of fold f is f * config.epochs + 1.

    Args:
        data: training and validation data of a fold.
        folds: 1 is a plain split.
        pause, shard: as for `fine_tune`.
        folder: each fold's checkpoints go into a folder of their own in it; those of a plain split into itself.

    Raises:
        Diverged, Infeasible, Stopped: as `trainables.loop.fine_tune`, in whichever fold it happens.
    """
    values, probabilities, earlier, truth, groups, number = [], [], [], [], [], []
    counts = Counts()
    for fold in range(folds):
        of_fold = data(fold)
        before = fold * config.epochs

        def tell(epoch: EpochReport, before: int = before) -> bool | None:
            return report(replace(epoch, epoch=epoch.epoch + before))

        kept = fold_folder(folder, fold, folds)
        outcome = fine_tune(config, of_fold, kept, tell, place, store=store, pause=pause, shard=shard)
        assert outcome.value is not None  # it was judged
        units = of_fold.validation.units
        values.append(outcome.value)
        probabilities.append(outcome.probabilities)
        earlier.append(outcome.earlier)
        truth.append(units.truth)
        groups.append(units.groups)
        number.append(np.full(len(units), fold))
        counts.computed += outcome.counts.computed
        counts.read += outcome.counts.read
        last = replace(outcome.reports[-1], epoch=config.epochs * (fold + 1))
    return Valued(
        value=float(np.mean(values)),
        last=last,
        predictions=Predictions(
            probabilities=np.concatenate(probabilities),
            truth=np.concatenate(truth),
            groups=numbers_of(np.concatenate(groups)),
            fold=np.concatenate(number),
            earlier=np.concatenate(earlier, axis=1),
        ),
        counts=counts,
    )
