"""Levels of noise that a solver visits: falling sigmas, and 0 at the end."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

Grid = Literal["karras", "uniform_t", "log"]
_RHO = 7.0


def sigmas(
    kind: Grid, steps: int, *, sigma_min: float, sigma_max: float, shift: float = 1.0, fraction: float = 1.0
) -> list[float]:
    """`steps` levels from sigma_max down to sigma_min, then 0, where a first-order step returns the denoised.

    "karras": even in sigma^(1/7) (Karras et al. 2022, equation 5); "log": even in ln(sigma); "uniform_t": even in t =
    sigma / (1 + sigma), the time of rectified flows. A `shift` s multiplies every level: t -> s t / (1 + (s - 1) t)
    (Esser et al. 2024, equation 23). With a `fraction` below 1 only that last part of the way is gone, in as
    many of the steps, but one at least.

    Raises ValueError for levels that do not fall.
    """
    if steps < 1 or not 0 < sigma_min < sigma_max:
        raise ValueError(f"{steps} levels from {sigma_max} to {sigma_min}")
    if fraction == 0:
        return [0.0]
    to, back = {
        "karras": (lambda s: s ** (1 / _RHO), lambda u: u**_RHO),
        "log": (math.log, math.exp),
        "uniform_t": (lambda s: s / (1 + s), lambda u: u / (1 - u)),
    }[kind]
    first, last = to(sigma_max), to(sigma_min)
    steps, first = max(1, round(fraction * steps)), last + fraction * (first - last)
    levels = [shift * back(first + i / max(steps - 1, 1) * (last - first)) for i in range(steps)]
    if any(a <= b for a, b in pairwise(levels)):
        raise ValueError(f"{steps} levels from {sigma_max} to {sigma_min} are not apart")
    return [*levels, 0.0]
