"""What a search is: digests of everything that may not change while it is continued."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.suitable import labels_from
from spaces.config import FORMAT, SearchConfig
from spaces.mistakes import Mistake
from spaces.sources import DECODERS, sources, sources_digest
from spaces.words import written

if TYPE_CHECKING:
    from search.plan import Plan

PACKAGES = ("medtune", "torch", "timm", "ray", "optuna", "numpy", "scikit-learn", *DECODERS)
CODE = ("spaces", "trainables")  # packages that decide what a trial computes
SHOWN = 10  # differences of a kind
# The data are held by their digest wherever they lie, the record by being opened wherever it is.
MAY_CHANGE = {
    "budget.trials",
    "budget.hours",
    "budget.device_hours",
    "budget.plateau",
    "tags",
    "resources",
    "mlflow",
    "cache",
    "checkpoints",
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
        "test_contents": plan.prepared.test_contents,
        "counts": counts(plan),
        "labels_from": {
            name: labels_from(plan.prepared.manifest.take(rows))
            for name, rows in (("train", plan.prepared.train), ("validation", plan.prepared.validation))
        },
        "weights": {name: weights_identity(config, name) for name in config.backbones},
        "code": code_digest(),
        "files": code_files(),
        "versions": versions(),
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
    flat = flatten(config.plain())
    return {k: v for k, v in flat.items() if k not in MAY_CHANGE and k.split(".")[0] not in MAY_CHANGE}


def refuse_changes(
    recorded: dict[str, Any],
    now: dict[str, Any],
    accepted: Collection[str] = (),
    *,
    accept_code: bool = False,
    command: str = "resume",
) -> list[str]:
    """What a person should know before going on: accepted changes of the code, other versions.

    Args:
        recorded: the identity that the search was started with.
        now: the identity that it would be started with now.
        accepted: digests of other code that was accepted before.
        accept_code: whether the code as it is now is accepted.
        command: what the person typed, which begins every sentence.

    Raises:
        Mistake: what the search means has changed since it was started, with each difference.
    """
    code = code_differences(recorded, now)
    allowed = accept_code or now["code"] in accepted
    differences = [
        *settings_differences(_with_new(recorded["settings"], now["settings"]), now["settings"]),
        *_digests_differences(recorded, now),
    ]
    sentences = [
        f"{command}: {difference}; a continued search may not change it. Undo it, or search under another name."
        for difference in differences
    ]
    if code and not allowed:
        sentences.append(
            f"{command}: the code of trials has changed ({code}), so that new trials may not be comparable with "
            "earlier ones. Take the code that the search was started with, or, where the change can't alter a result, "
            f"go on with {'' if command == 'resume' else 'medtune resume NAME '}--accept-code-change."
        )
    if sentences:
        raise Mistake(*sentences)
    notices = other_versions(recorded["versions"], now["versions"])
    if code:
        notices.append(f"The code of trials has changed since the search was started, which was accepted: {code}.")
    return notices


def _with_new(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The settings before, with those that came with other code since and have their defaults."""
    anything = {"name": "a", "dataset": {"reader": "folder", "root": "a"}, "backbones": ["a"]}
    defaults = flatten(SearchConfig.parse(anything, "defaults").plain())
    absent = object()
    return {k: v for k, v in after.items() if defaults.get(k, absent) == v} | before


def versions() -> dict[str, str]:
    """Of the packages that decide a value, as they are here."""
    return {package: metadata.version(package) for package in PACKAGES}


def other_versions(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A sentence for each package that isn't as it was when the search was started."""
    return [
        f"{package} is {now[package]}, the search was started with {version}: values may differ; install that one for "
        "the same."
        for package, version in recorded.items()
        if now.get(package, version) != version
    ]


def settings_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two searches' meanings, one setting each."""
    return [
        f"{key}: was {written(before.get(key))}, is {written(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _digests_differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs besides the settings."""
    found = []
    if recorded["format"] != now["format"]:
        found.append(f"the record's format: was {recorded['format']}, is {now['format']}")
    for name, weights in recorded["weights"].items():
        is_now = now["weights"].get(name, weights)  # another list of backbones is told as a setting
        if is_now != weights:
            found.append(f"the weights of {name}: were {_short(weights)}, are {_short(is_now)}")
    parts = [
        f"{part} had {had} images of class {label}, has {has}"
        for part, counts in recorded["counts"].items()
        for label in sorted(counts.keys() | now["counts"][part].keys())
        if (had := counts.get(label, 0)) != (has := now["counts"][part].get(label, 0))
    ]
    shown = f" ({'; '.join(parts[:SHOWN])}{f'; and {len(parts) - SHOWN} more' if len(parts) > SHOWN else ''})"
    for key, what in (("data", "the data (images, labels or groups)"), ("split", "the split")):
        if recorded[key] != now[key]:
            digests = f"were {_short(recorded[key])}, are {_short(now[key])}"
            found.append(f"{what}: {digests}{shown if parts else ', with as many images of each class'}")
    return found


def _short(digest: str) -> str:
    """Of a digest, enough to tell it from others."""
    kind, separator, value = digest.rpartition(":")
    return f"{kind}{separator}{value[:12]}"


def code_differences(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """Files of the code of trials that differ; empty where none does."""
    if recorded["code"] == now["code"]:
        return ""
    before, after = recorded.get("files", {}), now["files"]
    files = [
        f"{name} is {'new' if name not in before else 'gone' if name not in after else 'other'}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if not before or not files:
        return f"digest {_short(recorded['code'])} before, {_short(now['code'])} now"
    return ", ".join(files[:SHOWN]) + (f" and {len(files) - SHOWN} more files" if len(files) > SHOWN else "")


def weights_identity(config: SearchConfig, name: str) -> str:
    """`pretrained`, `random`, or the digest of the official file."""
    weights = config.weights if isinstance(config.weights, str) else config.weights.get(name, "pretrained")
    if weights in ("pretrained", "random"):
        return weights
    with Path(weights).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def code_digest() -> str:
    """Of the sources that decide what a trial computes."""
    return sources_digest(CODE)


def code_files() -> dict[str, str]:
    """Of each of these sources, by its place in the project, enough of its SHA-256 to say which one has changed."""
    found = {}
    for package in CODE:
        root, files = sources(package)
        for file in files:
            found[f"{package}/{file.relative_to(root)}"] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return found


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
