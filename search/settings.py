"""A search's settings from its file and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml, read_yaml
from spaces.words import written


def load(path: Path, changes: Sequence[str] = ()) -> SearchConfig:
    """Settings of a file, with changes like `budget.trials=100`, whose values are read as YAML.

    Raises:
        Mistake: what is wrong in the file or in a change.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise Mistake(f"{path}: expected keys and values, found {found}.")
    changed = dict(_apply(data, change) for change in changes)
    return SearchConfig.parse(data, str(path), changed)


def _apply(data: dict[str, Any], change: str) -> tuple[str, str]:
    """The dotted key below which everything now comes from the command line, and the option as it was typed."""
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise Mistake(f'--set {change}: expected a key and a value, like "budget.trials=100".')
    *parents, last = key.split(".")
    own = 0  # of the key's parts, those down to the first that the file didn't have
    for depth, parent in enumerate(parents, 1):
        if data.get(parent) is None:  # an empty "space:" too
            own, data[parent] = own or depth, {}
        data = data[parent]
        if not isinstance(data, dict):
            above = ".".join(parents[:depth])
            raise Mistake(
                f'--set {change}: expected "{above}" to hold keys, found {written(data)}; correct the key, or give all '
                f"of it by --set {above}=..."
            )
    data[last] = parse_yaml(text, f"--set {key}")
    return ".".join(key.split(".")[: own or None]), f"--set {key}"
