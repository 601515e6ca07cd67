"""Residual convolutional encoder and decoder for pictures of 8 to 64 pixels, any channels and aspect. No normalisation.

No layer mixes samples, so a gradient of the summed output is the gradient of each sample, and a sample does not depend
on the batch it is drawn in. Every operation has an exact second derivative.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import ConvConfig
from genai.nets.family import Family

_COARSEST = 7  # pixels of the shorter side at which halving stops (or below)


def sizes_of(spec: Spec, patch: int = 1) -> list[tuple[int, int]]:
    """(height, width) from full resolution down to the coarsest: 28 -> 28, 14, 7; 64 -> 64, 32, 16, 8, 4."""
    if spec.kind != "real" or len(spec.shape) != 3 or min(spec.shape[1:]) < 4:
        got = f"{spec.modality} of shape {spec.shape}"
        raise ConfigError(f"net 'conv' needs pictures of 4 x 4 pixels or more, the data is {got}", fix="type net=mlp")
    height, width = spec.shape[1], spec.shape[2]
    sizes = [(height, width)]
    while min(sizes[-1]) > _COARSEST:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def _widths(config: ConvConfig, stages: int) -> list[int]:
    return [min(config.width * 2**i, config.max_width) for i in range(stages)]


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, a=0.2)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


class Block(nn.Module):
    """h + two convolutions of h; the second starts at zero, so that a deep net starts as a shallow one."""

    def __init__(self, width: int, style: int = 0) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)
        nn.init.zeros_(self.second.weight)
        self.style = nn.Linear(style, width) if style else None
        if self.style is not None:
            nn.init.normal_(self.style.weight, std=0.5 / style**0.5)
            nn.init.zeros_(self.style.bias)

    def forward(self, h: Tensor, style: Tensor | None = None) -> Tensor:
        inner = self.first(F.leaky_relu(h, 0.2))
        if self.style is not None and style is not None:
            inner = inner * (1 + self.style(style))[:, :, None, None]
        return h + self.second(F.leaky_relu(inner, 0.2))


class Encoder(nn.Module):
    """x (B, C, H, W) -> (B, features): features are the coarsest map, flattened and projected."""

    def __init__(self, *, spec: Spec, config: ConvConfig) -> None:
        super().__init__()
        self.patch = config.patch
        sizes = sizes_of(spec)[config.patch.bit_length() - 1 :]
        widths = _widths(config, len(sizes))
        self.enter = _conv(spec.shape[0] * self.patch**2, widths[0])
        self.blocks = nn.ModuleList(nn.ModuleList(Block(w) for _ in range(config.blocks)) for w in widths)
        self.down = nn.ModuleList(_conv(a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.features = widths[-1] * 2
        height, width = sizes[-1]
        self.out = nn.Linear(widths[-1] * height * width, self.features)
        nn.init.kaiming_normal_(self.out.weight, a=0.2)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        for i, stage in enumerate(self.blocks):
            if i:
                h = self.down[i - 1](F.avg_pool2d(h, 2, ceil_mode=True))
            for block in stage:
                h = block(h)
        return F.leaky_relu(self.out(F.leaky_relu(h, 0.2).flatten(1)), 0.2)


class Decoder(nn.Module):
    """(B, inputs) -> (B, C, H, W), unbounded."""

    def __init__(self, *, spec: Spec, inputs: int, config: ConvConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.sizes = sizes_of(spec)[config.patch.bit_length() - 1 :]
        widths = _widths(config, len(self.sizes))
        height, width = self.sizes[-1]
        self.coarsest = (widths[-1], height, width)
        self.enter = nn.Linear(inputs, widths[-1] * height * width)
        nn.init.normal_(self.enter.weight, std=inputs**-0.5)
        nn.init.zeros_(self.enter.bias)
        style = inputs if config.style else 0
        self.blocks = nn.ModuleList(nn.ModuleList(Block(w, style) for _ in range(config.blocks)) for w in widths)
        self.up = nn.ModuleList(_conv(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.out = _conv(widths[0], spec.shape[0] * self.patch**2)
        nn.init.normal_(self.out.weight, std=0.3 * (9 * widths[0]) ** -0.5)

    def forward(self, vector: Tensor) -> Tensor:
        h = self.enter(vector).unflatten(1, self.coarsest)
        for i in reversed(range(len(self.sizes))):
            for block in self.blocks[i]:
                h = block(h, vector)
            if i:
                height, width = self.sizes[i - 1]
                h = F.interpolate(self.up[i - 1](h), scale_factor=2, mode="bilinear")[..., :height, :width]
        h = self.out(F.leaky_relu(h, 0.2))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h


Conv = Family(encoder=Encoder, decoder=Decoder)
