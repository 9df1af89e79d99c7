"""VMamba (Liu et al. 2024), version 2, as its released models T, S and B have it: op `v05_noz`, state size 1.

Written from the paper and from what the released weights compute; channels come last throughout. Shapes: B images,
H x W positions (L of them), C channels, D = ssm_ratio * C channels of the scan, K = 4 directions, R = rank of the
step size's projection.
"""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from spaces.backbone import BackboneSpec
from trainables.backbones.protocol import Backbone, Features
from trainables.backbones.scan import linear_scan
from trainables.backbones.vit import State, checked, renamed

UNUSED = re.compile(r"classifier\.head\.")
"""The classifier of its supervised training."""
DIRECTIONS = 4
EPSILON = 1e-5

AUTHORS = (
    (r"^patch_embed\.0\.", "stem.first."),
    (r"^patch_embed\.2\.", "stem.first_norm."),
    (r"^patch_embed\.5\.", "stem.second."),
    (r"^patch_embed\.7\.", "stem.second_norm."),
    (r"^classifier\.norm\.", "norm."),
    (r"^(blocks\.\d+)\.norm\.", r"\1.norm1."),
    (r"\.op\.", ".ss2d."),
)
LAYER = re.compile(r"layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.(.+)$")
BLOCK = re.compile(r"trunk\.blocks\.(\d+)(\.|$)")


class Convolution(nn.Conv2d):
    """3x3 over channels-last maps [B, H, W, C]; at stride 2 odd sides round up."""

    def __init__(
        self, width: int, out: int, stride: int = 1, groups: int = 1, bias: bool = True, device: str | None = None
    ) -> None:
        super().__init__(width, out, 3, stride, 1, groups=groups, bias=bias, device=device)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SS2D(nn.Module):
    """The selective scan over a map in four directions: rows, columns, and both from the end."""

    def __init__(self, width: int, ratio: float, device: str | None = None) -> None:
        super().__init__()
        inner, self.rank = int(ratio * width), math.ceil(width / 16)
        shape = (DIRECTIONS, inner)
        self.in_proj = nn.Linear(width, inner, bias=False, device=device)
        self.conv2d = Convolution(inner, inner, groups=inner, bias=False, device=device)
        # Of each position: a step size of low rank, and the weights of input and output (B and C in the paper).
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, self.rank + 2, inner, device=device))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, self.rank, device=device))
        self.dt_projs_bias = nn.Parameter(torch.empty(*shape, device=device))
        self.A_logs = nn.Parameter(torch.zeros(DIRECTIONS * inner, 1, device=device))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner, device=device))
        self.out_norm = nn.LayerNorm(inner, eps=EPSILON, device=device)
        self.out_proj = nn.Linear(inner, width, bias=False, device=device)
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)
        # Steps start log-uniform in [1e-3, 1e-1]; the bias is what softplus turns into them (Gu and Dao 2023).
        with torch.no_grad():
            step = torch.exp(torch.rand(shape, device=device) * math.log(100) + math.log(1e-3))
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        u_BHWD = F.silu(self.conv2d(self.in_proj(x_BHWC)))
        batch, height, width, inner = u_BHWD.shape
        # Projected on the plain map, since that is per position, and only the narrow result is put in four orders.
        projected = u_BHWD @ self.x_proj_weight.flatten(0, 1).T
        parts = _in_four_orders(projected.unflatten(3, (DIRECTIONS, -1)).permute(3, 0, 1, 2, 4))
        low_rank, of_input, of_output = parts.split([self.rank, 1, 1], dim=-1)
        step = low_rank @ self.dt_projs_weight.transpose(1, 2)[:, None]
        y_BHWD = self._scan(u_BHWD, step, of_input, of_output)
        return self.out_proj(self.out_norm(y_BHWD).to(x_BHWC.dtype))

    def _scan(self, u_BHWD: Tensor, step: Tensor, of_input: Tensor, of_output: Tensor) -> Tensor:
        """In fp32, as the authors do, whatever the precision around it.

        Args:
            step: [K, B, L, D], before bias and softplus.
            of_input: [K, B, L, 1], as `of_output`.

        Returns:
            [B, H, W, D]: the sum over directions.
        """
        batch, height, width, inner = u_BHWD.shape
        u_BHWD = u_BHWD.float()
        rows, columns = u_BHWD.flatten(1, 2), u_BHWD.transpose(1, 2).flatten(1, 2)
        u = torch.stack([rows, columns, rows.flip(1), columns.flip(1)])
        delta = F.softplus(step.float() + self.dt_projs_bias.float()[:, None, None])
        decay = torch.exp(-delta * self.A_logs.float().exp().view(DIRECTIONS, 1, 1, inner))
        h = linear_scan(decay.flatten(0, 1), (delta * of_input.float() * u).flatten(0, 1))
        y = h.view_as(u) * of_output.float()
        merged = _merged(y, height, width)
        return merged + u_BHWD * self.Ds.float().view(DIRECTIONS, inner).sum(dim=0)


def _in_four_orders(x_KBHWC: Tensor) -> Tensor:
    """A map for each direction [4, B, H, W, C] -> sequences [4, B, L, C]: rows, columns, and both from the end."""
    rows, columns = x_KBHWC[0::2].flatten(2, 3), x_KBHWC[1::2].transpose(2, 3).flatten(2, 3)
    return torch.cat([rows[:1], columns[:1], rows[1:].flip(2), columns[1:].flip(2)])


def _merged(y: Tensor, height: int, width: int) -> Tensor:
    """Undoes `_in_four_orders` and sums over directions: [4, B, L, D] -> [B, H, W, D]."""
    rows, columns = y[0] + y[2].flip(1), y[1] + y[3].flip(1)
    return rows.unflatten(1, (height, width)) + columns.unflatten(1, (width, height)).transpose(1, 2)


class Downsample(nn.Module):
    """Half the sides, for the next stage."""

    def __init__(self, width: int, out: int, device: str | None = None) -> None:
        super().__init__()
        self.conv = Convolution(width, out, stride=2, device=device)
        self.norm = nn.LayerNorm(out, eps=EPSILON, device=device)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return self.norm(self.conv(x_BHWC))


class Block(nn.Module):
    """Scan and MLP, each on a normed input and added to it; a stage's last block also makes the next one's map."""

    def __init__(
        self, width: int, ratio: float, drop_path: float, following: int | None, device: str | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON, device=device)
        self.ss2d = SS2D(width, ratio, device)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON, device=device)
        self.mlp = Mlp(width, 4 * width, device=device)
        self.drop_path = DropPath(drop_path)
        self.downsample = Downsample(width, following, device) if following else nn.Identity()

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.drop_path(self.ss2d(self.norm1(x_BHWC)))
        x_BHWC = x_BHWC + self.drop_path(self.mlp(self.norm2(x_BHWC)))
        return self.downsample(x_BHWC)


class Stem(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, out: int, device: str | None = None) -> None:
        super().__init__()
        self.first = Convolution(3, out // 2, stride=2, device=device)
        self.first_norm = nn.LayerNorm(out // 2, eps=EPSILON, device=device)
        self.second = Convolution(out // 2, out, stride=2, device=device)
        self.second_norm = nn.LayerNorm(out, eps=EPSILON, device=device)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, H/4, W/4, C]."""
        x_BHWC = F.gelu(self.first_norm(self.first(images.permute(0, 2, 3, 1))))
        return self.second_norm(self.second(x_BHWC))


class VmambaTrunk(nn.Module):
    """Stem, blocks of four stages one after the other, last norm.

    Args:
        depths: blocks of each stage.
        width: channels of the first stage; each next one has twice as many.
        ssm_ratio: channels of the scan by channels of the map.
        drop_path: rate of the last block; it falls linearly to 0 at the first.
    """

    def __init__(
        self, depths: list[int], width: int, ssm_ratio: float, drop_path: float, device: str | None = None
    ) -> None:
        super().__init__()
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stem = Stem(width, device)
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(depths):
            for block in range(depth):
                last = block == depth - 1 and stage < len(depths) - 1
                self.blocks.append(Block(width, ssm_ratio, next(rates), 2 * width if last else None, device))
            width = width if stage == len(depths) - 1 else 2 * width
        self.norm = nn.LayerNorm(width, eps=EPSILON, device=device)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class VmambaBackbone(Backbone):
    """Its hidden state is the map [B, h, w, C] before the next block."""

    trunk: VmambaTrunk

    def prefix(self, images: Tensor, boundary: int) -> Tensor:
        return self._blocks(self.trunk.stem(images), 0, boundary)

    def suffix(self, hidden: Tensor, boundary: int) -> Features:
        tokens_BNC = self.trunk.norm(self._blocks(hidden, boundary, self.spec.blocks)).flatten(1, 2)
        return Features(tokens_BNC, tokens_BNC[:, :0], tokens_BNC.mean(dim=1))

    def depth_of(self, name: str) -> int:
        if block := BLOCK.match(name):
            return int(block[1]) + 1
        return self.spec.blocks + 1 if name.startswith("trunk.norm") else 0

    def no_weight_decay(self) -> frozenset[str]:
        # Usual with Mamba: decay would push the memory of every channel towards the same length.
        ends = ("A_logs", "dt_projs_bias")
        return frozenset(name for name, _ in self.named_parameters() if name.endswith(ends))

    def _blocks(self, hidden: Tensor, first: int, last: int) -> Tensor:
        for step in self.steps(first, last):
            hidden = self.run_block(self.trunk.blocks[step], hidden)
        return hidden


def trunk(spec: BackboneSpec, resolution: tuple[int, int], drop_path: float, device: str) -> nn.Module:
    """The trunk of a row of the table, whose arguments are `spec.build`; the same for every resolution."""
    made = VmambaTrunk(**spec.build, drop_path=drop_path, device=device)
    return checked(made, spec, len(made.blocks), made.norm.normalized_shape[0])


def convert(state: State) -> State:
    """The authors' layout as the trunk's; the trunk's own stays as it is."""
    # How many blocks come before a stage: what the file itself says.
    depths: dict[int, int] = {}
    for key in state:
        if (match := LAYER.match(key)) and match[2] is not None:
            depths[int(match[1])] = max(depths.get(int(match[1]), 0), int(match[2]) + 1)
    converted: State = {}
    for key, tensor in state.items():
        if match := LAYER.match(key):
            stage = int(match[1])
            before = sum(depth for other, depth in depths.items() if other < stage)
            if match[2] is not None:
                key = f"blocks.{before + int(match[2])}.{match[3]}"
            else:
                rest = re.sub(r"^1\.", "conv.", re.sub(r"^3\.", "norm.", match[3]))
                key = f"blocks.{before + depths.get(stage, 0) - 1}.downsample.{rest}"
        # Some files keep linear layers as 1x1 convolutions.
        is_linear = re.search(r"(in_proj|out_proj|fc1|fc2)\.weight$", key)
        converted[key] = tensor.flatten(1) if is_linear and tensor.ndim == 4 else tensor
    return renamed(converted, AUTHORS)


def resize(state: State, spec: BackboneSpec, trunk: nn.Module, where: str) -> State:
    """Nothing to do: there are no positions."""
    return state
