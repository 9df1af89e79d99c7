"""A finished final's model on another dataset: an external test set, every image of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.evaluation import Frozen, evaluate, metrics_of_seeds
from search.final_result import EXTERNAL, RESULT
from search.ledger import NAME, Ledger, SealedTest
from search.suitable import SOURCES, labels_from
from spaces.config import FORMAT, DatasetConfig
from spaces.mistakes import Mistake
from spaces.strict import digest, read_yaml
from trainables.card import CARD, ENSEMBLE, MODEL, read_card
from trainables.data.manifest import Manifest
from trainables.data.parts import part
from trainables.data.pixels import open_many
from trainables.data.prepared import SETTINGS, Prepared
from trainables.data.readers import read
from trainables.data.units import units_of
from trainables.files import write_json
from trainables.inference import predict
from trainables.metrics import classes_numbered
from trainables.model_folder import Trained
from trainables.place import this_machine
from trainables.predictor import load_members

KINDS = ("model", "ensemble")
UNSEEN = (
    "Whether this set shares images or groups (patients, lesions) with those that the model learned or was chosen from "
    "isn't known: its final's data don't lie beside it."
)
"""A caveat of models that were moved out of their final's folder."""


def evaluate_external(
    dataset: Path, models: Sequence[Path], again: str | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """Evaluates models on all rows of a dataset, and notes it in the ledgers of openings beside them.

    Args:
        dataset: a YAML file with a DatasetConfig (as under `dataset:` of a search's settings); its split isn't used.
        models: folders of models and of ensembles that `medtune final` wrote.
        again: why this set is opened again, if it was opened before for something else.

    Returns:
        For each model the file that was written into its final's folder, and the result.

    Raises:
        Mistake: another task, other classes or other preprocessing than a model's, images or groups that one learned
            from, labels of several sources, data that can't be used, or a set that was opened.
    """
    config, said = _dataset(dataset)
    loaded = [_load(folder) for folder in models]
    storage = models[0].resolve().parent
    manifest = read(config, storage / "external-cache", dataset.parent)
    problems = [p for model in loaded for p in _seen_otherwise(model.folder, model.members[0], said)]
    problems += [p for model in loaded for p in _differences(model.folder, model.members[0], manifest)]
    problems += _several_sources(manifest)
    own_data = {folder: _own_data(folder) for folder in models}
    problems += [p for folder, own in own_data.items() if own for p in _overlap(folder, own, manifest)]
    if problems:
        raise Mistake(*problems)
    test = SealedTest(manifest.groups_digest(), manifest.contents_digest())
    what = digest([str(model.card["digest"]) for model in loaded])
    searches = tuple(sorted({_search(folder) for folder in models}))
    ledgers = {home: Ledger(home) for home in sorted({_ledger_home(folder) for folder in models})}
    for ledger in ledgers.values():
        ledger.refuse_unexplained(test, what, again)
    standing = {home: ledger.open(test, what, searches, len(models), again) for home, ledger in ledgers.items()}
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
            "caveats": [*manifest.caveats, *(() if own_data[folder] else (UNSEEN,))],
            "units": len(units),
            "groups": len(set(units.groups.tolist())),
            "opening": asdict(standing[_ledger_home(folder)]),
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


def _search(model: Path) -> str:
    """Name of the search that found the model, as its final's result says; of a model elsewhere, its own name."""
    try:
        result = json.loads((model.resolve().parent / RESULT).read_text(encoding="utf-8"))
        found = {f"{kind}-{made['name']}": made["found"] for made in result["configurations"] for kind in KINDS}
        return str(found[model.name]["search"])
    except (OSError, ValueError, KeyError, TypeError):
        return model.name


def _own_data(model: Path) -> Manifest | None:
    """The images that the model learned or was chosen from; None where they aren't beside it."""
    data = model.resolve().parent / "data"
    return Prepared.load(data).manifest if (data / SETTINGS).is_file() else None


def _overlap(model: Path, own: Manifest, manifest: Manifest) -> list[str]:
    """What this set shares with the images that the model was made with."""
    among, problems = f"of this set's {len(manifest)} images", []
    images = np.isin(manifest.contents, own.contents)
    if images.any():
        problems.append(
            f"--evaluate: {int(images.sum())} {among} are among those that {model.name} learned or was chosen from; "
            "give a set of others."
        )
    named = np.isin(manifest.groups, np.setdiff1d(own.groups, own.contents))  # not by an image's content
    if named.any():
        problems.append(
            f"--evaluate: {int(named.sum())} {among} belong to {len(np.unique(manifest.groups[named]))} groups "
            f"(patients, lesions) that {model.name} learned or was chosen from; give a set of others, and where groups "
            "only happen to be named alike, name them otherwise."
        )
    return problems


def _several_sources(manifest: Manifest) -> list[str]:
    sources = np.unique(manifest.attributes.get(SOURCES, np.array([], dtype=np.str_))).tolist()
    if len(sources) < 2:
        return []
    return [
        f"--evaluate: this set holds labels of {' and of '.join(sources)}, whose values don't belong in one figure; "
        "give those of one source (chexpert: options: {rows: valid})."
    ]


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
