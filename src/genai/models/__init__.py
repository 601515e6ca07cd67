"""The models that can be named, and their settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genai.registry import Component
from genai.schema import Count, ModelConfig, Natural, Positive

COMPONENTS: dict[str, Component] = {
    "gan": Component(
        "genai.models.gan:Gan", "generator against discriminator: sharp, drawn in one pass", "genai.models:GanConfig"
    ),
}


@dataclass(frozen=True, kw_only=True)
class GanConfig(ModelConfig):
    loss: Literal["relativistic", "non_saturating", "hinge"] = "relativistic"
    latent_dim: Count = 64
    conditional: bool = True  # on the label, where the data has one
    penalty: Literal["none", "r1", "r1_r2"] = "r1_r2"
    penalty_every: Count = 8  # steps
    gamma: Positive | Literal["auto"] = "auto"  # gamma / 2 * |grad|^2; auto: by the number of values of x
    gamma_final: Positive | None = None  # null: gamma stays
    gamma_decay_samples: Natural = 0  # gamma falls to gamma_final over this many samples, by a half cosine
    generator_every: Count = 1  # discriminator steps per generator step
