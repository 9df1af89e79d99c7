"""A search's settings, as far as a report may show them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from search.disclosure import WITHHELD, public_backbone
from spaces.config import SearchConfig


def shown_settings(config: SearchConfig) -> dict[str, Any]:
    """A search's settings without this machine's folders and addresses, and the names of files and columns."""
    plain = config.plain()
    plain.pop("storage")
    plain.pop("cache")
    plain["dataset"] |= {"root": WITHHELD, "options": _withheld(plain["dataset"]["options"])}
    weights = (
        plain["weights"] if isinstance(plain["weights"], dict) else dict.fromkeys(config.backbones, plain["weights"])
    )
    plain["weights"] = {name: own if own in ("pretrained", "random") else "a file" for name, own in weights.items()}
    plain["checkpoints"] = "an object store" if plain["checkpoints"] else "the search's folder"
    plain["study"] = "a database" if plain["study"] else "a journal in the search's folder"
    plain["mlflow"] = plain["mlflow"] if plain["mlflow"] in ("local", "off") else "a tracking server"
    return _without_paths(plain, {name for name in config.backbones if public_backbone(name) == name})


def _without_paths(data: Any, kept: Collection[str]) -> Any:
    """Settings with what looks like a path cut down to its end, but for the names that are `kept`."""
    if isinstance(data, dict):
        return {key: _without_paths(value, kept) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_paths(value, kept) for value in data]
    if isinstance(data, str) and data in kept:
        return data
    if isinstance(data, str) and "://" in data:
        return "an address"
    if isinstance(data, str) and ("/" in data or "\\" in data):
        return ".../" + data.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return data


def _withheld(options: dict[str, Any]) -> dict[str, Any]:
    """A reader's options with what only switches something; words may be names of files, columns or people."""
    return {key: value if isinstance(value, bool | int | float) else WITHHELD for key, value in options.items()}
