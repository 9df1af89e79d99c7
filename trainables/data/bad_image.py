"""What every decoder refuses, and how it says so."""

from __future__ import annotations

MAX_PIXELS = 100_000_000


class BadImage(Exception):
    """An image that can't be used. `reason` is a clause without the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def refuse_too_large(height: int, width: int) -> None:
    """
    Raises:
        BadImage: more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels are more than the {MAX_PIXELS // 1_000_000} million allowed")
