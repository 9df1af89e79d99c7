"""A search's settings from its file and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml, read_yaml


def load(path: Path, changes: Sequence[str] = ()) -> SearchConfig:
    """Settings of a file, with changes like `budget.trials=100`, whose values are read as YAML.

    Raises:
        Mistake: what is wrong in the file or in a change.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise Mistake(f"{path}: expected keys and values, found {found}.")
    for change in changes:
        _apply(data, change)
    return SearchConfig.parse(data, str(path))


def _apply(data: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise Mistake(f'--set {change}: expected a key and a value, like "budget.trials=100".')
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise Mistake(f'--set {change}: "{parent}" holds a value, not further keys.')
    data[last] = parse_yaml(text, f"--set {key}")
