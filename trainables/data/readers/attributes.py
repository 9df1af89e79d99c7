"""What tables say of a person, as the few words that results are broken down by."""

from __future__ import annotations

from itertools import pairwise

BANDS = (0, 20, 40, 60, 80)
OLDEST = 120
_SEXES = {"female": "female", "male": "male", "unknown": "", "": ""}


def age_band(cell: str) -> str | None:
    """A band of 20 years, as in "40-59"; "" for an empty cell; None where it's no age of 0 to 120 years."""
    if not cell:
        return ""
    try:
        age = float(cell)
    except ValueError:
        return None
    if not 0 <= age <= OLDEST:
        return None
    return next((f"{low}-{high - 1}" for low, high in pairwise(BANDS) if age < high), f"{BANDS[-1]}+")


def sex(cell: str) -> str | None:
    """female, male, or "" for unknown; None for any other word."""
    return _SEXES.get(cell.lower())
