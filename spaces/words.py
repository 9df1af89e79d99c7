"""Settings and counts as a sentence has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def counted(count: int, one: str, several: str = "") -> str:
    """`1 trial`, `3 trials`."""
    return f"{count} {one if count == 1 else several or one + 's'}"


def written(value: Any) -> str:
    """A value of the settings as a person writes it in YAML, on one line: `{float: [1e-05, 0.1], log: true}`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value)
