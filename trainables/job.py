"""What Ray Tune runs: a job of one or more trials, in an actor that outlives it.

Everything a job does is told to the driver by `tune.report`, as one JSON text under `message` (Tune flattens what is
nested): {"trial": number, "epoch": {...}} after an epoch, {"trial": number, "end": {...}} when a trial is over, or
both. The driver writes the record; the job writes checkpoints,
validation predictions and, before anything else can go wrong, why a trial ended.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import time
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from ray import tune

from spaces.config import DatasetConfig, TrialConfig
from trainables import final_run
from trainables.augment import store_resolution
from trainables.data.parts import TrialData, trial_data
from trainables.data.prepared import Prepared
from trainables.files import replacing, write_json
from trainables.final_run import RunOrder
from trainables.loop import Diverged, EpochReport, Infeasible, Outcome, fine_tune
from trainables.place import Place, this_machine

log = logging.getLogger(__name__)
END, PREDICTIONS, CONFIG = "end.json", "validation.npz", "config.json"
MESSAGE = "message"


class TrialOrder(TypedDict):
    """One trial of a job."""

    number: int
    config: dict[str, Any]
    """A TrialConfig as plain data."""


class JobOrder(TypedDict):
    """A job, as plain data: what the driver sends to an actor."""

    job: str
    trials: list[TrialOrder]
    search: str
    """The search's folder, which driver and actors share."""
    dataset: dict[str, Any]
    """A DatasetConfig as plain data."""
    cache: str
    threads: int
    accelerators: float


def trial_folder(search: Path, number: int) -> Path:
    return search / "trials" / f"{number:05d}"


def run_job(order: dict[str, Any]) -> None:
    """A Tune function: runs a job's trials. `order` is a `JobOrder`."""
    received = time.time()
    place = this_machine(order["accelerators"], order["threads"])
    for trial in order["trials"]:
        _run_trial(trial, order, place, received)


def _run_trial(trial: TrialOrder, order: dict[str, Any], place: Place, received: float) -> None:
    number, search = trial["number"], Path(order["search"])
    folder = trial_folder(search, number)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / END).exists():  # the actor died after this trial had ended, before the driver knew
        tune.report({MESSAGE: (folder / END).read_text(encoding="utf-8")})
        return
    config = TrialConfig.model_validate(trial["config"])

    def report(epoch: EpochReport) -> None:
        if epoch.epoch < config.epochs:  # the last one goes with the trial's end, in one message
            tune.report({MESSAGE: json.dumps({"trial": number, "epoch": _plain(epoch)})})

    try:
        write_json(folder / CONFIG, config.plain())
        data = _data(order["search"], json.dumps(order["dataset"]), config, order["cache"])
        ready = time.time()
        outcome = fine_tune(config, data, folder, report, place)
    except Diverged as error:
        _end(folder, number, "failed", str(error))
    except Infeasible as error:
        _end(folder, number, "infeasible", str(error))
    except torch.cuda.OutOfMemoryError as error:
        _end(folder, number, "infeasible", f"out of the accelerator's memory: {str(error).splitlines()[0]}")
        gc.collect()
        torch.cuda.empty_cache()
    except Exception as error:
        # Told first, then raised: Tune gives the next trial a fresh actor.
        _end(folder, number, "failed", f"{type(error).__name__}: {error}")
        raise
    else:
        save_predictions(folder / PREDICTIONS, outcome, data)
        end = {"state": "complete", "cause": "", "value": outcome.value}
        message = {"trial": number, "epoch": _plain(outcome.reports[-1]), "end": end, "setup_seconds": ready - received}
        write_json(folder / END, message)
        tune.report({MESSAGE: json.dumps(message)})


def train_worker(order: dict[str, Any]) -> None:
    """A Ray Train function: one worker of a final run. `order` is a `trainables.final_run.RunOrder` as plain data."""
    from ray import train
    from ray.train.torch import get_device

    context = train.get_context()
    place = Place(get_device(), context.get_world_rank(), context.get_world_size())
    final_run.run(RunOrder(**order), place, lambda epoch: None)


def _end(folder: Path, number: int, state: str, cause: str) -> None:
    message = {"trial": number, "end": {"state": state, "cause": cause, "value": None}}
    write_json(folder / END, message)
    tune.report({MESSAGE: json.dumps(message)})


def _plain(report: EpochReport) -> dict[str, Any]:
    return {name: value for name, value in vars(report).items() if name != "step_losses"}


def save_predictions(path: Path, outcome: Outcome, data: TrialData) -> None:
    """A trial's validation predictions: probabilities float32 [N, classes] and labels [N], in the order of the
    prepared dataset's validation rows; no names of images, patients or groups."""
    with replacing(path) as file:
        np.savez(file, probabilities=outcome.probabilities.astype(np.float32), labels=data.validation.labels.numpy())


def _data(search: str, dataset: str, config: TrialConfig, cache: str) -> TrialData:
    return _warm_data(search, dataset, config.resolution, store_resolution(config), cache)


@functools.lru_cache(maxsize=16)
def _warm_data(search: str, dataset: str, resolution: Any, store: Any, cache: str) -> TrialData:
    """Kept from trial to trial: the pixels are mapped files, so that this holds little memory."""
    settings = DatasetConfig.model_validate_json(dataset)
    return trial_data(_prepared(search), settings, resolution, store, Path(cache))


@functools.lru_cache(maxsize=4)
def _prepared(search: str) -> Prepared:
    return Prepared.load(Path(search) / "data")
