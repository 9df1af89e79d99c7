"""`model.json`: what a model folder says of itself. Reading it needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal

from spaces.config import FORMAT
from spaces.mistakes import Mistake
from spaces.strict import digest
from trainables.files import write_json

CARD, README, WEIGHTS = "model.json", "README.md", "model.safetensors"
MODEL, ENSEMBLE = "medtune model", "medtune ensemble"
"""Kinds: one model with its weights, or several folders of such whose probabilities are averaged."""


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes plain data with a digest of it."""
    write_json(folder / CARD, {**card, "digest": digest(card)})


def read_card(folder: Path, kinds: tuple[str, ...] = (MODEL,)) -> dict[str, Any]:
    """What `model.json` says, verified against its digest, which is among it.

    Raises:
        Mistake: no model of these kinds there, or a damaged one, or one of another format.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Mistake(f"{folder}: holds no {CARD}; give the model folder that medtune final wrote.") from None
    except ValueError:
        raise Mistake(
            f"{folder / CARD}: is no JSON: the model folder is damaged; take a copy of it, or run the final anew."
        ) from None
    if not isinstance(card, dict) or card.get("kind") not in (MODEL, ENSEMBLE):
        raise Mistake(f"{folder / CARD}: isn't a medtune model's; give the model folder that medtune final wrote.")
    if card["kind"] not in kinds:
        raise Mistake(f"{folder / CARD}: is of an ensemble, expected a single model; give one of those that are in it.")
    if card.get("format") != FORMAT:
        raise Mistake(
            f"{folder / CARD}: has format {card.get('format')}, this version reads {FORMAT}; run the final anew."
        )
    if card.get("digest") != digest({name: value for name, value in card.items() if name != "digest"}):
        raise Mistake(
            f"{folder / CARD}: has another digest than it was written with; take a copy of it, or run the final anew."
        )
    return card


def check_weights(folder: Path, card: dict[str, Any]) -> None:
    """That a model's file of weights is the one that its card was written with.

    Raises:
        Mistake: it isn't, or can't be read.
    """
    try:
        with (folder / WEIGHTS).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Mistake(f"{folder / WEIGHTS}: can't be read ({error.strerror}); give this user the right to.") from None
    if found != card["weights"]:
        raise Mistake(
            f"{folder / WEIGHTS}: doesn't have the digest that {CARD} says; take a copy of it, or run the final anew."
        )


def thresholds(card: dict[str, Any]) -> dict[str, float]:
    """By class or finding, as far as the final could fix them: from this probability up it counts as positive.
    Infinite, which JSON can't say, where nothing reaches the target."""
    fixed = {p["name"]: p["threshold"] for p in card.get("operating_points") or [] if "threshold" in p}
    return {name: math.inf if threshold is None else threshold for name, threshold in fixed.items()}


def answer_columns(card: dict[str, Any]) -> dict[str, Literal["string", "double", "long"]]:
    """Columns of what a model answers, and their types: `predicted`; `p_CLASS` of each class; `calibrated_CLASS` where
    there is a temperature; `positive_CLASS` (1 or 0) of each one that has a threshold."""
    columns: dict[str, Literal["string", "double", "long"]] = {"predicted": "string"}
    columns |= {f"p_{name}": "double" for name in card["classes"]}
    if card.get("temperature") is not None:
        columns |= {f"calibrated_{name}": "double" for name in card["classes"]}
    return columns | {f"positive_{name}": "long" for name in card["classes"] if name in thresholds(card)}
