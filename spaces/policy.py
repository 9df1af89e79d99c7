"""Augmentation policies: what may be done to an image of a modality, by level. A table in spaces/policies.yaml.

A search may lay ranges of its own over a policy (`dataset.augmentation`). What makes no sense for the modality is
refused with the reason, unless it is forced by name: `augmentation: {upright: false, force: [upright]}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field

from spaces.backbone import piece
from spaces.config import Resolution
from spaces.mistakes import Mistake, nearest
from spaces.strict import Strict

LEVELS = 3
FORCE, LIMITS = "force", "limits"
WHERE = "dataset.augmentation"
ELSEWHERE = {
    **dict.fromkeys(("vertical_flip", "flip_vertical", "vflip"), "upright: false, which flips top and bottom too"),
    **dict.fromkeys(("horizontal_flip", "flip_horizontal", "hflip"), "flip: true, which flips left and right"),
}
"""What ranges are called in other libraries, and how they are written here."""


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
    colour: float = Field(default=1, ge=0, le=1)
    """Share of the views in which brightness, contrast, saturation and hue change."""
    outside: Literal["black", "reflect"] = "black"
    """What stands where a rotation looks beyond the image."""

    @property
    def random(self) -> bool:
        """Whether anything is drawn, so that an image's views differ."""
        coloured = self.colour > 0 and max(self.brightness, self.contrast, self.saturation, self.hue) > 0
        return self.rotate > 0 or self.scale < 1 or self.flip or not self.upright or coloured

    def stored_at(self, resolution: Resolution, level: int) -> Resolution:
        """Height and width at which training images are kept for an input of a resolution, so that the strongest crop
        isn't enlarged. The same for every level above 0, so that those share a file of pixels."""
        if level == 0 or self.scale == 1:
            return resolution
        height, width = resolution
        return math.ceil(height / math.sqrt(self.scale)), math.ceil(width / math.sqrt(self.scale))

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


class Limit(Strict):
    """How far a range may go for a modality."""

    only: bool | None = None
    most: float | None = None
    least: float | None = None
    why: str

    def allows(self, value: Any) -> bool:
        if self.only is not None:
            return bool(value == self.only)
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    def expected(self) -> str:
        if self.only is not None:
            return str(self.only).lower()
        return f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"


@cache
def policies() -> dict[str, Policy]:
    """The shipped policies by name."""
    return {
        name: Policy.parse({k: v for k, v in data.items() if k != LIMITS}, f"spaces/policies.yaml: {name}")
        for name, data in piece("policies.yaml").items()
    }


@cache
def limits(name: str) -> dict[str, Limit]:
    """What may not be passed in a shipped policy, by the range's name."""
    of_policy = piece("policies.yaml")[name].get(LIMITS, {})
    return {field: Limit.parse(data, f"spaces/policies.yaml: {name}: {field}") for field, data in of_policy.items()}


def policy(name: str, changes: Mapping[str, Any] | None = None) -> Policy:
    """A policy by name, with a search's own ranges laid over it.

    Args:
        changes: fields of `Policy`; under `force`, the names of those that may pass the policy's limits.

    Raises:
        Mistake: there is no policy of that name, changes make no sense, or pass a limit that isn't forced.
    """
    if name not in policies():
        raise Mistake(f'unknown augmentation policy "{name}".{nearest(name, policies())}')
    if not changes:
        return policies()[name]
    own = {field: value for field, value in changes.items() if field != FORCE}
    forced = changes.get(FORCE, [])
    if not isinstance(forced, list | tuple) or not all(isinstance(field, str) for field in forced):
        raise Mistake(f"{WHERE}: {FORCE}: expected a list of names, found {forced!r}.")
    problems = [
        f'{WHERE}: {FORCE}: "{field}" isn\'t among the ranges that are changed.{nearest(field, own)}'
        for field in forced
        if field not in own
    ]
    for field in own.keys() & ELSEWHERE.keys():
        problems.append(f'{WHERE}: unknown key "{field}"; write {ELSEWHERE[field]}, or leave it out.')
        del own[field]
    try:
        changed = Policy.parse({**policies()[name].plain(), **own}, WHERE)
    except Mistake as mistake:
        raise Mistake(*problems, *mistake.sentences) from None
    for field, limit in limits(name).items():
        value = getattr(changed, field)
        if field in own and not limit.allows(value) and field not in forced:
            problems.append(
                f"{WHERE}: {field} is {str(value).lower()}, but {name} allows {limit.expected()}: {limit.why}. Leave "
                f"it out, or insist by name: force: [{field}]."
            )
    if problems:
        raise Mistake(*problems)
    return changed


def refuse_beyond(chosen: Policy, modality: str, changes: Mapping[str, Any]) -> None:
    """Refuses a policy that another modality's images were given, where it passes the limits of their own.

    Args:
        modality: the policy that the dataset's images are of.
        changes: as for `policy`.

    Raises:
        Mistake: each range beyond the limit, with the reason, unless it is forced by name.
    """
    problems = [
        f"{WHERE}: {field} would be {str(getattr(chosen, field)).lower()} by the policy that was chosen, but "
        f"{modality} allows {limit.expected()}: {limit.why}. Choose policy: {modality}, or insist by name: "
        f"augmentation: {{{field}: {str(getattr(chosen, field)).lower()}, force: [{field}]}}."
        for field, limit in limits(modality).items()
        if not limit.allows(getattr(chosen, field)) and field not in changes.get(FORCE, [])
    ]
    if problems:
        raise Mistake(*problems)
