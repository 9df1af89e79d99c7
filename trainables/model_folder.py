"""A finished model on disk: `model.safetensors` with every weight, `model.json` with all that is needed to use it.

An ensemble is a folder of such folders with a `model.json` of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from spaces.backbone import backbone
from spaces.config import FORMAT, TrialConfig
from trainables.card import CARD as CARD
from trainables.card import ENSEMBLE, MODEL, WEIGHTS, check_weights, write_card
from trainables.card import read_card as read_card
from trainables.data.manifest import Task
from trainables.data.pixels import PixelSpec
from trainables.files import as_new, folder_atomic
from trainables.model import Model, build_model


@dataclass(frozen=True)
class Trained:
    """A model ready for use, and what it was made for."""

    model: Model
    config: TrialConfig
    classes: tuple[str, ...]
    task: Task
    pixels: PixelSpec
    """How an image becomes its input."""


def save_model(folder: Path, trained: Trained, more: dict[str, Any]) -> None:
    """Writes the folder, whole or not at all.

    Args:
        more: what else `model.json` says: digests, intervals. Plain data without paths or names of patients.
    """
    config = trained.config
    mean, std = backbone(config.backbone).mean_std
    weights = config.weights if config.weights in ("pretrained", "random") else "file"
    with folder_atomic(folder) as temporary:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
        with as_new(temporary / WEIGHTS):
            save_file(state, temporary / WEIGHTS)
        with (temporary / WEIGHTS).open("rb") as file:
            weights_digest = hashlib.file_digest(file, "sha256").hexdigest()
        card = {
            "format": FORMAT,
            "kind": MODEL,
            "weights": weights_digest,
            "config": {**config.plain(), "weights": weights},
            "classes": list(trained.classes),
            "task": trained.task,
            "preprocessing": {
                "pixels": trained.pixels.plain(),
                "range": [0, 1],
                "grey": "replicated to three channels",
                "mean": list(mean),
                "std": list(std),
            },
            **more,
        }
        write_card(temporary, card)


def save_ensemble(folder: Path, members: Mapping[str, Path], more: dict[str, Any]) -> None:
    """Writes a folder of models whose probabilities are averaged, whole or not at all.

    Args:
        members: model folders by the name that each has within the ensemble; all for the same task and classes. Their
            files are linked where the file system can, and copied where it can't.
        more: as for `save_model`.
    """
    cards = {name: read_card(source) for name, source in members.items()}
    first = next(iter(cards.values()))
    with folder_atomic(folder) as temporary:
        for name, source in members.items():
            shutil.copytree(source, temporary / name, copy_function=_link_or_copy)
        card = {
            "format": FORMAT,
            "kind": ENSEMBLE,
            "members": {name: of_member["digest"] for name, of_member in cards.items()},
            **{key: first[key] for key in ("classes", "task", "preprocessing")},
            **more,
        }
        write_card(temporary, card)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)  # model folders are replaced, never written into: a link stays what it is
    except OSError:
        shutil.copy2(source, target)


def load_model(folder: Path) -> Trained:
    """A model that `save_model` wrote, verified against its digests; on the CPU, ready to predict.

    Raises:
        Mistake: no model there, or a damaged one, or one of another format.
    """
    card = read_card(folder)
    check_weights(folder, card)
    config = TrialConfig.model_validate(card["config"])
    generator = torch.get_rng_state()
    # The weights all come from the file; nothing is asked of a hub.
    model = build_model(config.model_copy(update={"weights": "random"}), len(card["classes"]), card["task"])
    torch.set_rng_state(generator)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    model.eval()
    pixels = PixelSpec.parse(card["preprocessing"]["pixels"], str(folder / CARD))
    return Trained(model, config, tuple(card["classes"]), card["task"], pixels)
