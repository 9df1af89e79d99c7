"""What Ray Tune runs: a job of one or more trials, in an actor that outlives it.

Everything a job does is told to the driver by `tune.report`, as one JSON text under `message` (Tune flattens what is
nested): a list of {"trial": number, "epoch": {...}} after an epoch, {"trial": number, "end": {...}} when a trial is
over, or both. The driver writes the record; the job writes checkpoints, validation predictions and, before anything
else can go wrong, why a trial ended. Trials of one job train their heads in one pass; the driver stops one of them by a
file in its folder, since Tune can only stop a job.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import torch
from ray import tune

from spaces.config import DatasetConfig, TrialConfig
from trainables import final_run
from trainables.augment import store_resolution
from trainables.data.parts import TrialData, trial_data
from trainables.data.prepared import Prepared
from trainables.files import write_json
from trainables.final_run import RunOrder
from trainables.folds import Valued, fine_tune_folds
from trainables.head_group import fine_tune_heads
from trainables.loop import Diverged, EpochReport, Infeasible
from trainables.place import Place, this_machine
from trainables.predictions import Predictions, numbers_of
from trainables.prefix import ActivationStore, Counts, activation_store

log = logging.getLogger(__name__)
END, PREDICTIONS, CONFIG, STOPPED = "end.json", "validation.npz", "config.json", "stopped"
PAUSE = 1.0  # seconds between checkpoints of quick trials
Message = dict[str, Any]
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
    activations: int
    """Bytes that kept activations may take on a machine; 0 keeps none."""
    threads: int
    accelerators: float


def trial_folder(search: Path, number: int) -> Path:
    return search / "trials" / f"{number:05d}"


def run_job(order: dict[str, Any]) -> None:
    """A Tune function: runs a job's trials. `order` is a `JobOrder`."""
    received = time.time()
    place = this_machine(order["accelerators"], order["threads"])
    pending = []
    for trial in order["trials"]:
        end = _folder(order, trial) / END
        if end.exists():  # the actor died after this trial had ended, before the driver knew
            _report(json.loads(end.read_text(encoding="utf-8")))
        else:
            pending.append(trial)
    if len(order["trials"]) == 1 and pending and not _group_folder(order).exists():
        _run_trial(pending[0], order, place, received)
    elif pending:
        _run_group(pending, order, place, received)


def _run_trial(trial: TrialOrder, order: dict[str, Any], place: Place, received: float) -> None:
    number, folder = trial["number"], _folder(order, trial)
    config = TrialConfig.model_validate(trial["config"])
    folds = len(_prepared(order["search"]).folds)

    waiting = _Waiting()

    def report(epoch: EpochReport) -> None:
        if epoch.epoch < folds * config.epochs:  # the last one goes with the trial's end, in one message
            waiting.add({"trial": number, "epoch": _plain(epoch)})

    with _ends_told({number: folder}, waiting):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, config.plain())
        data = _data_of(order, config)
        data(0)
        ready = time.time()
        valued = fine_tune_folds(config, data, folds, folder, report, place, _store(order), PAUSE)
        waiting.add(_completed(folder, number, valued, ready - received))


def _run_group(trials: list[TrialOrder], order: dict[str, Any], place: Place, received: float) -> None:
    numbers, folders = [t["number"] for t in trials], [_folder(order, t) for t in trials]
    configs = [TrialConfig.model_validate(trial["config"]) for trial in trials]
    waiting = _Waiting()

    def report(k: int, epoch: EpochReport) -> bool:
        if epoch.epoch < configs[k].epochs:
            waiting.add({"trial": numbers[k], "epoch": _plain(epoch)})
        return not (folders[k] / STOPPED).exists()

    with _ends_told(dict(zip(numbers, folders, strict=True)), waiting):
        for folder, config in zip(folders, configs, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CONFIG, config.plain())
        data = _data_of(order, configs[0])(0)
        ready = time.time()
        members, counts = fine_tune_heads(configs, data, _group_folder(order), report, place, _store(order), PAUSE)
        units = data.validation.units
        groups = numbers_of(units.groups)
        for k, member in enumerate(members):
            if member.ended is not None:
                state = "infeasible" if isinstance(member.ended, Infeasible) else "failed"
                waiting.add(_ended(folders[k], numbers[k], state, str(member.ended)))
            elif member.value is not None:
                own = counts if k == 0 else Counts(read=counts.read)  # what one computes the others read
                predictions = Predictions(member.probabilities, units.truth, groups, groups * 0)
                valued = Valued(member.value, member.reports[-1], predictions, own)
                waiting.add(_completed(folders[k], numbers[k], valued, ready - received))


class _Waiting:
    """Messages to the driver, sent together: each sending costs the driver a turn. What is lost with the process is
    told again when the job goes on."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.sent = 0.0

    def add(self, message: Message) -> None:
        self.messages.append(message)
        if time.monotonic() - self.sent >= PAUSE:
            self.send()

    def send(self) -> None:
        if self.messages:
            _report(*self.messages)
            self.messages, self.sent = [], time.monotonic()


@contextmanager
def _ends_told(folders: dict[int, Path], waiting: _Waiting) -> Iterator[None]:
    """Whatever ends the block early is told as the end of these trials that haven't ended yet."""

    def end(state: str, cause: str) -> None:
        for number, folder in folders.items():
            if not (folder / END).exists():
                waiting.add(_ended(folder, number, state, cause))
        waiting.send()

    try:
        yield
        waiting.send()
    except Diverged as error:
        end("failed", str(error))
    except Infeasible as error:
        end("infeasible", str(error))
    except torch.cuda.OutOfMemoryError as error:
        end("infeasible", f"out of the accelerator's memory: {str(error).splitlines()[0]}")
        gc.collect()
        torch.cuda.empty_cache()
    except Exception as error:
        # Told first, then raised: Tune gives the next trial a fresh actor.
        end("failed", f"{type(error).__name__}: {error}")
        raise


def train_worker(order: dict[str, Any]) -> None:
    """A Ray Train function: one worker of a final run. `order` is a `trainables.final_run.RunOrder` as plain data."""
    from ray import train
    from ray.train.torch import get_device

    context = train.get_context()
    place = Place(get_device(), context.get_world_rank(), context.get_world_size())
    final_run.run(RunOrder(**order), place, lambda epoch: None)


def _report(*messages: Message) -> None:
    tune.report({MESSAGE: json.dumps(messages)})


def _completed(folder: Path, number: int, valued: Valued, setup_seconds: float) -> Message:
    valued.predictions.save(folder / PREDICTIONS)
    message = {
        "trial": number,
        "epoch": _plain(valued.last),
        "end": {"state": "complete", "cause": "", "value": valued.value},
        "setup_seconds": setup_seconds,
        "counts": vars(valued.counts),
    }
    write_json(folder / END, message)
    return message


def halt(search: Path, number: int) -> None:
    """Lets a job know that one of its trials isn't to go on."""
    trial_folder(search, number).mkdir(parents=True, exist_ok=True)
    (trial_folder(search, number) / STOPPED).touch()


def _ended(folder: Path, number: int, state: str, cause: str) -> Message:
    message = {"trial": number, "end": {"state": state, "cause": cause, "value": None}}
    write_json(folder / END, message)
    return message


def _group_folder(order: dict[str, Any]) -> Path:
    return Path(order["search"]) / "jobs" / str(order["job"])


def _folder(order: dict[str, Any], trial: TrialOrder) -> Path:
    return trial_folder(Path(order["search"]), trial["number"])


def _plain(report: EpochReport) -> dict[str, Any]:
    return {name: value for name, value in vars(report).items() if name != "step_losses"}


def _store(order: dict[str, Any]) -> ActivationStore | None:
    return activation_store(Path(order["cache"]), order["activations"])


def _data_of(order: dict[str, Any], config: TrialConfig) -> Callable[[int], TrialData]:
    """The data of each fold."""
    folds = len(_prepared(order["search"]).folds)

    def of_fold(fold: int) -> TrialData:
        return _warm_data(
            order["search"],
            json.dumps(order["dataset"]),
            config.resolution,
            store_resolution(config),
            order["cache"],
            fold if folds > 1 else None,
        )

    return of_fold


@functools.lru_cache(maxsize=16)
def _warm_data(search: str, dataset: str, resolution: Any, store: Any, cache: str, fold: int | None) -> TrialData:
    """Kept from trial to trial: the pixels are mapped files, so that this holds little memory."""
    settings = DatasetConfig.model_validate_json(dataset)
    return trial_data(_prepared(search), settings, resolution, store, Path(cache), fold=fold)


@functools.lru_cache(maxsize=4)
def _prepared(search: str) -> Prepared:
    return Prepared.load(Path(search) / "data")
