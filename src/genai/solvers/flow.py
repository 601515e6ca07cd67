"""The probability-flow ODE against its direction: from data to noise, and the likelihood on the way.

In l = ln(sigma) it is dx/dl = x - D(x, sigma), and d(log p)/dl = -(N - tr dD/dx) for N values of x (Song et al. 2021,
score-based generative modelling, equation 39).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from genai.solvers.steps import Denoise


def invert(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """x at the last of rising levels, by Heun's method; solvers of the ODE lead back to x."""
    for a, b in pairwise(sigmas):
        h = math.log(b / a)
        slope = x - denoise(x, a)
        ahead = x + h * slope
        x = x + 0.5 * h * (slope + ahead - denoise(ahead, b))
    return x


def log_likelihood(denoise: Denoise, x: Tensor, sigmas: Sequence[float], probe: Tensor) -> Tensor:
    """(B,) nats: log p(x) of x (B, ...) at the first of rising levels, by Heun's method in ln(sigma).

    `probe` holds -1 and 1 at random, of the shape of x: probe . (dD/dx probe) is tr dD/dx on average (Hutchinson 1990).
    At the last level x is taken for normal with variance 1 + sigma^2.
    """
    dims = tuple(range(1, x.ndim))
    num_values = x[0].numel()

    def slope(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = denoise(x, sigma)
            (pulled,) = torch.autograd.grad((denoised * probe).sum(), x)
        return (x - denoised).detach(), num_values - (pulled * probe).sum(dims)

    gained = x.new_zeros(len(x))
    for a, b in pairwise(sigmas):
        h = math.log(b / a)
        slope_a, gain_a = slope(x, a)
        slope_b, gain_b = slope(x + h * slope_a, b)
        x = x + 0.5 * h * (slope_a + slope_b)
        gained = gained + 0.5 * h * (gain_a + gain_b)
    variance = 1 + sigmas[-1] ** 2
    normal = -0.5 * (x.square().sum(dims) / variance + num_values * math.log(2 * math.pi * variance))
    return normal + gained
