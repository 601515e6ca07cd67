"""Networks for rows of a table: an encoder, and a denoiser that is also told which cells are known."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.columns import groups
from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import TabularConfig
from genai.nets.family import Family, refuse_ids


class Waves(nn.Module):
    """(B, n) numbers -> (B, n * features): each through waves of its own whose frequencies are learned, and a layer of
    its own (Gorishniy et al. 2022, periodic embeddings)."""

    def __init__(self, *, numbers: int, config: TabularConfig) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(config.wave_deviation * torch.randn(numbers, config.waves))
        inputs = 2 * config.waves + 1
        self.weight = nn.Parameter((torch.rand(numbers, inputs, config.wave_features) * 2 - 1) * inputs**-0.5)
        self.bias = nn.Parameter((torch.rand(numbers, config.wave_features) * 2 - 1) * inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * self.frequencies * x[..., None]
        waves = torch.cat([angles.sin(), angles.cos(), x[..., None]], dim=2)
        return F.relu(torch.einsum("bni,nif->bnf", waves, self.weight) + self.bias).flatten(1)


def _numbers(spec: Spec) -> int:
    """How many numbers a row (D,) begins with; all of it where it is of no table."""
    refuse_ids(spec)
    return math.prod(spec.shape) - sum(groups(spec.columns))


def _refuse_maps(factor: int | None, spec: Spec) -> None:
    if factor is not None or len(spec.shape) != 1:
        raise ConfigError(f"net 'tabular' is of rows, the data is {spec.modality}", fix="type net=auto")


class Block(nn.Module):
    """h + what a layer and a half make of it; `told` (B, features) scales and shifts, where there is one."""

    def __init__(self, width: int, *, dropout: float, told: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not told)
        self.modulate = nn.Linear(told, 2 * width) if told else None
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor, told: Tensor | None = None) -> Tensor:
        x = self.norm(h)
        if self.modulate is not None and told is not None:
            scale, shift = self.modulate(told).chunk(2, dim=1)
            x = x * (1 + scale) + shift
        made: Tensor = self.second(self.dropout(F.silu(self.first(x))))
        return h + made


class Encoder(nn.Module):
    """Rows (B, D) -> (B, features)."""

    def __init__(
        self, *, spec: Spec, config: TabularConfig, outputs: int | None = None, factor: int | None = None
    ) -> None:
        super().__init__()
        _refuse_maps(factor, spec)
        self.numbers = _numbers(spec)
        self.features = outputs or config.width
        self.shape = (self.features,)
        self.waves = Waves(numbers=self.numbers, config=config) if self.numbers and config.waves else None
        inputs = spec.shape[0] + (self.numbers * config.wave_features if self.waves is not None else 0)
        self.enter = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(Block(config.width, dropout=config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        seen = x if self.waves is None else torch.cat([x, self.waves(x[:, : self.numbers])], dim=1)
        h = self.enter(seen)
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out


class Denoiser(nn.Module):
    """x (B, D) and what is told (B, features) -> (B, D). What stands `beside` x in its input are that many numbers
    more: (B, D + beside) -> (B, D)."""

    def __init__(self, *, spec: Spec, config: TabularConfig, context: int = 0, beside: int = 0) -> None:
        super().__init__()
        _refuse_maps(None, spec)
        refuse_ids(spec)
        self.features = config.width
        self.enter = nn.Linear(spec.shape[0] + beside, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, dropout=config.dropout, told=config.width) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, spec.shape[0])
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h, told = self.enter(x), F.silu(told)
        for block in self.blocks:
            h = block(h, told)
        out: Tensor = self.out(F.silu(self.norm(h)))
        return out


Tabular = Family(encoder=Encoder, denoiser=Denoiser, completer=Denoiser)
