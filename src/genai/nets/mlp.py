"""Fully connected encoder, decoder and denoiser for points, table rows and anything small enough to be flattened."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import MlpConfig
from genai.nets.family import Family, refuse_ids


def _refuse_map(factor: int | None) -> None:
    if factor is not None:
        raise ConfigError("net 'mlp' has no maps, only vectors", fix="type net=conv, for pictures and sound")


def _values(spec: Spec) -> int:
    refuse_ids(spec)
    return math.prod(spec.shape)


def _hidden(inputs: int, config: MlpConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(config.layers):
        linear = nn.Linear(inputs if i == 0 else config.width, config.width)
        nn.init.kaiming_normal_(linear.weight, a=0.2)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def _frequencies(values: int, config: MlpConfig) -> Tensor:
    """(features, values) random directions, lengths spread evenly from 1 to fourier_max: without high ones a plain MLP
    blurs modes."""
    directions = F.normalize(torch.randn(config.fourier_features, values), dim=1)
    return directions * torch.linspace(1.0, config.fourier_max, config.fourier_features)[:, None]


def _with_waves(flat: Tensor, frequencies: Tensor) -> Tensor:
    angles = flat @ frequencies.T
    return torch.cat([flat, angles.sin(), angles.cos()], dim=1)


class Encoder(nn.Module):
    """x (B, *spec.shape) -> (B, features), optionally through random Fourier features of x (Tancik et al. 2020)."""

    frequencies: Tensor

    def __init__(self, *, spec: Spec, config: MlpConfig, outputs: int | None = None, factor: int | None = None) -> None:
        super().__init__()
        _refuse_map(factor)
        values = _values(spec)
        self.features = outputs or config.width
        self.shape = (self.features,)
        self.out = nn.Linear(config.width, outputs) if outputs else nn.Identity()
        self.register_buffer("frequencies", _frequencies(values, config))
        self.hidden = _hidden(values + 2 * config.fourier_features, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(_with_waves(x.flatten(1), self.frequencies)))


class Decoder(nn.Module):
    """(B, inputs) -> (B, *spec.shape), unbounded."""

    def __init__(self, *, spec: Spec, inputs: int, config: MlpConfig, factor: int | None = None) -> None:
        super().__init__()
        _refuse_map(factor)
        self.shape = spec.shape
        self.hidden = _hidden(inputs, config)
        self.out = nn.Linear(config.width, _values(spec))

    def forward(self, vector: Tensor) -> Tensor:
        return self.out(self.hidden(vector)).unflatten(1, self.shape)


class Denoiser(nn.Module):
    """x (B, *spec.shape) and what is told (B, features) -> (B, *spec.shape): residual layers, which that scales and
    shifts. The tokens of a text are not looked at."""

    frequencies: Tensor

    def __init__(self, *, spec: Spec, config: MlpConfig, context: int = 0) -> None:
        super().__init__()
        values, width = _values(spec), config.width
        self.features = width
        self.register_buffer("frequencies", _frequencies(values, config))
        self.enter = nn.Linear(values + 2 * config.fourier_features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(config.layers))
        self.told = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(config.layers))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers))
        self.out = nn.Linear(width, values)
        for linear in (*self.second, self.out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h, told = self.enter(_with_waves(x.flatten(1), self.frequencies)), F.silu(told)
        for norm, modulate, first, second in zip(self.norms, self.told, self.first, self.second, strict=True):
            scale, shift = modulate(told).chunk(2, dim=1)
            h = h + second(F.silu(first(norm(h) * (1 + scale) + shift)))
        return self.out(F.silu(h)).view_as(x)


Mlp = Family(encoder=Encoder, decoder=Decoder, denoiser=Denoiser)
