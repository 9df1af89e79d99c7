"""Backbones of all families behind one protocol: `build` makes one, with weights that are known for certain."""

from __future__ import annotations

from pathlib import Path

import torch

from spaces.backbone import BackboneSpec, backbone
from spaces.mistakes import Mistake
from trainables.backbones.families import FAMILIES
from trainables.backbones.protocol import Backbone, Features
from trainables.backbones.weights import fitted, pretrained_file, random_state, read_file, weights_digest

__all__ = ["Backbone", "Features", "build", "weights_digest"]


def build(
    which: BackboneSpec | str, *, weights: str | Path, resolution: tuple[int, int], drop_path: float = 0.0
) -> Backbone:
    """A backbone on the CPU in fp32, nothing of it frozen. The caller's random state isn't touched.

    Args:
        which: a row of the table, or its name.
        weights: `pretrained` (from the hub or its cache), `random` (the same for every backbone of this name), or the
            path of an official file.
        resolution: height and width of the input in pixels.
        drop_path: rate of stochastic depth in the last block, in [0, 1); it falls linearly to 0 at the first.

    Raises:
        Mistake: unknown backbone, a resolution that it can't take, or weights that aren't there or don't fit.
    """
    spec = backbone(which) if isinstance(which, str) else which
    check_resolution(spec, resolution)
    family = FAMILIES[spec.family]
    # On the meta device weights are neither allocated nor initialised only to be overwritten.
    with torch.random.fork_rng(devices=[]):
        trunk = family.trunk(spec, resolution, drop_path, "meta" if family.meta else "cpu")
    if weights == "random":
        state = family.resize(random_state(spec, family), spec, trunk, f"weights of {spec.name}")
    else:
        path = pretrained_file(spec) if weights == "pretrained" else Path(weights)
        where = f"weights of {spec.name}: {path}"
        state = fitted(read_file(path, where), spec, family, trunk, where)
    trunk.load_state_dict(state, strict=True, assign=True)
    return family.backbone(spec, trunk, resolution)


def check_resolution(spec: BackboneSpec, resolution: tuple[int, int]) -> None:
    """Raises a Mistake where a backbone can't take inputs of this height and width in pixels."""
    step = spec.multiple_of
    if any(side <= 0 or side % step for side in resolution):
        near = "x".join(str(max(step, round(side / step) * step)) for side in resolution)
        found = "x".join(map(str, resolution))
        raise Mistake(f"resolution: {spec.name} needs sides that are multiples of {step}, found {found}; write {near}.")
