"""Optimizers of full batches: they search along a direction, and ask for loss and gradient as often as that takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genai.errors import ConfigError
from genai.optim_table import LBFGSConfig, NewtonConfig

_FALL, _SLOPE = 1e-4, 0.9  # of the loss, and left of its slope, over what the slope at the start promises
_MOST_TRIALS = 25


class Searching(Optimizer):
    """Goes along `direction` until the loss has fallen and its slope is less steep (Wolfe 1969; by halves and doubles,
    Lewis & Overton 2013, as losses may have edges). `stalled` once that finds nothing lower."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: LBFGSConfig | NewtonConfig) -> None:
        self.parameters = list(parameters)
        super().__init__(self.parameters, {"lr": config.lr})
        self.max_iter, self.tolerance_change = config.max_iter, config.tolerance_change
        self.tolerance_grad = 0.0  # norm of the gradient at which a step ends
        self.stalled = False

    def direction(self, gradient: Tensor) -> Tensor:
        raise NotImplementedError

    def learn(self, step: Tensor, change: Tensor) -> None:
        """From a step and the change of the gradient along it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        measure = torch.enable_grad()(closure)
        first = loss = float(measure())
        gradient = self._gradient()
        for _ in range(self.max_iter):
            if float(gradient.norm()) <= self.tolerance_grad:
                break
            start, before, direction = self._point(), loss, self.direction(gradient)
            slope = float(gradient @ direction)
            if not slope < 0:  # rounding leaves no way down
                self.stalled = True
                break
            loss, found, step = self._search(measure, start, loss, direction, slope)
            self.stalled = not loss < before - self.tolerance_change
            if not loss < before:  # back to where the loss is least
                self._move(start)
                measure()
                break
            self.learn(step, found - gradient)
            gradient = found
            if self.stalled:
                break
        return torch.tensor(first)

    def _search(
        self, measure: Callable[[], Tensor], start: Tensor, loss: float, direction: Tensor, slope: float
    ) -> tuple[float, Tensor, Tensor]:
        """Loss and gradient where the search ends, and the step to there."""
        rate, low, high = float(self.param_groups[0]["lr"]), 0.0, math.inf
        for _ in range(_MOST_TRIALS):
            step = direction if rate == 1 else rate * direction
            self._move(start + step)
            found, gradient = float(measure()), self._gradient()
            if not found <= loss + _FALL * rate * slope:  # nor where it is not finite
                high = rate
            elif float(gradient @ direction) < _SLOPE * slope:
                low = rate
            else:
                break
            rate = (low + high) / 2 if high < math.inf else 2 * low
        return found, gradient, step

    def _gradient(self) -> Tensor:
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self.parameters])

    def _point(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters])

    def _move(self, point: Tensor) -> None:
        for p, values in zip(self.parameters, point.split([p.numel() for p in self.parameters]), strict=True):
            p.copy_(values.view(p.shape))


class LBFGS(Searching):
    """Liu & Nocedal 1989, the inverse Hessian in compact form (Byrd, Nocedal & Schnabel 1994, equation 3.1)."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: LBFGSConfig) -> None:
        super().__init__(parameters, config)
        self.history_size = config.history_size

    def direction(self, gradient: Tensor) -> Tensor:
        state = self.state[self.parameters[0]]
        if "steps" not in state:
            return -gradient * min(1.0, 1 / float(gradient.abs().sum()))
        steps, changes = state["steps"], state["changes"]
        products = steps @ changes.T
        scale = products[-1, -1] / changes[-1].square().sum()
        inner = torch.linalg.solve_triangular(products.triu(), (steps @ gradient)[:, None], upper=True)[:, 0]
        outer = products.diagonal() * inner + scale * (changes @ (inner @ changes - gradient))
        outer = torch.linalg.solve_triangular(products.triu().T, outer[:, None], upper=False)[:, 0]
        return scale * (inner @ changes - gradient) - outer @ steps

    def learn(self, step: Tensor, change: Tensor) -> None:
        if not float(step @ change) > 0:
            return
        state = self.state[self.parameters[0]]
        for name, value in (("steps", step), ("changes", change)):
            kept = [state[name][1 - self.history_size :]] if name in state and self.history_size > 1 else []
            state[name] = torch.cat([*kept, value[None]])


class Newton(Searching):
    """Newton's method for a child whose model states its steps: a parameter of it has a `newton` that gives one for
    each parameter."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: NewtonConfig) -> None:
        super().__init__(parameters, config)
        stated = [p.newton for p in self.parameters if hasattr(p, "newton")]
        if not stated:
            what = (
                "optim=newton is for losses made of squares, ridge or model.hinge=squared, of sets that fit in memory"
            )
            raise ConfigError(what, fix="type optim=lbfgs")
        self._steps = cast(Callable[[], list[Tensor]], stated[0])

    def direction(self, gradient: Tensor) -> Tensor:
        return torch.cat([step.reshape(-1) for step in self._steps()])
