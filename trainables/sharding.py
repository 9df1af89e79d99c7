"""A model that one accelerator can't train: the weights, gradients and moments of its blocks are shared out among the
workers of a trial (FSDP2: Zhao et al. 2023). A block's weights are together only while it computes.

What isn't in a block (stem, last norm, head) is small and stays whole in every worker. Tensors of blocks are then
DTensors; the functions here take both kinds, so that checkpoints and averages needn't know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainables.place import Place

if TYPE_CHECKING:
    from trainables.backbones import Backbone


def shard(backbone: Backbone, place: Place) -> None:
    """Shares out the blocks of a backbone that is still on the CPU, alike in every worker. The rest stays there."""
    from torch.distributed.device_mesh import init_device_mesh  # these two take seconds
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(place.device.type, (place.world,))
    for block in list(blocks(backbone)):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)


def blocks(backbone: Backbone) -> Iterator[nn.Module]:
    """The largest modules that belong to one block each, are called as such, and have parameters."""
    taken: list[str] = []
    for name, module in backbone.named_modules():
        if not name or any(name.startswith(f"{above}.") for above in taken):
            continue
        if isinstance(module, nn.ModuleList | nn.ModuleDict) or not any(True for _ in module.parameters()):
            continue
        if 1 <= backbone.depth_of(name) <= backbone.spec.blocks:
            taken.append(name)
            yield module


def sharded(model: nn.Module) -> bool:
    """Whether some of a model is shared out."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, place: Place) -> None:
    """Makes the gradients of what every worker holds whole the mean over workers, as those of blocks are by now; then
    `torch.nn.utils.clip_grad_norm_` over all of them together."""
    parts, wholes = [], []
    for parameter in parameters:
        if isinstance(parameter.grad, DTensor):
            parts.append(parameter.grad.to_local())
        elif parameter.grad is not None:
            place.sum(parameter.grad).div_(place.world)
            wholes.append(parameter.grad)
    squares = torch.zeros((), device=place.device)
    for gradient in parts:
        squares += gradient.square().sum()
    place.sum(squares)
    for gradient in wholes:
        squares += gradient.square().sum()
    share = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in (*parts, *wholes):
        gradient.mul_(share)


def alike(model: nn.Module) -> None:
    """Gives every worker the first one's buffers, such as means over batches, as DDP does."""
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def own(tensor: Tensor) -> Tensor:
    """What this worker holds of a tensor: the same memory."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This worker's part of a whole tensor that is to be held like another one."""
    if not isinstance(like, DTensor):
        return whole
    parts, rank = whole.chunk(like.device_mesh.size()), like.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole.new_empty((0, *whole.shape[1:]))


def held_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor shared out as one of the same shape is; others, such as a count of steps, stay whole."""
    return held_as(part_of(whole, like).clone(), like) if whole.shape == like.shape else whole


def held_as(mine: Tensor, like: Tensor) -> Tensor:
    """This worker's part of a tensor that is held like another one, as a part of it."""
    if not isinstance(like, DTensor):
        return mine
    return DTensor.from_local(
        mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def together(state: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Whole tensors of a state; those that were shared out are put together on the CPU, one after the other. Every
    worker has to call this; those that don't `keep` what comes get nothing."""
    found = {}
    for name, tensor in state.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = whole.cpu() if isinstance(tensor, DTensor) else whole
    return found
