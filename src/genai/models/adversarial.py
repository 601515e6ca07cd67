"""The adversarial game as functions: losses of logits (B,), and penalties on the gradient of a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genai.models.augment import Augmentation

Discriminator = Callable[[Tensor, Tensor | None], Tensor]  # (x (B, ...), labels (B,) or None) -> logits (B,)
Penalty = Literal["none", "r1", "r1_r2", "gp"]

FINITE_STEP = 0.01  # length of the step per value of x, in model units, of a finite difference


@dataclass(frozen=True)
class Game:
    """What both sides minimise, and what is done by default to keep the discriminator's gradient in bounds."""

    discriminator: Callable[[Tensor, Tensor], Tensor]  # (real, fake) logits -> mean loss
    generator: Callable[[Tensor, Tensor], Tensor]
    paired: bool  # whether the generator's loss depends on the real logits
    penalty: Penalty
    spectral_norm: bool = False


GAMES: dict[str, Game] = {
    # Jolicoeur-Martineau 2018, eq. 3 to 6: each pair is told apart. With R1 and R2: Huang et al. 2024 (R3GAN).
    "relativistic": Game(
        discriminator=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda real, fake: F.softplus(real - fake).mean(),
        paired=True,
        penalty="r1_r2",
    ),
    # Goodfellow et al. 2014, eq. 1 and section 3; with R1: Mescheder et al. 2018.
    "non_saturating": Game(
        discriminator=lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        generator=lambda real, fake: F.softplus(-fake).mean(),
        paired=False,
        penalty="r1",
    ),
    # Lim & Ye 2017; with spectral normalisation: Miyato et al. 2018, eq. 16 and 17.
    "hinge": Game(
        discriminator=lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        generator=lambda real, fake: -fake.mean(),
        paired=False,
        penalty="none",
        spectral_norm=True,
    ),
    # Gulrajani et al. 2017, eq. 3.
    "wgan_gp": Game(
        discriminator=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda real, fake: -fake.mean(),
        paired=False,
        penalty="gp",
    ),
    # Mao et al. 2017, eq. 9 (real 1, generated 0).
    "lsgan": Game(
        discriminator=lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        generator=lambda real, fake: 0.5 * (fake - 1).square().mean(),
        paired=False,
        penalty="r1",
    ),
}


def as_it_is(x: Tensor) -> Tensor:
    return x


def squared_gradient_norm(
    discriminator: Discriminator, x: Tensor, y: Tensor | None, view: Augmentation = as_it_is
) -> Tensor:
    """(B,) |dD(view(x))/dx|^2 summed over the values of x, differentiable again (Mescheder et al. 2018)."""
    x = x.detach().requires_grad_(True)
    # Of the sum: no discriminator here mixes samples, so it is the gradient of each.
    (gradient,) = torch.autograd.grad(discriminator(view(x), y).sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def squared_gradient_norm_by_difference(
    discriminator: Discriminator, x: Tensor, y: Tensor | None, view: Augmentation = as_it_is
) -> Tensor:
    """(B,) an estimate of the same without second derivatives: ((D(x + s e) - D(x)) / s)^2, e standard normal.

    Its mean over e is |dD/dx|^2 up to order s^2, because E[(e.g)^2] = |g|^2.
    """
    moved = x + FINITE_STEP * torch.randn_like(x)
    seen = torch.cat([view(x), view(moved)])
    here, there = discriminator(seen, None if y is None else torch.cat([y, y])).chunk(2)
    return ((there - here) / FINITE_STEP).square()


def interpolated(real: Tensor, fake: Tensor) -> Tensor:
    """A random point on the line from each real sample to a generated one (Gulrajani et al. 2017, algorithm 1)."""
    weight = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
    return torch.lerp(real, fake, weight)
