"""One run of a final: a configuration with one seed, from the data to a model on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from spaces.config import DatasetConfig, TrialConfig
from spaces.strict import digest
from trainables.augment import store_resolution
from trainables.data.parts import Part, TrialData, open_part, trial_data
from trainables.data.pixels import pixel_spec
from trainables.data.prepared import Prepared
from trainables.epoch import EpochReport
from trainables.files import write_json
from trainables.loop import Outcome, fine_tune
from trainables.model import merged
from trainables.model_folder import Trained, save_model
from trainables.place import Place
from trainables.predictions import Predictions, numbers_of
from trainables.resident import RESIDENT

Fit = Literal["train", "all"]
RESULT, MODEL, VALIDATION = "run.json", "model", "validation.npz"


@dataclass(frozen=True)
class RunOrder:
    """What a run needs, as plain data: it may be sent to another process."""

    folder: str
    """Of this run: checkpoints, result and model."""
    config: dict[str, Any]
    dataset: dict[str, Any]
    prepared: str
    """Folder of the prepared dataset, which holds no test rows."""
    cache: str
    fit: Fit
    threads: int
    accelerators: float
    shard: bool = False
    """Whether several workers share out the weights (`trainables.sharding`)."""


def run_data(order: RunOrder, config: TrialConfig) -> TrialData:
    """Training and validation data; with `fit: all`, the training part is both together."""
    prepared, dataset = Prepared.load(Path(order.prepared)), DatasetConfig.model_validate(order.dataset)
    cache, store = Path(order.cache), store_resolution(config)
    data = trial_data(prepared, dataset, config.resolution, store, cache)
    if order.fit == "train":
        return data
    both = np.union1d(prepared.train, prepared.validation)
    whole: Part = open_part(prepared.manifest.take(both), dataset, store, cache)
    return TrialData(train=whole, validation=data.validation, classes=data.classes, task=data.task)


def run(order: RunOrder, place: Place, report: Callable[[EpochReport], None] = lambda _: None) -> None:
    """Fine-tunes and writes `run.json` and `model`; goes on from a checkpoint where there is one."""
    folder = Path(order.folder)
    config = TrialConfig.model_validate(order.config)
    torch.set_num_threads(order.threads)
    if place.first:
        folder.mkdir(parents=True, exist_ok=True)
    place.wait()
    RESIDENT.begin(order.accelerators or 1)
    data = run_data(order, config)
    outcome = fine_tune(config, data, folder, report, place, judged=order.fit == "train", shard=order.shard)
    if place.first:
        _write(folder, order, config, data, outcome)
    place.wait()


def finished(order: RunOrder) -> dict[str, Any] | None:
    """The result of a run that was finished before with the same order; None where it has to be run."""
    folder = Path(order.folder)
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(result, dict) and result.get("order") == _order_digest(order)
    return result if same and (folder / MODEL).is_dir() else None


def _write(folder: Path, order: RunOrder, config: TrialConfig, data: TrialData, outcome: Outcome) -> None:
    dataset = DatasetConfig.model_validate(order.dataset)
    used = merged(outcome.model, config)  # adapters become part of the weights: nobody needs them to use the model
    trained = Trained(outcome.model, used, data.classes, data.task, pixel_spec(dataset, config.resolution))
    save_model(folder / MODEL, trained, {"seed": config.seed, "fit": order.fit})
    if order.fit == "train":
        units = data.validation.units
        groups = numbers_of(units.groups)
        Predictions(outcome.probabilities, units.truth, groups, groups * 0).save(folder / VALIDATION)
    write_json(
        folder / RESULT,
        {
            "order": _order_digest(order),
            "config": _shown(config),
            "fit": order.fit,
            "seed": config.seed,
            "validation": outcome.value,
            "epochs": [asdict(r) for r in outcome.reports],
        },
    )


def _order_digest(order: RunOrder) -> str:
    """SHA-256 of all that decides what comes out: not where the data lie, nor what computes."""
    dataset = {key: value for key, value in order.dataset.items() if key != "root"}
    data = asdict(Prepared.load(Path(order.prepared)).digests)
    return digest({"config": order.config, "dataset": dataset, "data": data, "fit": order.fit})


def _shown(config: TrialConfig) -> dict[str, Any]:
    """A configuration without the path of a weights file."""
    weights = config.weights if config.weights in ("pretrained", "random") else "file"
    return {**config.plain(), "weights": weights}
