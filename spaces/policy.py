"""Augmentation policies: what may be done to an image of a modality, by level. A table in spaces/policies.yaml."""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field

from spaces.backbone import piece
from spaces.mistakes import Mistake, nearest
from spaces.strict import Strict

LEVELS = 3


class Policy(Strict):
    """Ranges at the highest level. All of them at zero is no augmentation."""

    rotate: float = Field(default=0, ge=0, le=180)
    """Degrees either way."""
    scale: float = Field(default=1, gt=0, le=1)
    """Smallest share of the image's area that a crop keeps."""
    flip: bool = False
    """Left-right, with probability 1/2 at any level above 0."""
    upright: bool = True
    """False: top-bottom flips too, with probability 1/2 at any level above 0."""
    brightness: float = Field(default=0, ge=0, lt=1)
    contrast: float = Field(default=0, ge=0, lt=1)
    saturation: float = Field(default=0, ge=0, lt=1)
    """Factors are drawn from 1 - x to 1 + x."""
    hue: float = Field(default=0, ge=0, le=0.5)
    """Share of the colour circle either way."""
    outside: Literal["black", "reflect"] = "black"
    """What stands where a rotation looks beyond the image."""

    def at(self, level: int) -> Policy:
        """The policy at a level: a third of the ranges for each."""
        share = level / LEVELS
        return self.model_copy(
            update={
                **{
                    name: getattr(self, name) * share
                    for name in ("rotate", "brightness", "contrast", "saturation", "hue")
                },
                "scale": 1 - (1 - self.scale) * share,
                "flip": self.flip and level > 0,
                "upright": self.upright or level == 0,
            }
        )


@cache
def policies() -> dict[str, Policy]:
    return {name: Policy.parse(data, f"spaces/policies.yaml: {name}") for name, data in piece("policies.yaml").items()}


def policy(name: str) -> Policy:
    """A policy by name.

    Raises:
        Mistake: there is none of that name.
    """
    try:
        return policies()[name]
    except KeyError:
        raise Mistake(f'unknown augmentation policy "{name}".{nearest(name, policies())}') from None
