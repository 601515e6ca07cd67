"""U-Net that removes noise from sound, pictures and video (Ronneberger et al. 2015; Ho et al. 2020): residual blocks
with layer normalisation, attention where the map is small, and the outputs of the way down joined on the way up.

No layer mixes samples. Sizes need not be powers of two: halves are rounded up, and cut off again on the way back.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import UNetConfig
from genai.nets.attention import Attention, heads_of
from genai.nets.family import Family, refuse_ids
from genai.nets.patches import cut, into_patches, out_of_patches


class Conv3d(nn.Conv3d):
    """In full precision on CPUs where there are two positions along the first axis: in bf16 the gradient of the weights
    is garbage there (oneDNN in torch 2.13; 1, 3, 4 and 8 positions were right)."""

    def forward(self, h: Tensor) -> Tensor:
        if h.device.type != "cpu" or h.shape[2] != 2:
            return super().forward(h)
        with torch.autocast("cpu", enabled=False):
            return super().forward(h.to(self.weight.dtype))


_CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: Conv3d}
_PERIODS = 4  # half ones of the cosines that tell a position
_AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _conv(dims: int, inputs: int, outputs: int, kernel: int = 3, *, zero: bool = False) -> nn.Module:
    conv = _CONVOLUTIONS[dims](inputs, outputs, kernel, padding=kernel // 2)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    if zero:
        nn.init.zeros_(conv.weight)
    return conv


class Norm(nn.LayerNorm):
    """Over the channels of each position (Ba et al. 2016). In channels_last that is one pass over memory: on a CPU it
    was measured four times as fast as group normalisation in bf16."""

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Two convolutions beside a shortcut, told the condition (B, features) between them; then attention, if any."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, features: int, dropout: float, heads: int, context: int
    ) -> None:
        super().__init__()
        self.norm, self.conv = Norm(inputs), _conv(dims, inputs, outputs)
        self.told = nn.Linear(features, 2 * outputs)
        self.told_norm, self.told_conv = Norm(outputs), _conv(dims, outputs, outputs, zero=True)
        self.shortcut = _conv(dims, inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.attention_norm = Norm(outputs) if heads else None
        self.attention = Attention(width=outputs, heads=heads, context=context) if heads else None

    def forward(self, h: Tensor, told: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        inner = self.conv(F.silu(self.norm(h)))
        scale, shift = self.told(told).view(*told.shape[:1], -1, *[1] * (h.ndim - 2)).chunk(2, dim=1)
        inner = torch.addcmul(shift, self.told_norm(inner), 1 + scale)
        h = self.shortcut(h) + self.told_conv(self.dropout(F.silu(inner)))
        if self.attention is not None and self.attention_norm is not None:
            tokens = self.attention_norm(h).flatten(2).transpose(1, 2)
            h = h + self.attention(tokens, context, mask).transpose(1, 2).view_as(h)
        return h


def places(size: tuple[int, ...]) -> Tensor:
    """(1, n * axes, *size): n slow cosines along each axis, by which a position is told from others. Convolutions alone
    see it near the edges, and sounds began anew in the middle."""
    axes = [torch.cos(math.pi * torch.arange(1, _PERIODS + 1)[:, None] * (torch.arange(n) + 0.5) / n) for n in size]
    shaped = [
        waves.view(_PERIODS, *[-1 if other == axis else 1 for other in range(len(size))]).expand(-1, *size)
        for axis, waves in enumerate(axes)
    ]
    return torch.cat(shaped)[None]


class UNet(nn.Module):
    """x (B, C, *size), what is told (B, features) and a context (B, L, context) with its mask -> (B, C, *size)."""

    places: Tensor

    def __init__(self, *, spec: Spec, config: UNetConfig, context: int = 0) -> None:
        super().__init__()
        refuse_ids(spec)
        channels, *size = spec.shape
        dims, self.patch = len(size), config.patch
        if dims not in _CONVOLUTIONS:
            what = "net 'unet' needs sounds, pictures or video"
            raise ConfigError(f"{what}, the data is {spec.modality} of shape {spec.shape}", fix="type net=mlp")
        levels = len(config.multipliers)
        if levels == 0:
            raise ConfigError("net.multipliers=[] leaves no level", fix="type net.multipliers=[1,2]")
        least = min(size)
        if least < self.patch << (levels - 1):
            what = f"{levels} levels of net.multipliers in patches of {self.patch} halve a length of {least} to nothing"
            fitting = ",".join(map(str, config.multipliers[: (least // self.patch).bit_length()]))
            raise ConfigError(what, fix=f"type net.multipliers=[{fitting}]" if fitting else "type net.patch=1")
        self.features = 4 * config.width
        widths = [config.width * multiplier for multiplier in config.multipliers]
        sizes = [tuple(-(-side // self.patch) for side in size)]
        while len(sizes) < len(widths):
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        self.sizes, self.size = sizes, tuple(size)
        over = [parts * self.patch - side for parts, side in zip(sizes[0], size, strict=True)]
        self.pad = [n for more in reversed(over) for n in (0, more)]

        def block(inputs: int, level: int) -> Block:
            few = torch.Size(sizes[level]).numel() <= config.attention_positions
            heads = heads_of(widths[level], config.head_width) if few else 0
            return Block(dims, inputs, widths[level], self.features, config.dropout, heads, context)

        self.enter = _conv(dims, channels * self.patch**dims, widths[0])
        self.register_buffer("places", places(sizes[0]), persistent=False)
        self.place = _conv(dims, _PERIODS * dims, widths[0], 1, zero=True)
        self.down, self.halving, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width, joined = widths[0], []
        for level in range(len(widths)):
            self.halving.append(_conv(dims, width, width) if level else nn.Identity())
            blocks = nn.ModuleList()
            for _ in range(config.blocks):
                blocks.append(block(width, level))
                width = widths[level]
                joined.append(width)
            self.down.append(blocks)
        self.middle = block(width, len(widths) - 1)
        for level in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for _ in range(config.blocks):
                blocks.append(block(width + joined.pop(), level))
                width = widths[level]
            self.up.append(blocks)
        self.doubling = nn.ModuleList(_conv(dims, w, w) for w in reversed(widths[1:]))
        self.out_norm = Norm(width)
        self.out = _conv(dims, width, channels * self.patch**dims, zero=True)
        self.average = _AVERAGES[dims]

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        told = F.silu(told)
        x = F.pad(x, self.pad) if any(self.pad) else x
        h = self.enter(into_patches(x, self.patch)) + self.place(self.places)
        joined = []
        for level, stage in enumerate(self.down):
            assert isinstance(stage, nn.ModuleList)
            if level:
                h = self.halving[level](self.average(h, 2, ceil_mode=True))
            for block in stage:
                h = block(h, told, context, mask)
                joined.append(h)
        h = self.middle(h, told, context, mask)
        for number, stage in enumerate(self.up):
            assert isinstance(stage, nn.ModuleList)
            if number:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
                h = self.doubling[number - 1](cut(h, self.sizes[-1 - number]))
            for block in stage:
                h = block(torch.cat([h, joined.pop()], dim=1), told, context, mask)
        return cut(out_of_patches(self.out(F.silu(self.out_norm(h))), self.patch), self.size)


Unet = Family(denoiser=UNet)
