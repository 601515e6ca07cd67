"""Solvers of the probability-flow ODE and of the reverse SDE, as functions of a denoiser (Karras et al. 2022).

Symbols: x = x0 + sigma eps the noisy data, D(x, sigma) the expected x0; a -> b two neighbours of a grid, h = ln(a / b);
z standard normal. Every solver takes x at the grid's first level and returns it at the last one, 0 or above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> D, of the shape of x
Noise = Callable[[], Tensor]  # standard normal, of the shape of x


def toward(x: Tensor, denoised: Tensor, a: float, b: float) -> Tensor:
    """x at b on the straight line to D: Euler's step, which is DDIM's (Song et al. 2021) and that of a flow in t."""
    return denoised + (b / a) * (x - denoised)


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """First order, an evaluation a step."""
    for a, b in pairwise(sigmas):
        x = toward(x, denoise(x, a), a, b)
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, churn: float = 0.0) -> Tensor:
    """Second order, two evaluations a step but the last (Karras et al. 2022, algorithm 2; S_min = 0, S_noise = 1)."""
    gamma = min(churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for a, b in pairwise(sigmas):
        if gamma > 0:
            raised = a * (1 + gamma)
            x, a = x + math.sqrt(raised**2 - a**2) * noise(), raised
        slope = (x - denoise(x, a)) / a
        ahead = x + (b - a) * slope
        x = ahead if b == 0 else x + 0.5 * (b - a) * (slope + (ahead - denoise(ahead, b)) / b)
    return x


def ancestral_step(x: Tensor, denoised: Tensor, a: float, b: float, noise: Noise, eta: float) -> Tensor:
    """With eta = 1 a draw from the posterior q(x_b | x_a, x0 = D) of DDPM, with 0 Euler's step; eta is DDIM's."""
    up = min(b, eta * math.sqrt(b**2 * (a**2 - b**2) / a**2))
    x = toward(x, denoised, a, math.sqrt(b**2 - up**2))
    return x + up * noise() if up > 0 else x


def ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Tensor:
    """First order, with fresh noise at each step (Ho et al. 2020)."""
    for a, b in pairwise(sigmas):
        x = ancestral_step(x, denoise(x, a), a, b, noise, eta)
    return x


def consistency(denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Tensor:
    """Every step goes all the way and is noised again (Song et al. 2023, algorithm 1): for consistency models."""
    for a, b in pairwise(sigmas):
        x = denoise(x, a)
        x = x + b * noise() if b > 0 else x
    return x


def dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise | None = None, eta: float = 0.0
) -> Tensor:
    """Second order by the last evaluation (Lu et al. 2022, DPM-Solver++, algorithm 2); with eta > 0, which needs noise,
    of the reverse SDE."""
    before: tuple[Tensor, float] | None = None
    for a, b in pairwise(sigmas):
        denoised = denoise(x, a)
        if b == 0:
            return denoised
        h = math.log(a / b)
        ahead = _extrapolated(denoised, before, h)
        x = (b / a) * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * ahead
        if eta > 0:
            assert noise is not None
            x = x + b * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        before = denoised, h
    return x


def _extrapolated(denoised: Tensor, before: tuple[Tensor, float] | None, h: float) -> Tensor:
    """D in the middle of a step of h, from D at its start and at that of the step before it."""
    return denoised if before is None else denoised + (denoised - before[0]) * (h / (2 * before[1]))


def unipc(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Second order, with dpmpp_2m as predictor and a corrector that costs no evaluation (Zhao et al. 2023, UniPC-2 with
    B2(h) = exp(h) - 1)."""
    denoised, before = denoise(x, sigmas[0]), None
    for a, b in pairwise(sigmas):
        if b == 0:
            return denoised
        h = math.log(a / b)
        found = denoise(toward(x, _extrapolated(denoised, before, h), a, b), b)
        x = _corrected(x, denoised, found, before, a, b)
        denoised, before = found, (denoised, h)
    return x


def _corrected(
    x: Tensor, denoised: Tensor, found: Tensor, before: tuple[Tensor, float] | None, a: float, b: float
) -> Tensor:
    """x at b, from D at a, at b (found) and at the level before a."""
    p, h = b / a - 1, math.log(a / b)
    if before is None:
        return (b / a) * x - p * (denoised + 0.5 * (found - denoised))
    r = -before[1] / h
    slope = p / -h - 1
    first, second = slope / p, 2 * (slope / -h - 0.5) / p
    late = (second - r * first) / (1 - r)  # of [[1, 1], [r, 1]] (early, late) = (first, second)
    early = first - late
    return (b / a) * x - p * (denoised + early * (before[0] - denoised) / r + late * (found - denoised))
