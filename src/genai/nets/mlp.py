"""Fully connected encoder and decoder for points, table rows and anything small enough to be flattened."""

from __future__ import annotations

import math

import torch
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
        # Random directions, lengths spread evenly from 1 to fourier_max: without high ones a plain MLP blurs modes.
        directions = nn.functional.normalize(torch.randn(config.fourier_features, values), dim=1)
        lengths = torch.linspace(1.0, config.fourier_max, config.fourier_features)
        self.register_buffer("frequencies", directions * lengths[:, None])
        self.hidden = _hidden(values + 2 * config.fourier_features, config)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        angles = flat @ self.frequencies.T
        return self.out(self.hidden(torch.cat([flat, angles.sin(), angles.cos()], dim=1)))


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


Mlp = Family(encoder=Encoder, decoder=Decoder)
