"""What models with a latent space share."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def between(first: Tensor, second: Tensor, weight: Tensor, path: Literal["spherical", "linear"]) -> Tensor:
    """`weight` (B, 1), 0 to 1, of the way from latents (B, D) to others."""
    return torch.lerp(first, second, weight) if path == "linear" else along_circle(first, second, weight)


def along_circle(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """`weight` (0 to 1) of the way from latents (B, D) to others along great circles, on which their length stays that
    of typical ones (White 2016): the middle of a straight line lies where no sample does."""
    cosine = F.cosine_similarity(first, second, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = torch.acos(cosine)[:, None]
    return (((1 - weight) * angle).sin() * first + (weight * angle).sin() * second) / angle.sin()
