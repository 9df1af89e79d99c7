"""Any other model of timm as a backbone: `timm/convnext_tiny.in12k`. Its row comes from timm's own description of it.

Such a model can't be cut before any block, only before its first and behind its last: with trained blocks its hidden
state is the image itself. Frozen blocks cost no memory for the backward pass all the same, but aren't computed once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from spaces.mistakes import Mistake, nearest
from trainables.backbones.protocol import Backbone, Features
from trainables.backbones.vit import State

UNMATCHED = "\0unmatched"
RESIZED = re.compile(r"(.*[._])?(pos_embed|relative_position_bias_table|rel_pos_[hw]|pos_embed_win)$")
"""Weights whose shape may depend on the input size."""


def row(name: str) -> dict[str, Any]:
    """A row of the table for a model of timm, without name and family.

    Args:
        name: architecture, and tag of the weights after the dot; without a tag timm's default one.

    Raises:
        Mistake: timm has no such model or weights, or it doesn't say in which order its parts come.
    """
    where = f'backbone "timm/{name}"'
    try:
        described = timm.get_pretrained_cfg(name)
    except RuntimeError:
        described = None
    architecture = name.partition(".")[0]
    if described is None or not timm.is_model(architecture):
        known = timm.list_pretrained(f"{architecture}.*") if timm.is_model(architecture) else timm.list_models()
        raise Mistake(f"{where}: timm {timm.__version__} has no such model or weights.{nearest(name, known)}")
    if not timm.is_model_pretrained(name):
        raise Mistake(f"{where}: timm has no weights of it; name another model.")
    native = described.input_size[1:]
    model = _created(name, native, 0.0, "meta")
    try:
        blocks = max(depths(model).values()) - 1
    except Mistake as mistake:
        raise Mistake(f"{where}: {mistake}") from None
    tokens, width = _widths(model, native)
    return {
        "timm": name,
        "blocks": blocks,
        "width": width,
        "token_width": tokens,
        "multiple_of": _step(model, native),
        "native": list(native),
        "pooled": "own",
        "normalisation": [list(described.mean), list(described.std)],
        "licence": described.license or "see its model card",
        "dimensions": {
            "resolution": {"choice": [native[0] if native[0] == native[1] else "x".join(map(str, native))]},
            "trained_blocks": {"choice": [*(count for count in (0, 2, 4) if count < blocks), "all"], "default": 0},
        },
    }


def depths(model: Any) -> dict[str, int]:
    """Depth of each parameter by timm's own order of parts: 0 the stem, then blocks, then what follows the last.

    Raises:
        Mistake: timm doesn't know an order.
    """
    if not hasattr(model, "group_matcher"):
        raise Mistake(f"timm doesn't say in which order the parts of {type(model).__name__} come; name another model.")
    # What no pattern matches (a last norm, mostly) is the last group: a name that surely matches none tells which.
    named = [*model.named_parameters(), (UNMATCHED, None)]
    groups = group_with_matcher(iter(named), model.group_matcher(coarse=False), reverse=True)
    numbers = sorted({groups[key] for key, _ in named[:-1]} - {groups[UNMATCHED]})
    place = {number: depth for depth, number in enumerate(numbers)}
    return {key: place.get(groups[key], len(numbers)) for key, _ in model.named_parameters()} | {
        UNMATCHED: len(numbers)
    }


class TimmBackbone(Backbone):
    """Its hidden state is the normalised image, or what timm's `forward_features` gives."""

    trunk: Any
    """A model of timm; what such models have in common has no type of its own."""

    def prefix(self, images: Tensor, boundary: int) -> Tensor:
        self._check(boundary)
        return images if boundary == 0 else self.trunk.forward_features(images)

    def suffix(self, hidden: Tensor, boundary: int) -> Features:
        self._check(boundary)
        x = self.trunk.forward_features(hidden) if boundary == 0 else hidden
        pooled = self.trunk.forward_head(x, pre_logits=True)
        prefix, tokens = _tokens(self.trunk, x)
        return Features(tokens, prefix, pooled)

    def _check(self, boundary: int) -> None:
        if boundary not in self.boundaries:
            first, last = self.boundaries
            raise ValueError(f"boundary: {self.spec.name} has boundaries {first} and {last}, found {boundary}")

    @property
    def boundaries(self) -> tuple[int, ...]:
        return (0, self.spec.blocks)

    @cached_property
    def _depths(self) -> dict[str, int]:
        found = {f"trunk.{name}": depth for name, depth in depths(self.trunk).items() if name != UNMATCHED}
        # A module or buffer has the depth of the parameters in and beside it; several make a container.
        within: dict[str, set[int]] = {}
        for name, depth in found.items():
            parts = name.split(".")
            for length in range(1, len(parts)):
                within.setdefault(".".join(parts[:length]), set()).add(depth)
        return found | {name: depth.pop() if len(depth) == 1 else 0 for name, depth in within.items()}

    def depth_of(self, name: str) -> int:
        while name not in self._depths:
            name = name.rpartition(".")[0]
            if not name:
                return 0
        return self._depths[name]

    def no_weight_decay(self) -> frozenset[str]:
        listed: Collection[str] = self.trunk.no_weight_decay() if hasattr(self.trunk, "no_weight_decay") else ()
        return frozenset(f"trunk.{name}" for name in listed)

    def linear_layers(self) -> tuple[str, ...]:
        """Those that are called in a pass: where a model reads a layer's weight itself, an adapter does nothing."""
        called: set[str] = set()
        names = super().linear_layers()
        hooks = [
            self.trunk.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
            for name in names
        ]
        with torch.no_grad(), _in_eval_mode(self):
            self(torch.zeros(1, 3, *self.resolution, device=next(self.parameters()).device))
        for hook in hooks:
            hook.remove()
        return tuple(name for name in names if name in called)

    def for_pooled_alone(self) -> frozenset[str]:
        """Found by asking which parameters have a gradient from the tokens: one pass with a single image."""
        named = dict(self.named_parameters())
        flags = [p.requires_grad for p in named.values()]
        self.requires_grad_(True)
        image = torch.zeros(1, 3, *self.resolution, device=next(iter(named.values())).device)
        with torch.enable_grad(), _in_eval_mode(self):
            total = self.trunk.forward_features(image).float().sum()
            gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        for parameter, flag in zip(named.values(), flags, strict=True):
            parameter.requires_grad_(flag)
        return frozenset(name for name, gradient in zip(named, gradients, strict=True) if gradient is None)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        super().set_grad_checkpointing(enable)
        self.trunk.set_grad_checkpointing(enable)


def trunk(spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
    """timm's model of a row, without a classifier.

    Raises:
        Mistake: it can't take the resolution.
    """
    assert spec.timm is not None
    return _created(spec.timm, resolution, drop_path, device, **spec.build)


def convert(state: State) -> State:
    """timm's layout, in which the hub has nearly all of them."""
    return state


def unused(spec: BackboneSpec) -> re.Pattern[str]:
    """The classifier, by the names that timm gives it."""
    described = timm.get_pretrained_cfg(spec.timm) if spec.timm else None
    names = described.classifier if described else None
    listed = (names,) if isinstance(names, str) else tuple(names or ())
    return re.compile("|".join(rf"{re.escape(name)}\." for name in listed) or r"$^")


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Positions at another resolution as timm resamples them."""
    target = trunk.state_dict()
    if all(tensor.shape == target[key].shape for key, tensor in state.items()):
        return state
    native = _created(str(spec.timm), spec.native, 0.0, "cpu", **spec.build)
    native.load_state_dict(state, strict=True)
    height, width = (int(side) for side in _input_size(trunk))
    native.set_input_size(img_size=(height, width))
    return native.state_dict()


def _input_size(model: Any) -> tuple[int, int]:
    return model.patch_embed.img_size


def _created(name: str, resolution: tuple[int, int], drop_path: float, device: str, **build: Any) -> Any:
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0, **build}
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    described: PretrainedCfg | None = timm.get_pretrained_cfg(name)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        try:
            return timm.create_model(name, img_size=resolution, **arguments)
        except TypeError:
            if described and described.fixed_input_size and resolution != described.input_size[1:]:
                only = "x".join(map(str, described.input_size[1:]))
                raise Mistake(f"resolution: timm/{name} takes {only} only, found {resolution}; write {only}.") from None
        try:
            return timm.create_model(name, **arguments)
        except TypeError:
            if not drop_path:
                raise
            raise Mistake(
                f"drop_path: timm/{name} has no stochastic depth; write drop_path@timm/{name}: 0.0."
            ) from None


def _widths(model: Any, resolution: tuple[int, int]) -> tuple[int, int]:
    """Channels of the tokens and of the pooled feature."""
    model.eval()
    with torch.no_grad():
        x = model.forward_features(torch.zeros(1, 3, *resolution, device="meta"))
        return _tokens(model, x)[1].shape[-1], model.forward_head(x, pre_logits=True).shape[-1]


def _tokens(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Prefix tokens [B, P, C] and patch tokens [B, N, C] of what `forward_features` gave."""
    if x.ndim == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        x = x.flatten(1, 2) if last else x.flatten(2).transpose(1, 2)
    prefix, tokens = x.tensor_split([getattr(model, "num_prefix_tokens", 0)], dim=1)
    return prefix, tokens


def _step(model: Any, native: tuple[int, int]) -> int:
    """What the sides of an input must be multiples of: the largest stride, where it divides the native sides."""
    info = getattr(model, "feature_info", None) or []
    strides = [int(stage["reduction"]) for stage in info if isinstance(stage, Mapping)]
    step = max(strides, default=32)
    return step if all(side % step == 0 for side in native) else 1


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Neither statistics nor dropout change while the block runs."""
    modes = [module.training for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
