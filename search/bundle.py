"""A search as a folder that repeats it elsewhere: settings, split, digests, predictions and results.

Nothing in it names a path of this machine, a file, a patient or a group. The split is told by salted hashes of images'
contents: who has the same images finds them again, nobody else learns anything. Groups are told by the hashes of their
images, since names of groups (numbers of patients) could be guessed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from search.disclosure import public_cause, public_label
from search.final_result import RESULT, finals
from search.folder import SearchFolder, to_yaml
from search.outputs import check_folder
from search.record import best
from search.results_table import results_table
from search.trial_text import value_text
from spaces.config import FORMAT, SearchConfig
from spaces.mistakes import Mistake
from trainables.data.prepared import Prepared
from trainables.files import folder_atomic, write_json, write_text
from trainables.trial_files import PREDICTIONS, trial_folder

KIND = "medtune bundle"
ROOT = "dataset"  # where the bundle's settings look for the dataset: a folder, or a link to one, beside them
TEMPLATE = "bundle.md.j2"


def bundle(found: SearchFolder, output: Path) -> Path:
    """Writes the folder, whole or not at all.

    Raises:
        Mistake: there is such a folder already, or no place for it.
    """
    if output.exists():
        raise Mistake(f"export: --bundle {output}: exists already; name a new folder.")
    if not output.absolute().parent.is_dir():
        raise Mistake(f"export: --bundle {output}: there is no folder {output.parent}; make it first.")
    check_folder("export: --bundle", output)
    config, study, prepared = found.config(), found.study(), found.prepared()
    salt = secrets.token_hex(16)
    winner = best(study.trials, study.identity["direction"])
    with folder_atomic(output.absolute()) as folder:
        write_text(folder / "search.yaml", to_yaml(portable(config).plain()))
        write_text(folder / "split.csv", split_table(prepared, salt))
        write_text(folder / "results.csv", results_table([found]))
        for trial in study.trials:
            predictions = trial_folder(found.path, trial.number) / PREDICTIONS
            if predictions.is_file():
                (folder / "predictions").mkdir(exist_ok=True)
                shutil.copyfile(predictions, folder / "predictions" / f"{trial.number:05d}.npz")
        _finals(found, folder)
        identity = _identity(study.identity)
        write_json(folder / "bundle.json", {"kind": KIND, "format": FORMAT, "salt": salt, **identity})
        environment = Environment(
            loader=PackageLoader("search"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        readme = environment.get_template(TEMPLATE).render(
            name=config.name,
            root=ROOT,
            best=winner,
            metric=study.identity["metric"],
            value=value_text(winner, str(study.identity["metric"]), config.budget.epochs) if winner else "",
            identity=identity,
        )
        write_text(folder / "README.md", readme)
    return output


def portable(config: SearchConfig) -> SearchConfig:
    """Settings without this machine's folders and addresses, that mean the same search.

    Weights from files are named by the file alone; their digest stands beside.
    """
    weights = config.weights
    if isinstance(weights, dict):
        weights = {name: _last_part(value) for name, value in weights.items()}
    else:
        weights = _last_part(weights)
    options = {key: _relative(value) for key, value in config.dataset.options.items()}
    return config.model_copy(
        update={
            "dataset": config.dataset.model_copy(update={"root": ROOT, "options": options}),
            "weights": weights,
            "storage": "runs",
            "cache": None,
            "checkpoints": None,
            "study": None,
            "mlflow": config.mlflow if config.mlflow in ("local", "off") else "local",
            "tags": (),
        }
    )


def _last_part(weights: str) -> str:
    return weights if weights in ("pretrained", "random") else Path(weights).name


def _relative(value: Any) -> Any:
    """An option as it is, unless it is an absolute path: then its last part."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def split_table(prepared: Prepared, salt: str) -> str:
    """The parts of the split as CSV, a row for each training and validation image, ordered by hash: `image`, `group`,
    `part`, and with folds the number of the fold that validates it. Test images are those that aren't in it."""
    manifest = prepared.manifest
    images = np.array([hashed(salt, "image", content) for content in manifest.contents.tolist()])
    members: dict[str, list[str]] = {}
    for name, content in zip(manifest.groups.tolist(), manifest.contents.tolist(), strict=True):
        members.setdefault(name, []).append(content)
    groups = {name: hashed(salt, "group", *sorted(contents)) for name, contents in members.items()}
    part = np.full(len(manifest), "train", dtype="U10")
    part[prepared.validation] = "validation"
    fold = np.zeros(len(manifest), dtype=np.int64)
    for number, (_, validation) in enumerate(prepared.folds, 1):
        fold[validation] = number
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    folds = len(prepared.folds) > 1
    writer.writerow(["image", "group", "part", *(["fold"] if folds else [])])
    for row in np.argsort(images, kind="stable"):
        group = groups[str(manifest.groups[row])]
        writer.writerow([images[row], group, part[row], *([fold[row]] if folds else [])])
    return text.getvalue()


def hashed(salt: str, *contents: str) -> str:
    """Salted SHA-256 of images' contents (their hashes in the manifest), its first 32 hexadecimal digits."""
    return hashlib.sha256("|".join((salt, *contents)).encode()).hexdigest()[:32]


def _identity(identity: dict[str, Any]) -> dict[str, Any]:
    """What the record says the search is, as far as it may leave this machine."""
    counts = {
        part: {public_label(name): count for name, count in of_class.items()}
        for part, of_class in identity["counts"].items()
    }
    kept = ("metric", "direction", "data", "split", "test", "weights", "code", "versions")
    return {**{name: identity[name] for name in kept}, "counts": counts}


def _finals(found: SearchFolder, folder: Path) -> None:
    """Results and test predictions of finals; models are left out."""
    for final in finals(found.path):
        target = folder / "finals" / final.folder
        target.mkdir(parents=True)
        opening = final.result["opening"]
        result = {**final.result, "opening": {**opening, "reason": public_cause(opening["reason"])}}
        write_text(target / RESULT, json.dumps(result, indent=1) + "\n")
        for configuration in final.configurations:
            file = f"{configuration.report['name']}-test.npz"
            if (found.path / final.folder / file).is_file():
                shutil.copyfile(found.path / final.folder / file, target / file)
