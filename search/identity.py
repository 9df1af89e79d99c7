"""What a search is: digests of everything that may not change while it is continued."""

from __future__ import annotations

import hashlib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from search.cluster import sources_digest
from search.plan import Plan
from spaces.config import FORMAT, SearchConfig
from spaces.mistakes import Mistake

PACKAGES = ("medtune", "torch", "timm", "ray", "optuna", "numpy", "scikit-learn")
# The data are held by their digest wherever they lie, the record by being opened wherever it is.
MAY_CHANGE = {
    "budget.trials",
    "budget.hours",
    "resources",
    "mlflow",
    "cache",
    "activations",
    "storage",
    "study",
    "dataset.root",
}


def identity(plan: Plan) -> dict[str, Any]:
    """Of a new search, as plain data for its record."""
    config = plan.config
    return {
        "format": FORMAT,
        "id": uuid.uuid4().hex,  # two searches of one name stay two, in MLflow too
        "settings": meaning(config),
        "metric": config.metric,
        "direction": plan.direction,
        "data": plan.prepared.data_digest,
        "split": plan.prepared.split_digest,
        "test": plan.prepared.test_digest,
        "counts": counts(plan),
        "weights": {name: weights_identity(config, name) for name in config.backbones},
        "code": code_digest(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "first": plan.first,
    }


def counts(plan: Plan) -> dict[str, dict[str, int]]:
    """Images by class of each part."""
    prepared = plan.prepared
    return {
        "train": prepared.manifest.take(prepared.train).class_counts(),
        "validation": prepared.manifest.take(prepared.validation).class_counts(),
        "test": prepared.test_counts,
    }


def meaning(config: SearchConfig) -> dict[str, Any]:
    """The settings that may not change while a search is continued, by their dotted names."""
    flat = _flatten(config.plain())
    return {k: v for k, v in flat.items() if k not in MAY_CHANGE and k.split(".")[0] not in MAY_CHANGE}


def refuse_changes(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a person should know before going on: other code, other versions.

    Raises:
        Mistake: what the search means has changed since it was started, with each difference.
    """
    before, after = recorded["settings"], now["settings"]
    differences = [
        f"{key}: was {before.get(key)!r}, is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    words = {"format": "the format of the record", "data": "the data", "split": "the split", "weights": "the weights"}
    differences += [f"{name} changed" for key, name in words.items() if recorded[key] != now[key]]
    if differences:
        raise Mistake(
            *(
                f"resume: {difference}; a continued search may not change it. Undo it, or search under another name."
                for difference in differences
            )
        )
    notices = [
        f"{package} is {now['versions'][package]}, the search was started with {version}: values may differ."
        for package, version in recorded["versions"].items()
        if now["versions"].get(package) != version
    ]
    if recorded["code"] != now["code"]:
        notices.append("The code has changed since the search was started: values may differ.")
    return notices


def weights_identity(config: SearchConfig, name: str) -> str:
    """`pretrained`, `random`, or the digest of the official file."""
    weights = config.weights if isinstance(config.weights, str) else config.weights.get(name, "pretrained")
    if weights in ("pretrained", "random"):
        return weights
    with Path(weights).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def code_digest() -> str:
    """Of the sources that decide what a trial computes: spaces and trainables."""
    return sources_digest(("spaces", "trainables"))


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
