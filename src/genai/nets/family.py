"""What a kind of network offers to models: an encoder and a decoder, or what removes noise, built from the shape of the
data."""

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


class AutoregressorBuilder(Protocol):
    def __call__(self, *, ids: int, vocab: int, context: int, config: Any) -> Any:
        """An nn.Module (B, T) -> (B, T, width), or with `wanted` (B, T) the sum of their -ln p; with `logits` (B, T,
        width) -> (B, T, vocab), for many steps by its `writer`, `operations` of an id, `notes` on how it computes, and
        a `cache` of rows of ids, whose `read` and `follow` give (B, width) of their last ids."""


class DenoiserBuilder(Protocol):
    def __call__(self, *, spec: Spec, config: Any, context: int = 0) -> Any:
        """An nn.Module (x, told (B, features), context (B, L, context), mask (B, L)) -> (B, *shape)."""


class CompleterBuilder(Protocol):
    def __call__(self, *, spec: Spec, config: Any, context: int = 0, beside: int = 0) -> Any:
        """A denoiser of rows with so many numbers `beside` x in its input: (B, D + beside) -> (B, D)."""


def _no_encoder(*, config: NetConfig, **_: object) -> Any:
    raise ConfigError(f"net '{config.name}' has no encoder and decoder", fix="type net=conv or net=mlp")


def _no_denoiser(*, config: NetConfig, **_: object) -> Any:
    raise ConfigError(f"net '{config.name}' removes no noise", fix="type net=unet, net=dit or net=mlp")


def _no_completer(*, config: NetConfig, **_: object) -> Any:
    raise ConfigError(f"net '{config.name}' completes no rows of tables", fix="type net=tabular")


def _no_autoregressor(*, config: NetConfig, **_: object) -> Any:
    raise ConfigError(f"net '{config.name}' reads no ids", fix="type net=gpt")


@dataclass(frozen=True)
class Family:
    """What is asked for and missing raises ConfigError."""

    encoder: EncoderBuilder = _no_encoder
    decoder: DecoderBuilder = _no_encoder
    denoiser: DenoiserBuilder = _no_denoiser
    completer: CompleterBuilder = _no_completer
    autoregressor: AutoregressorBuilder = _no_autoregressor


def refuse_ids(spec: Spec) -> None:
    """Raises ConfigError for tokens."""
    if spec.kind != "real":
        fix = "choose data of numbers"
        if spec.first_stage:
            fix = "name a first stage of numbers in data.codec: one with model.latents=gaussian"
        raise ConfigError(f"the data are ids out of {spec.vocab:,}, this model needs numbers", fix=fix)


def family(config: NetConfig) -> Family:
    """The family behind net=NAME. Raises ConfigError for a net that is none."""
    found = registry.load(registry.find("net", config.name).target)
    return found if isinstance(found, Family) else Family()
