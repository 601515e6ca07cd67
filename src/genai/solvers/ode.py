"""Ordinary differential equations dx/dt = velocity(x, t), solved with few evaluations."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (x, t) -> dx/dt


def midpoint(velocity: Velocity, x: Tensor, *, steps: int) -> Tensor:
    """x at t = 1 from x at t = 0 by `steps` steps of the midpoint method, of second order, two evaluations each."""
    h = 1 / steps
    for i in range(steps):
        half = x + 0.5 * h * velocity(x, i * h)
        x = x + h * velocity(half, (i + 0.5) * h)
    return x
