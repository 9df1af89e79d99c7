"""Models of finals in MLflow's registry, so that `mlflow models serve` answers images with them."""

from __future__ import annotations

import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import spaces
import trainables
from search.disclosure import NAME, public_label, public_parameter
from search.final_result import RESULT
from search.interval_text import interval_text
from spaces.backbone import backbone
from spaces.mistakes import Mistake
from trainables.card import CARD, README, answer_columns, read_card

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)
FOLDER = "model"  # of a run's artifacts
LOADER, IMAGE = "trainables.serving", "image"
DIGEST_TAG = "medtune.model"
SEARCH_ONLY = {"ray", "optuna", "mlflow", "matplotlib", "jinja2", "markupsafe", "rich", "psutil"}
"""Of the project's dependencies those that a finished model doesn't need."""


@dataclass(frozen=True)
class FinalModel:
    """A model folder of a final."""

    folder: Path
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """`model-BACKBONE-DIGEST`, after the final's folder where that isn't `final`."""
        final = self.folder.parent.name
        return self.folder.name if final == "final" else f"{final}-{self.folder.name}"

    @property
    def digest(self) -> str:
        return str(self.card["digest"])

    @property
    def written(self) -> float:
        """Unix time in seconds."""
        return (self.folder / CARD).stat().st_mtime

    @property
    def public(self) -> bool:
        """Whether the names of its classes, which stand in it, may leave this machine."""
        return all(public_label(name) == name for name in self.card["classes"])

    def metrics(self) -> dict[str, float | None]:
        """Of the test set: the model's value with its interval, and what is expected of its configuration."""
        own, expected, metric = self.card["test"], self.card["expected"], self.card["metric"]
        return {
            f"test_{metric}": own["value"],
            f"test_{metric}_low": own["low"],
            f"test_{metric}_high": own["high"],
            f"expected_{metric}": expected["value"],
        }

    def params(self) -> dict[str, str]:
        config = self.card["config"]
        return {name: public_parameter(name, value) for name, value in config.items() if NAME.fullmatch(name)}

    def line(self) -> str:
        """For the search's own page."""
        return f"Final {self.name}: {self.card['metric']} {interval_text(self.card['test'])} on the test set."

    def description(self) -> str:
        """What a person should know who finds the model in the registry, as Markdown."""
        card, config = self.card, self.card["config"]
        return "\n\n".join(
            [
                f"**{card['metric']} {interval_text(card['test'])}** on the test set, with its 95% interval over "
                f"groups; expected of the configuration over seeds: {interval_text(card['expected'])}. "
                f"{card['opening'].capitalize()}.",
                f"{config['backbone']}, seed {card['seed']}, {card['task']}: {', '.join(card['classes'])}.",
                f"Input: column `{IMAGE}`, the bytes of an image file (in JSON as base64). Output: "
                "`predicted`, and of each class `p_CLASS`, `calibrated_CLASS` and `positive_CLASS` as far as the "
                "final could fit a temperature and fix a threshold.",
                f"Not a medical device. Licence of the weights that it began with: {licence_of(config)}. "
                f"More in {FOLDER}/data/{self.folder.name}/{README}.",
            ]
        )


def final_models(search: Path, damaged: Callable[[str], None] = log.warning) -> Iterator[FinalModel]:
    """Models of the finals in a search's folder, as far as they are written.

    Args:
        damaged: called with a sentence for each one that is left out since its card is damaged.
    """
    for card in sorted(search.glob(f"*/model-*/{README}")):  # written last of all
        if (card.parents[1] / RESULT).is_file():
            try:
                model = FinalModel(card.parent, read_card(card.parent))
            except Mistake as mistake:
                damaged(str(mistake))
                continue
            yield model


def licence_of(config: Mapping[str, Any]) -> str:
    """Of the weights that a trial began with, with what it asks for; `config`: the trial's, as a card has it."""
    if config["weights"] == "random":
        return "none, they were RANDOM"
    published = backbone(config["backbone"]).licence_text
    if config["weights"] == "file":
        return f"that of a file, which whoever made it knows (of the published ones, which it may hold: {published})"
    return published


def registered_name(search: str) -> str:
    """Of a search's models in the registry; each of its finals' models is a version."""
    return f"medtune-{search}"


def send_files(client: MlflowClient, run_id: str, model: FinalModel) -> None:
    """Puts the model into a run's artifacts, as MLflow's own commands load it."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / FOLDER
        save_served(model, path)
        client.log_artifacts(run_id, str(path), FOLDER)


def save_served(model: FinalModel, path: Path) -> None:
    """Writes a folder in MLflow's format, with all code that it needs: `trainables` and `spaces`."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [ColSpec("binary", IMAGE)]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(type_, name) for name, type_ in answer_columns(model.card).items()]
    pyfunc.save_model(
        str(path),
        loader_module=LOADER,
        data_path=str(model.folder),
        code_paths=[str(Path(str(package.__file__)).parent) for package in (spaces, trainables)],
        signature=ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs)),
        input_example=pd.DataFrame({IMAGE: [_example(model.card)]}),
        pip_requirements=requirements(),
    )


def register(client: MlflowClient, run_id: str, model: FinalModel, search: str) -> str:
    """The model's version in the registry, made if the run has none. Returns its number."""
    from mlflow.exceptions import MlflowException

    name = registered_name(search)
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name:
            return str(version.version)
    try:
        client.create_registered_model(name, description=f"Models of the finals of medtune's search {search}.")
    except MlflowException:
        client.get_registered_model(name)  # there already, or the error was another one
    made = client.create_model_version(
        name,
        source=f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}",
        run_id=run_id,
        tags={
            DIGEST_TAG: model.digest,
            **{f"medtune.{k}": str(model.card[k]) for k in ("metric", "seed", "fit")},
        },
        description=model.description(),
    )
    return str(made.version)


def requirements() -> list[str]:
    """What a server has to install, at the versions of this machine."""
    names = [re.split(r"[^\w.-]", need)[0] for need in metadata.requires("medtune") or [] if "extra ==" not in need]
    # The local part of a version (+cpu) names a build that the index doesn't have.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names if name not in SEARCH_ONLY]


def _example(card: dict[str, Any]) -> bytes:
    """A grey ramp as a PNG file: no image of anybody."""
    pixels = card["preprocessing"]["pixels"]
    file = io.BytesIO()
    Image.linear_gradient("L").resize((pixels["width"], pixels["height"])).save(file, "PNG")
    return file.getvalue()
