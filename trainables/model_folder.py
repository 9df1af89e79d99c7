"""A finished model on disk: `model.safetensors` with every weight, `model.json` with all that is needed to use it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from spaces.backbone import backbone
from spaces.config import FORMAT, TrialConfig
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.data.manifest import Task
from trainables.data.pixels import PixelSpec
from trainables.files import folder_atomic, write_json
from trainables.model import Model, build_model

WEIGHTS, CARD = "model.safetensors", "model.json"


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
        save_file(state, temporary / WEIGHTS)
        with (temporary / WEIGHTS).open("rb") as file:
            weights_digest = hashlib.file_digest(file, "sha256").hexdigest()
        card = {
            "format": FORMAT,
            "kind": "medtune model",
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
        write_json(temporary / CARD, {**card, "digest": digest(card)})


def read_card(folder: Path) -> dict[str, Any]:
    """What `model.json` says, verified against its digest, which is among it.

    Raises:
        Mistake: no model there, or a damaged one, or one of another format.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Mistake(f"{folder}: holds no {CARD}; give the model folder that medtune final wrote.") from None
    except ValueError:
        raise Mistake(f"{folder / CARD}: is no JSON; the model folder is damaged.") from None
    if not isinstance(card, dict) or card.get("kind") != "medtune model":
        raise Mistake(f"{folder / CARD}: isn't a medtune model's; give the model folder that medtune final wrote.")
    if card.get("format") != FORMAT:
        raise Mistake(
            f"{folder / CARD}: has format {card.get('format')}, this version reads {FORMAT}; run the final anew."
        )
    if card.get("digest") != digest({name: value for name, value in card.items() if name != "digest"}):
        raise Mistake(f"{folder / CARD}: doesn't have the digest it was written with; the model folder is damaged.")
    return card


def load_model(folder: Path) -> Trained:
    """A model that `save_model` wrote, verified against its digests; on the CPU, ready to predict.

    Raises:
        Mistake: no model there, or a damaged one, or one of another format.
    """
    card = read_card(folder)
    try:
        with (folder / WEIGHTS).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Mistake(f"{folder / WEIGHTS}: can't be read ({error.strerror}).") from None
    if found != card["weights"]:
        raise Mistake(f"{folder / WEIGHTS}: doesn't have the digest that {CARD} says; the model folder is damaged.")
    config = TrialConfig.model_validate(card["config"])
    generator = torch.get_rng_state()
    # The weights all come from the file; nothing is asked of a hub.
    model = build_model(config.model_copy(update={"weights": "random"}), len(card["classes"]), card["task"])
    torch.set_rng_state(generator)
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    model.eval()
    pixels = PixelSpec.parse(card["preprocessing"]["pixels"], str(folder / CARD))
    return Trained(model, config, tuple(card["classes"]), card["task"], pixels)
