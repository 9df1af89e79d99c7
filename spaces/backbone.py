"""What is known of each backbone without loading it: a table, read from spaces/backbones/*.yaml."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field

from spaces.config import Resolution
from spaces.mistakes import Mistake, nearest
from spaces.strict import Strict, parse_yaml

NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # mean and standard deviation of each channel, of values in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


class BackboneSpec(Strict):
    """One backbone: a row of the table."""

    name: str
    family: str
    timm: str
    """Architecture, and tag of the weights after the dot, in timm's naming."""
    build: dict[str, Any] = {}
    """Arguments of the constructor that differ from the architecture's own."""
    blocks: int = Field(ge=1)
    """How many blocks there are to freeze or train."""
    width: int = Field(ge=1)
    """Channels of the pooled feature."""
    multiple_of: int = Field(ge=1)
    """Both sides of the input must be multiples of this, in pixels."""
    native: Resolution
    """Height and width that the weights were made for."""
    pooled: Literal["cls", "mean"]
    """The family's global feature: its normed CLS token, or the mean of its normed patch tokens."""
    normalisation: Literal["imagenet", "clip"]
    licence: str
    pretrained: bool = True
    """False for tiny models that exist with random weights only."""
    dimensions: dict[str, Any] = {}
    """Changes to the search space for this backbone alone."""

    @property
    def mean_std(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        return NORMALISATIONS[self.normalisation]


def piece(*path: str) -> dict[str, Any]:
    """A YAML file shipped under spaces/, as plain data."""
    file = resources.files("spaces").joinpath(*path)
    data = parse_yaml(file.read_text(encoding="utf-8"), "spaces/" + "/".join(path))
    return data or {}


def pieces(folder: str) -> tuple[str, ...]:
    """Names, without ending, of the YAML files shipped under spaces/<folder>."""
    names = (entry.name for entry in resources.files("spaces").joinpath(folder).iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


@cache
def table() -> dict[str, BackboneSpec]:
    """Every backbone by name."""
    rows: dict[str, BackboneSpec] = {}
    for family in pieces("backbones"):
        data = piece("backbones", f"{family}.yaml")
        for name, row in data["models"].items():
            settings = {**data.get("all", {}), **row, "name": name, "family": family}
            rows[name] = BackboneSpec.parse(settings, f"spaces/backbones/{family}.yaml: {name}")
    return rows


def backbone(name: str) -> BackboneSpec:
    """The row of one backbone.

    Raises:
        Mistake: there is none of that name.
    """
    try:
        return table()[name]
    except KeyError:
        raise Mistake(f'unknown backbone "{name}".{nearest(name, table())}') from None
