"""What is known of each backbone without loading it: a table, read from spaces/backbones/*.yaml.

A family's file lists its models, or says with `rows:` which function makes a row of any name that begins with the
family's (`timm/convnext_tiny.in12k`). Data names that function, and it is loaded when such a name is first asked for:
what lies here needs neither torch nor the code behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pkgutil import resolve_name
from typing import Any, Literal

from pydantic import Field

from spaces.config import Resolution
from spaces.feature import Feature, parse_feature
from spaces.mistakes import Mistake, nearest
from spaces.strict import Strict, parse_yaml

Channels = tuple[float, float, float]
NORMALISATIONS: dict[str, tuple[Channels, Channels]] = {
    # mean and standard deviation of each channel, of values in [0, 1]
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
NOT_COMPUTING = {"source", "licence", "pretrained", "dimensions"}


class Source(Strict):
    """Where a backbone's authors publish its weights, if not where timm finds them."""

    address: str
    """Of the official file, for people to download by hand."""
    repository: str | None = None
    """On the Hugging Face hub."""
    file: str
    """Name of the file, in the repository where there is one."""


class BackboneSpec(Strict):
    """One backbone: a row of the table."""

    name: str
    family: str
    timm: str | None = None
    """Architecture, and tag of the weights after the dot, in timm's naming; None where the family's code is ours."""
    build: dict[str, Any] = {}
    """Arguments of the constructor that differ from the architecture's own."""
    source: Source | None = None
    """Where its weights are; timm's own by default."""
    blocks: int = Field(ge=1)
    """How many blocks there are to freeze or train."""
    width: int = Field(ge=1)
    """Channels of the pooled feature."""
    token_width: int | None = Field(default=None, ge=1)
    """Channels of the tokens, where they aren't those of the pooled feature."""
    multiple_of: int = Field(ge=1)
    """Both sides of the input must be multiples of this, in pixels."""
    native: Resolution
    """Height and width that the weights were made for."""
    pooled: Literal["cls", "mean", "own"]
    """The family's global feature: its normed CLS token, the mean of its normed patch tokens, or what its own pooler
    makes."""
    cls_of_blocks: bool = False
    """Whether a CLS token goes through all blocks and the last norm, so that features can be made of it."""
    trunk_width: int | None = Field(default=None, ge=1)
    """Channels before the neck, where there is one."""
    normalisation: Literal["imagenet", "clip"] | tuple[Channels, Channels]
    """By name, or mean and standard deviation of each channel."""
    licence: str
    pretrained: bool = True
    """False for tiny models that exist with random weights only."""
    dimensions: dict[str, Any] = {}
    """Changes to the search space for this backbone alone."""

    def feature(self, name: str) -> Feature:
        """One of its features by name.

        Raises:
            ValueError: it has none of that name.
        """
        feature = parse_feature(name)
        if feature.blocks and not self.cls_of_blocks:
            raise ValueError(f"{self.name} has no CLS token in its blocks, found {name}; write pooled")
        if feature.trunk and self.trunk_width is None:
            raise ValueError(f"{self.name} has no neck, found {name}; write pooled")
        if feature.blocks > self.blocks:
            raise ValueError(f"{self.name} has {self.blocks} blocks, found {name}")
        return feature

    def feature_width(self, name: str) -> int:
        """Channels of a feature.

        Raises:
            ValueError: it has none of that name.
        """
        feature = self.feature(name)
        return self.trunk_width or 0 if feature.trunk else self.width * max(feature.blocks + feature.mean, 1)

    @property
    def mean_std(self) -> tuple[Channels, Channels]:
        return NORMALISATIONS[self.normalisation] if isinstance(self.normalisation, str) else self.normalisation

    @property
    def computing(self) -> dict[str, Any]:
        """All of the row that decides what the network computes, as plain data; not where its weights come from, whose
        they are, nor what is searched."""
        row = self.model_dump(mode="json", exclude=NOT_COMPUTING)
        return row | {"normalisation": [list(values) for values in self.mean_std]}

    @property
    def terms(self) -> str:
        """What the licence of its weights asks for that isn't usual: `no commercial use`; empty where nothing is."""
        return str(piece("licences.yaml").get(self.licence.lower(), ""))

    @property
    def licence_text(self) -> str:
        """`CC-BY-NC-4.0 (no commercial use)`."""
        return f"{self.licence} ({self.terms})" if self.terms else self.licence


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
    """Every listed backbone by name."""
    rows: dict[str, BackboneSpec] = {}
    for family in pieces("backbones"):
        data = piece("backbones", f"{family}.yaml")
        for name, row in data.get("models", {}).items():
            settings = {**data.get("all", {}), **row, "name": name, "family": family}
            rows[name] = BackboneSpec.parse(settings, f"spaces/backbones/{family}.yaml: {name}")
    return rows


@cache
def backbone(name: str) -> BackboneSpec:
    """The row of one backbone.

    Raises:
        Mistake: there is none of that name.
    """
    if name in table():
        return table()[name]
    family = name.partition("/")[0]
    if "/" in name and family in pieces("backbones"):
        data = piece("backbones", f"{family}.yaml")
        if "rows" in data:
            row = resolve_name(data["rows"])(name.partition("/")[2])
            settings = {**data.get("all", {}), **row, "name": name, "family": family}
            return BackboneSpec.parse(settings, f"backbone {name}")
    raise Mistake(f'unknown backbone "{name}".{nearest(name, table())}')


def licences_text(names: Iterable[str]) -> str:
    """`dinov2_base Apache-2.0, mae_base CC-BY-NC-4.0 (no commercial use)`."""
    return ", ".join(f"{name} {backbone(name).licence_text}" for name in names)


def is_family_or_backbone(name: str) -> bool:
    """Whether a dimension may be for this alone."""
    if name in pieces("backbones") or name in table():
        return True
    try:
        return "/" in name and bool(backbone(name))
    except Mistake:
        return False
