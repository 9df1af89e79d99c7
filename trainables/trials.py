"""The trials of a job, from their data to their ends. Knows nothing of Ray: whoever calls says where messages go.

The job writes checkpoints, validation predictions and, before anything else can go wrong, why a trial ended; what it
tells is in `trainables.job`.
"""

from __future__ import annotations

import functools
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import torch

from spaces.config import DatasetConfig, TrialConfig
from trainables import watchdog
from trainables.augment import store_resolution
from trainables.causes import End, end_of, unknown
from trainables.data.parts import TrialData, trial_data
from trainables.data.prepared import Prepared
from trainables.epoch import EpochReport
from trainables.files import write_json
from trainables.folds import Valued, fine_tune_folds
from trainables.head_group import fine_tune_heads
from trainables.head_member import Member
from trainables.object_store import below, link
from trainables.place import Place, this_machine
from trainables.predictions import Predictions, numbers_of
from trainables.prefix import ActivationStore, Counts, activation_budget, activation_store
from trainables.resident import RESIDENT
from trainables.telling import Stopped
from trainables.trial_files import CHECKPOINTS, CONFIG, END, PREDICTIONS, STACKS, STOPPED, fold_folder, trial_folder

PAUSE = 1.0  # seconds between checkpoints of quick trials
HANGS = 1  # after which a job is tried again
Message = dict[str, Any]
Report = Callable[[list[Message]], None]


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
    checkpoints: str | None
    """Address in an object store under which the search's checkpoints lie; None: in the trials' folders."""
    activations: int | None
    """Bytes that kept activations may take on a machine; 0 keeps none, None takes a share of what is free there."""
    threads: int
    accelerators: float
    """Of one worker, as `threads`."""
    workers: int
    """That train a trial together."""
    shard: bool
    """Whether they share out its weights (`trainables.sharding`)."""
    labels: dict[str, str]
    """Of the nodes that they may run on."""
    hang: float
    """Seconds without a step after which the process is ended."""


def run(order: dict[str, Any], report: Report, place: Place | None = None) -> None:
    """Runs a job's trials.

    Args:
        order: a `JobOrder`.
        report: gets what is to be told to the driver; comes back when the driver has it. Of several workers the first
            one's is used.
        place: of one worker of several; by default this process works alone.

    Raises:
        Exception: an error of which it isn't known what state it leaves the process in. It was told before. Of several
            workers also one that the others may not have met.
    """
    received = time.monotonic()
    alone = len(order["trials"]) == 1 and not _group_folder(order).exists()
    stacks = (_folder(order, order["trials"][0]) if alone else _group_folder(order)) / STACKS
    if place and not place.first:
        report, stacks = (lambda _: None), stacks.with_stem(f"{stacks.stem}-{place.rank}")
    waiting = _Waiting(report)
    with watchdog.watched(order["hang"], stacks):
        place = place or this_machine(order["accelerators"], order["threads"])
        RESIDENT.begin(order["accelerators"] or 1)
        pending = _pending(order, waiting)
        if place.agree(bool(pending and watchdog.hangs(stacks) > HANGS)):
            _end_hung(pending, order, stacks, waiting)
        elif pending and alone:
            _run_trial(pending[0], order, place, received, waiting)
        elif pending:
            _run_group(pending, order, place, received, waiting)
        if waiting.out_of_memory:  # the error is gone by now, and with it the last that held what the trial held
            RESIDENT.make_way()
            gc.collect()
            torch.cuda.empty_cache()


def tell_ends(order: dict[str, Any], report: Report) -> bool:
    """Tells those ends of a job's trials that are on disk. Returns whether all of them are."""
    return not _pending(order, _Waiting(report))


def _pending(order: dict[str, Any], waiting: _Waiting) -> list[TrialOrder]:
    """The trials that haven't ended. The others are told again: the process died before the driver knew."""
    pending = []
    for trial in order["trials"]:
        folder = _folder(order, trial)
        end = folder / END
        if _of_another(folder, trial):
            for left in (END, PREDICTIONS, STOPPED):
                (folder / left).unlink(missing_ok=True)
        if end.exists():
            waiting.messages += json.loads(end.read_text(encoding="utf-8"))
        else:
            pending.append(trial)
    waiting.send()
    return pending


def _of_another(folder: Path, trial: TrialOrder) -> bool:
    """Whether a folder is that of another configuration of the same number, as where a record was lost in part, or put
    back from a backup, and went on. Checkpoints tell by themselves whose they are."""
    file = folder / CONFIG
    own = TrialConfig.model_validate(trial["config"]).plain()
    return file.exists() and json.loads(file.read_text(encoding="utf-8")) != own


def _end_hung(trials: list[TrialOrder], order: dict[str, Any], stacks: Path, waiting: _Waiting) -> None:
    where = stacks.relative_to(order["search"])
    cause = f"no step for {order['hang'] / 60:g} minutes, {HANGS + 1} times; {where} says where it hung"
    for trial in trials:
        _end(_folder(order, trial), trial["number"], "failed", cause, waiting)
    waiting.send()


def _run_trial(trial: TrialOrder, order: dict[str, Any], place: Place, received: float, waiting: _Waiting) -> None:
    number, folder = trial["number"], _folder(order, trial)
    config = TrialConfig.model_validate(trial["config"])
    folds = len(_prepared(order["search"]).folds)

    def report(epoch: EpochReport) -> bool:
        if epoch.epoch < folds * config.epochs:  # the last one goes with the trial's end, in one message
            waiting.add({"trial": number, "epoch": _plain(epoch)})
        return not (folder / STOPPED).exists()

    with _ends_told({number: folder}, waiting, place):
        if place.first:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CONFIG, config.plain())
            _link_checkpoints(order, folder, folds)
        place.wait()
        data = _data_of(order, config)
        decoded = _decoded(data)
        ready = time.monotonic()
        valued = fine_tune_folds(
            config, data, folds, folder, report, place, _store(order), PAUSE, order.get("shard", False)
        )
        if place.first:
            _complete(folder, number, valued, ready - received, decoded, waiting)


def _run_group(
    trials: list[TrialOrder], order: dict[str, Any], place: Place, received: float, waiting: _Waiting
) -> None:
    numbers, folders = [t["number"] for t in trials], [_folder(order, t) for t in trials]
    configs = [TrialConfig.model_validate(trial["config"]) for trial in trials]

    def report(k: int, epoch: EpochReport) -> bool:
        if epoch.epoch < configs[k].epochs:
            waiting.add({"trial": numbers[k], "epoch": _plain(epoch)})
        return not (folders[k] / STOPPED).exists()

    def ended(k: int, end: End) -> None:
        _end(folders[k], numbers[k], end.state, end.cause, waiting)

    members: list[Member] = []
    with _ends_told(dict(zip(numbers, folders, strict=True)), waiting, place):
        for folder, config in zip(folders, configs, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CONFIG, config.plain())
        _link_checkpoints(order, _group_folder(order), 1)
        of_fold = _data_of(order, configs[0])
        decoded, data = _decoded(of_fold), of_fold(0)
        ready = time.monotonic()
        members, counts = fine_tune_heads(
            configs, data, _group_folder(order), report, place, _store(order), PAUSE, folders, ended
        )
        units = data.validation.units
        groups = numbers_of(units.groups)
        complete = [k for k, member in enumerate(members) if member.value is not None]
        for k, member in enumerate(members):
            if member.ended is not None:
                ended(k, member.ended)
            elif member.value is not None:
                teller = k == complete[0]  # of what was done once for all: what one computes the others read
                own = counts if teller else Counts(read=counts.read)
                predictions = Predictions(member.probabilities, units.truth, groups, groups * 0, member.earlier)
                valued = Valued(member.value, member.reports[-1], predictions, own)
                _complete(folders[k], numbers[k], valued, ready - received, decoded if teller else 0, waiting)
    _after_own_ends(members, waiting)


def _after_own_ends(members: Sequence[Member], waiting: _Waiting) -> None:
    """What the ends of single trials of a group mean for the process, now that all of them are told."""
    waiting.out_of_memory |= any(member.ended is not None and member.ended.memory for member in members)
    strange = [member.ended.cause for member in members if member.ended is not None and member.strange]
    if strange:
        raise RuntimeError(f"{strange[0]} (of one trial of a group, told as its end; the others came to their own)")


class _Waiting:
    """Messages to the driver, sent together: each sending costs the driver a turn. What is lost, with this process or
    with the driver, is told again when the job goes on."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.messages: list[Message] = []
        self.of_trials: dict[int, list[Message]] = {}
        self.sent = 0.0
        self.out_of_memory = False

    def add(self, message: Message) -> None:
        self.messages.append(message)
        self.of_trials.setdefault(message["trial"], []).append(message)
        if time.monotonic() - self.sent >= PAUSE:
            self.send()

    def send(self) -> None:
        if self.messages:
            with watchdog.paused():  # the driver may be held up by its storage
                self.report(self.messages)
            self.messages, self.sent = [], time.monotonic()


@contextmanager
def _ends_told(folders: dict[int, Path], waiting: _Waiting, place: Place) -> Iterator[None]:
    """Whatever ends the block early is told as the end of these trials that haven't ended yet, unless the driver has
    ended them.

    An error of unknown kind is told first and then raised, after which Tune gives the next job a fresh actor; so is,
    of several workers, one that the others may not have met, since they would wait for this one.
    """
    try:
        yield
        waiting.send()
    except Stopped:
        waiting.send()
    except Exception as error:
        known = end_of(error)
        end = known or unknown(error)
        shared = place.world == 1 or (known is not None and not known.memory)
        for number, folder in folders.items():
            if (place.first or not shared) and not (folder / END).exists():
                _end(folder, number, end.state, end.cause, waiting)
        waiting.send()
        if known is None or not shared:
            raise
        waiting.out_of_memory = end.memory


def _complete(folder: Path, number: int, valued: Valued, setup_seconds: float, decoded: int, waiting: _Waiting) -> None:
    valued.predictions.save(folder / PREDICTIONS)
    message = {
        "trial": number,
        "epoch": _plain(valued.last),
        "end": {"state": "complete", "cause": "", "value": valued.value},
        "setup_seconds": setup_seconds,
        "counts": {**vars(valued.counts), "decoded": decoded},
    }
    _tell_end(folder, message, waiting)


def _end(folder: Path, number: int, state: str, cause: str, waiting: _Waiting) -> None:
    _tell_end(folder, {"trial": number, "end": {"state": state, "cause": cause, "value": None}}, waiting)


def _tell_end(folder: Path, message: Message, waiting: _Waiting) -> None:
    """On disk first, with all that was told of the trial: the driver may have died with some of it."""
    write_json(folder / END, [*waiting.of_trials.get(message["trial"], []), message])
    waiting.add(message)


def _link_checkpoints(order: dict[str, Any], folder: Path, folds: int) -> None:
    """Lets checkpoints of a trial's or a group's folder lie in the object store, where the order names one."""
    if address := order.get("checkpoints"):
        for fold in range(folds):
            place = fold_folder(folder, fold, folds) / CHECKPOINTS
            link(place, below(address, str(place.parent.relative_to(order["search"]))))


def _group_folder(order: dict[str, Any]) -> Path:
    return Path(order["search"]) / "jobs" / str(order["job"])


def _folder(order: dict[str, Any], trial: TrialOrder) -> Path:
    return trial_folder(Path(order["search"]), trial["number"])


def _plain(report: EpochReport) -> dict[str, Any]:
    return {name: value for name, value in vars(report).items() if name != "step_losses"}


def _store(order: dict[str, Any]) -> ActivationStore | None:
    if order.get("shard"):  # one process can't fill the store without the others
        return None
    cache, budget = Path(order["cache"]), order["activations"]
    return activation_store(cache, activation_budget(cache, "auto") if budget is None else budget)


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


def _decoded(data: Callable[[int], TrialData]) -> int:
    """Makes the data of the first fold ready; how many images were decoded for that, which no trial had done before."""
    before = _warm_data.cache_info().misses
    first = data(0)
    return first.decoded if _warm_data.cache_info().misses > before else 0


@functools.lru_cache(maxsize=16)
def _warm_data(search: str, dataset: str, resolution: Any, store: Any, cache: str, fold: int | None) -> TrialData:
    """Kept from trial to trial: the pixels are mapped files, so that this holds little memory."""
    settings = DatasetConfig.model_validate_json(dataset)
    return trial_data(_prepared(search), settings, resolution, store, Path(cache), fold=fold)


@functools.lru_cache(maxsize=4)
def _prepared(search: str) -> Prepared:
    return Prepared.load(Path(search) / "data")
