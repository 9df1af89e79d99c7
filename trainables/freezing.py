"""How much of a backbone is trained, and with which learning rate and weight decay each part of it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from spaces.mistakes import Mistake
from trainables.backbones import Backbone

if TYPE_CHECKING:
    from trainables.model import Model


def freeze(backbone: Backbone, trained_blocks: int | Literal["all"]) -> int:
    """Leaves only the last blocks of a backbone to be trained.

    Args:
        trained_blocks: 0 freezes all, the last norm too; k trains the last k blocks and what follows them; `all` trains
            everything, the stem included.

    Returns:
        The boundary: how many blocks come before the first trained one.

    Raises:
        Mistake: more blocks than there are.
    """
    blocks = backbone.spec.blocks
    if trained_blocks == "all":
        backbone.freeze_below(0)
    elif trained_blocks == 0:
        backbone.freeze_below(blocks + 2)
    elif 0 < trained_blocks <= blocks:
        backbone.freeze_below(blocks + 1 - trained_blocks)
    else:
        name = backbone.spec.name
        raise Mistake(
            f"trained_blocks: {name} has {blocks} blocks, found {trained_blocks}; write all to train everything."
        )
    return backbone.boundary


def parameter_groups(
    model: Model,
    *,
    head_lr: float,
    backbone_lr_ratio: float,
    layer_decay: float,
    weight_decay: float,
    head_weight_decay: float,
) -> list[dict[str, Any]]:
    """Groups for torch's optimisers, each with its final `lr`, its `weight_decay` and a `name`.

    The learning rate at a depth is head_lr * backbone_lr_ratio * layer_decay ** (blocks + 1 - depth) (Clark et al.
    2020; Bao et al. 2021). Norms, biases, layer scales and the CLS, register and position tokens take no weight decay.
    Only parameters that need a gradient are in a group, each in exactly one; groups go from the stem to the head.
    """
    backbone = model.backbone
    blocks = backbone.spec.blocks
    exempt = backbone.no_weight_decay()
    groups: dict[str, dict[str, Any]] = {}

    def place(part: str, parameter: nn.Parameter, lr: float, decay: float, exempted: bool) -> None:
        if parameter.requires_grad:
            name = f"{part}, no decay" if exempted else part
            group = groups.setdefault(
                name, {"params": [], "lr": lr, "weight_decay": 0.0 if exempted else decay, "name": name}
            )
            group["params"].append(parameter)

    parameters = [(backbone.depth_of(name), name, parameter) for name, parameter in backbone.named_parameters()]
    for depth, name, parameter in sorted(parameters, key=lambda entry: entry[0]):
        part = "stem" if depth == 0 else f"block {depth}" if depth <= blocks else "last norm"
        lr = head_lr * backbone_lr_ratio * layer_decay ** (blocks + 1 - depth)
        place(part, parameter, lr, weight_decay, parameter.ndim <= 1 or name in exempt)
    for _, parameter in model.head.named_parameters():
        place("head", parameter, head_lr, head_weight_decay, parameter.ndim <= 1)
    return list(groups.values())
