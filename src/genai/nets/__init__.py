"""The networks that can be named, and their settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from genai.registry import Component
from genai.schema import Count, Natural, NetConfig, NonNegative, Positive, Range

COMPONENTS: dict[str, Component] = {
    "conv": Component(
        "genai.nets.conv:Conv",
        "residual convolutions for images of 8 to 128 pixels a side, and for sound",
        "genai.nets:ConvConfig",
    ),
    "unet": Component(
        "genai.nets.unet:Unet", "convolutions on several scales that remove noise", "genai.nets:UNetConfig"
    ),
    "dit": Component(
        "genai.nets.dit:Dit", "Transformer over patches that removes noise, or tells apart", "genai.nets:DitConfig"
    ),
    "gpt": Component(
        "genai.nets.gpt:Language", "Transformer that reads ids from left to right", "genai.nets:GptConfig"
    ),
    "reader": Component(
        "genai.nets.reader:Reader", "Transformer that reads a text whole, or two", "genai.nets:ReaderConfig"
    ),
    "mlp": Component("genai.nets.mlp:Mlp", "fully connected layers for points and table rows", "genai.nets:MlpConfig"),
    "tabular": Component(
        "genai.nets.tabular:Tabular", "residual layers for table rows, numbers as waves", "genai.nets:TabularConfig"
    ),
}


@dataclass(frozen=True, kw_only=True)
class ConvConfig(NetConfig):
    width: Count = 32  # channels of the finest map; doubled at each halving
    max_width: Count = 64
    blocks: Count = 1  # residual blocks per resolution
    patch: Literal[1, 2, 4, 8, 16, 32, 64, 128] = 2  # values a side that one position of the finest map stands for
    style: bool = True  # the decoder's input also scales the channels of every block


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetConfig):
    width: Annotated[int, Range(low=4)] = 32  # channels of the finest map
    multipliers: tuple[Count, ...] = (1, 2, 2)  # of the width, a level each; every level halves the sides
    blocks: Count = 1  # residual blocks a level, on the way down and on the way up
    attention_positions: Natural = 64  # of a map, up to which there is attention; 0: none
    head_width: Count = 32  # channels of a head of attention
    patch: Literal[1, 2, 4, 8, 16, 32] = 1  # values a side that one position of the finest map stands for
    dropout: Annotated[float, Range(low=0, high=0.9)] = 0.0


@dataclass(frozen=True, kw_only=True)
class DitConfig(NetConfig):
    width: Count = 128
    layers: Count = 4
    heads: Count = 4
    patch: Count = 4  # values a side that a token stands for


@dataclass(frozen=True, kw_only=True)
class GptConfig(NetConfig):
    size: Annotated[int, Range(low=1, high=256)] | None = None  # layers, each of `size` heads of 64 numbers
    layers: Count = 4
    width: Count = 128
    heads: Count = 4
    kv_heads: Count | None = None  # of keys and values, which groups of heads share; null: as many
    feed: Literal["relu2", "swiglu", "gelu"] = "relu2"  # what is between the two layers of a block
    norm: Literal["rms", "layer"] = "rms"
    positions: Literal["rope", "learned"] = "rope"
    rope_base: Positive = 10_000.0  # slowest turn of a position, in positions a radian
    qk_norm: bool = True  # queries and keys are normalised
    bias: bool = False
    tied: bool = False  # ids are read and written with the same table
    softcap: NonNegative = 15.0  # bound of the logits; 0: none
    dropout: Annotated[float, Range(low=0, high=0.9)] = 0.0


@dataclass(frozen=True, kw_only=True)
class ReaderConfig(NetConfig):
    width: Count = 64  # numbers of an id
    layers: Natural = 1
    heads: Count = 4  # of attention
    dropout: Annotated[float, Range(low=0, high=0.9)] = 0.5  # of the numbers of ids
    hide: Annotated[float, Range(low=0, high=0.9)] = 0.4  # share of the ids that are not read in training


@dataclass(frozen=True, kw_only=True)
class MlpConfig(NetConfig):
    width: Count = 128
    layers: Count = 4  # hidden layers
    fourier_features: Natural = 0  # sines and cosines of x that a network sees beside x; 0: none
    fourier_max: Positive = 20.0  # highest angular frequency, in radians per unit of x


@dataclass(frozen=True, kw_only=True)
class TabularConfig(NetConfig):
    width: Count = 256
    layers: Count = 3  # blocks of two layers each
    dropout: Annotated[float, Range(low=0, high=0.9)] = 0.0
    waves: Natural = 16  # of each number, with frequencies that are learned; 0: none; of an encoder
    wave_features: Count = 8  # that they become
    wave_deviation: Positive = 0.3  # of the frequencies at first, in periods a unit
