"""What is missing, drawn around what is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from genai.solvers.steps import Denoise, Noise, ancestral_step


def inpaint(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], noise: Noise, *, known: Tensor, missing: Tensor, repeats: int
) -> Tensor:
    """A draw of the values of `missing` (booleans, of the shape of x) given the others of `known` (Lugmayr et al. 2022,
    RePaint): at each level the known values are noised afresh, and each step is taken `repeats` times, noised back in
    between, so that what is drawn and what is known agree."""
    for a, b in pairwise(sigmas):
        for left in reversed(range(repeats if b > 0 else 1)):
            x = torch.where(missing, x, known + a * noise())
            x = ancestral_step(x, denoise(x, a), a, b, noise, eta=1.0)
            if left:
                x = x + math.sqrt(a**2 - b**2) * noise()
    return torch.where(missing, x, known)
