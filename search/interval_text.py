"""An interval in words, for terminals, model cards and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNRELIABLE = "interval unreliable"  # begins the warning of trainables.resampling that there are too few groups


def interval_text(interval: dict[str, Any]) -> str:
    """`0.9352 [0.9100, 0.9550]`, or why there is no interval."""
    if interval["value"] is None:
        return f"not defined ({'; '.join(interval['warnings'])})"
    if interval["low"] is None:
        return f"{interval['value']:.4f}, no interval ({'; '.join(interval['warnings'])})"
    text = f"{interval['value']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"
    return f"{text} ({'; '.join(interval['warnings'])})" if interval["warnings"] else text


def unreliable(interval: Mapping[str, Any]) -> bool:
    """Whether it rests on too few groups to be trusted."""
    return any(str(note).startswith(UNRELIABLE) for note in interval["warnings"])
