"""What a kind of network offers to models: an encoder and a decoder, both built from the shape of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from genai import registry
from genai.contract import Spec
from genai.errors import ConfigError
from genai.schema import NetConfig


class Vectors(Protocol):
    """An encoder: x (B, *spec.shape) -> (B, features), after a rectifier unless `outputs` asked for so many. With a
    `factor` its outputs are a map, a position of which stands for so many values a side."""

    features: int
    shape: tuple[int, ...]  # (features,), or of the map

    def __call__(self, x: Tensor) -> Tensor: ...


class EncoderBuilder(Protocol):
    def __call__(
        self, *, spec: Spec, config: Any, outputs: int | None = None, factor: int | None = None
    ) -> Any: ...  # an nn.Module, a Vectors


class DecoderBuilder(Protocol):
    def __call__(
        self, *, spec: Spec, inputs: int, config: Any, factor: int | None = None
    ) -> Any: ...  # an nn.Module (B, inputs[, *map]) -> (B, *shape)


@dataclass(frozen=True)
class Family:
    encoder: EncoderBuilder
    decoder: DecoderBuilder


def refuse_ids(spec: Spec) -> None:
    """Raises ConfigError for tokens."""
    if spec.kind != "real":
        fix = "choose data of numbers"
        if spec.first_stage:
            fix = "name a first stage of numbers in data.codec: one with model.latents=gaussian"
        raise ConfigError(f"the data are ids out of {spec.vocab:,}, this model needs numbers", fix=fix)


def family(config: NetConfig) -> Family:
    """The family behind net=NAME. Raises ConfigError for a net that has no encoder and decoder."""
    found = registry.load(registry.find("net", config.name).target)
    if not isinstance(found, Family):
        raise ConfigError(f"net '{config.name}' has no encoder and decoder", fix="type net=conv or net=mlp")
    return found
