"""A prior that is learned: a flow from noise to latents, by flow matching (Lipman et al. 2023; Liu et al. 2023).

Symbols: z a latent, e noise, t from 0 (noise) to 1 (latent), z_t = (1 - t) e + t z, whose velocity is z - e.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.solvers.ode import midpoint

_FREQUENCIES = 16  # sines and cosines that tell t


class FlowPrior(nn.Module):
    """p(z | y), or p(z) without classes, by residual fully connected layers that t and y scale and shift."""

    def __init__(self, *, latent_dim: int, classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, width) if classes else None
        self.time = nn.Linear(2 * _FREQUENCIES, width)
        self.enter = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.out = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def velocity(self, z: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """z (B, D), t (B, 1), label (B, width) or None -> (B, D)."""
        angles = t * math.pi * torch.arange(1, _FREQUENCIES + 1, device=t.device, dtype=t.dtype)
        told = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if label is not None:
            told = told + label
        h, told = self.enter(z), F.silu(told)
        for block in self.blocks:
            h = block(h, told)
        return self.out(F.silu(h))

    def label(self, y: Tensor | None) -> Tensor | None:
        """What velocity is told of labels y (B,)."""
        return None if self.embed is None else self.embed(y)

    def loss(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Mean squared error of the velocity over latents, noise and times."""
        e = torch.randn_like(z)
        # More often in the middle, where the velocity is hardest to tell (Esser et al. 2024, logit-normal).
        t = torch.randn(len(z), 1, device=z.device, dtype=z.dtype).sigmoid()
        return (self.velocity(torch.lerp(e, z, t), t, self.label(y)) - (z - e)).float().square().mean()

    def sample(self, noise: Tensor, label: Tensor | None, *, steps: int) -> Tensor:
        """Latents (B, D) from standard normal noise (B, D)."""
        return midpoint(lambda z, t: self.velocity(z, torch.full_like(z[:, :1], t), label), noise, steps=steps)


class _Block(nn.Module):
    """h + two layers of h; the second starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.modulate(told).chunk(2, dim=1)
        return h + self.second(F.silu(self.first(self.norm(h) * (1 + scale) + shift)))
