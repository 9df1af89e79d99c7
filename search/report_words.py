"""A report's words: how its templates write numbers, names and sentences."""

from __future__ import annotations

import re
from typing import Any

SPELT = {"auroc": "AUROC", "f1": "F1", "brier": "Brier score", "ece": "calibration error"}


def value(number: float | None) -> str:
    return "not defined" if number is None else f"{number:.4f}"


def short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(short(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def hours(seconds: float) -> str:
    found = seconds / 3600
    return f"{found:.1f}" if found >= 10 else f"{found:.2g}"


def key(dimension: str) -> str:
    """`layer_decay (mae)` of `layer_decay@mae`."""
    name, _, scope = dimension.partition("@")
    return f"{name} ({scope})" if scope else name


def sentence(text: str) -> str:
    """Of a caveat: from its capital on, ending in a full stop. Without what looks like a path."""
    shown = re.sub(r"\S*[/\\]\S*", "...", text)
    return shown[:1].upper() + shown[1:].rstrip(".") + "."


def cell(text: object) -> str:
    """For a table or a heading in Markdown."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def words(name: str) -> str:
    """A metric's name for people."""
    return " ".join(SPELT.get(word, word) for word in name.split("_"))


def label(name: str, index: int) -> str:
    """A class's name, unless it looks like a path."""
    return f"class {index}" if "/" in name or "\\" in name else name
