"""The networks that can be named, and their settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genai.registry import Component
from genai.schema import Count, Natural, NetConfig, Positive

COMPONENTS: dict[str, Component] = {
    "conv": Component(
        "genai.nets.conv:Conv",
        "residual convolutions for images of 8 to 128 pixels a side, and for sound",
        "genai.nets:ConvConfig",
    ),
    "mlp": Component("genai.nets.mlp:Mlp", "fully connected layers for points and table rows", "genai.nets:MlpConfig"),
}


@dataclass(frozen=True, kw_only=True)
class ConvConfig(NetConfig):
    width: Count = 32  # channels of the finest map; doubled at each halving
    max_width: Count = 64
    blocks: Count = 1  # residual blocks per resolution
    patch: Literal[1, 2, 4, 8, 16, 32, 64, 128] = 2  # values a side that one position of the finest map stands for
    style: bool = True  # the decoder's input also scales the channels of every block


@dataclass(frozen=True, kw_only=True)
class MlpConfig(NetConfig):
    width: Count = 128
    layers: Count = 4  # hidden layers
    fourier_features: Natural = 0  # sines and cosines of x that an encoder sees beside x; 0: none
    fourier_max: Positive = 20.0  # highest angular frequency, in radians per unit of x
