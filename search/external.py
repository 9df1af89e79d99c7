"""A finished final's model on another dataset: an external test set, every image of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.evaluation import Frozen, evaluate, metrics_of_seeds
from search.final_result import EXTERNAL
from search.ledger import NAME, Ledger
from search.suitable import labels_from
from spaces.config import FORMAT, DatasetConfig
from spaces.mistakes import Mistake
from spaces.strict import digest, read_yaml
from trainables.card import CARD, ENSEMBLE, MODEL, read_card
from trainables.data.manifest import Manifest
from trainables.data.parts import part
from trainables.data.pixels import open_many
from trainables.data.prepared import Prepared
from trainables.data.readers import read
from trainables.data.units import units_of
from trainables.files import write_json
from trainables.inference import predict
from trainables.metrics import classes_numbered
from trainables.model_folder import Trained
from trainables.place import this_machine
from trainables.predictor import load_members


def evaluate_external(
    dataset: Path, models: Sequence[Path], again: str | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Evaluates models on all rows of a dataset, and notes it in the ledger of openings beside them.

    Args:
        dataset: a YAML file with a DatasetConfig (as under `dataset:` of a search's settings); its split isn't used.
        models: folders of models and of ensembles that `medtune final` wrote.
        again: why this set is opened again, if it was opened before for something else.

    Returns:
        For each model the file that was written into its final's folder, and the result.

    Raises:
        Mistake: another task, other classes or other preprocessing than the model's, data that can't be used, or a set
            that was opened.
    """
    config, said = _dataset(dataset)
    loaded = [_load(folder) for folder in models]
    storage = models[0].resolve().parent
    manifest = read(config, storage / "external-cache", dataset.parent)
    problems = [p for model in loaded for p in _seen_otherwise(model.folder, model.members[0], said)]
    problems += [p for model in loaded for p in _differences(model.folder, model.members[0], manifest)]
    if problems:
        raise Mistake(*problems)
    _refuse_overlap(models[0], manifest)
    ledger = Ledger(_ledger_home(models[0]))
    test = digest(sorted(set(manifest.groups.tolist())))
    what = digest([str(model.card["digest"]) for model in loaded])
    standing = ledger.open(test, what, tuple(sorted({folder.name for folder in models})), len(models), again)
    units, written = units_of(manifest), []
    for model in loaded:
        folder, card, trained = model.folder, model.card, model.members[0]
        pixels = open_many(manifest, [trained.pixels], storage / "external-cache")[0]
        place, images = this_machine(), part(manifest, pixels)
        of_members = [predict(member.model.to(place.device), member.config, images, place) for member in model.members]
        own = np.stack(of_members).mean(axis=0, keepdims=True)
        metric, over = str(card["metric"]), classes_numbered(trained.config.classes_averaged, trained.classes)
        frozen = Frozen(card["temperature"], card["operating_points"])
        result = {
            "format": FORMAT,
            "kind": "medtune external evaluation",
            "model": folder.name,
            "dataset": {"reader": config.reader, "digest": manifest.digest()},
            "metric": metric,
            "classes_averaged": trained.config.plain()["classes_averaged"],
            "labels_from": labels_from(manifest),
            "caveats": list(manifest.caveats),
            "units": len(units),
            "groups": len(set(units.groups.tolist())),
            "opening": asdict(standing),
            "time": time.time(),
            **evaluate(metric, manifest.task, manifest.classes, units, own, 0, None, over, frozen),
            "metrics": metrics_of_seeds(units, own, manifest.task, over)[0],
        }
        path = folder.parent / f"{folder.name}{EXTERNAL}{manifest.digest()[:8]}.json"
        write_json(path, result)
        written.append((path, result))
    return written


@dataclass(frozen=True)
class _Model:
    folder: Path
    card: dict[str, Any]
    members: list[Trained]
    """One, or those of an ensemble: seeds of one configuration, which see images alike."""


def _load(folder: Path) -> _Model:
    card = read_card(folder, (MODEL, ENSEMBLE))
    return _Model(folder, card, load_members(folder, card))


def _ledger_home(model: Path) -> Path:
    """The storage that the model's search lies in, known by its ledger; of a final written elsewhere, its folder."""
    above = model.resolve().parents
    return next((folder for folder in above[1:4] if (folder / NAME).exists()), above[0])


def _refuse_overlap(model: Path, manifest: Manifest) -> None:
    """Refuses a set that holds images that the model was made with."""
    data = model.resolve().parent / "data"
    if not data.is_dir():
        return
    own = Prepared.load(data).manifest
    images = len(set(own.contents.tolist()) & set(manifest.contents.tolist()))
    if images:
        raise Mistake(
            f"--evaluate: {images} images of this set are among those that the model learned or was chosen from; give "
            "a set of others."
        )


def _dataset(path: Path) -> tuple[DatasetConfig, dict[str, Any]]:
    """The dataset's settings, and those that the file itself says."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise Mistake(f"{path}: expected the settings of a dataset (reader, root, ...), found {type(data).__name__}.")
    config = DatasetConfig.parse(data.get("dataset", data), str(path))
    return config, config.model_dump(mode="json", exclude_unset=True)


def _seen_otherwise(folder: Path, trained: Trained, said: Mapping[str, Any]) -> list[str]:
    """Settings that would show the model other images than it learned from. Its own preprocessing is used, so that one
    that says otherwise is refused, not passed over."""
    pixels, config = trained.pixels.plain(), trained.config.plain()
    own = {**{name: pixels[name] for name in ("fit", "centre", "crop", "side")}, "policy": config["policy"]}
    own["augmentation"] = config["augmentation"]
    return [
        f"--evaluate: {name}: is {said[name]}, but {folder.name} learned with {value}, and sees every image as it "
        "learned to; leave the key out."
        for name, value in own.items()
        if said.get(name) is not None and said[name] != value
    ]


def _differences(folder: Path, trained: Trained, manifest: Manifest) -> list[str]:
    if manifest.task != trained.task:
        return [f"{folder / CARD}: the model is for {trained.task}, the dataset is for {manifest.task}; give another."]
    if manifest.classes != trained.classes:
        return [
            f"{folder / CARD}: the model's classes are {', '.join(trained.classes)}, the dataset's are "
            f"{', '.join(manifest.classes)}; name and order them alike (csv: options.classes)."
        ]
    return []
