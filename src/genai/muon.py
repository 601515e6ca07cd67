"""Muon: momentum of matrices, made orthogonal at every step (Jordan et al. 2024), and Adam for what is no matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genai import cpu
from genai.optim_table import MuonConfig

_QUINTIC, _STEPS = (3.4445, -4.7750, 2.0315), 5  # of Newton and Schulz's iteration
_LEAST_BF16 = 64  # rows and columns


def orthogonal(m: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with their singular values, whatever they were, brought to between 0.7 and 1.2."""
    a, b, c = _QUINTIC
    tall = m.shape[1] > m.shape[2]
    x = m.mT if tall else m
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def matrices_of(parameter: nn.Parameter, value: Tensor) -> Iterable[Tensor]:
    """The matrices that lie one below the other in `value`, of the shape of a parameter that says so."""
    return value.split(getattr(parameter, "rows", value.shape[0]))


class Muon(Optimizer):
    """A parameter is a matrix, may hold several, or has a `role` and is none: a "table" that ids are read with, the
    "head" that makes logits. A step of a matrix is scaled by sqrt(rows / columns) where that is above 1."""

    def __init__(self, parameters: Iterable[nn.Parameter], config: MuonConfig) -> None:
        by_role: dict[str, list[nn.Parameter]] = defaultdict(list)
        for p in parameters:
            by_role[getattr(p, "role", "matrix" if p.ndim == 2 else "other")].append(p)
        matrices = {"params": by_role.pop("matrix", []), "lr": config.lr, "weight_decay": config.weight_decay}
        rates = {"table": config.table_lr, "head": config.head_lr, "other": config.other_lr}
        others: list[dict[str, Any]] = [{"params": by_role[role], "lr": rate} for role, rate in rates.items()]
        self.adam = torch.optim.AdamW(others, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)
        super().__init__([*self.adam.param_groups, matrices], {"fused": True})
        *self.adam.param_groups, self.matrices = self.param_groups  # the same: a rate that is set is set in both
        self.adam.state = self.state
        self.momentum = config.momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.adam.found_inf = bad = getattr(self, "found_inf", None)  # type: ignore[attr-defined]
        self.adam.step()
        learning = [p for p in self.matrices["params"] if p.grad is not None]
        if learning:
            self._step(learning, bad)
        return loss

    def _step(self, learning: list[nn.Parameter], bad: Tensor | None) -> None:
        gradients = [p.grad for p in learning if p.grad is not None]
        for p in learning:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in learning]
        taken: float | Tensor = 1.0
        if bad is not None:  # of an accelerator: where something is not finite, weights and state stay as they are
            taken = (bad == 0).to(buffers[0].dtype)
            gradients = [torch.where(bad == 0, g, buffer) for g, buffer in zip(gradients, buffers, strict=True)]
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, buffers, self.momentum)  # Nesterov's
        rate, decay = self.matrices["lr"], self.matrices["weight_decay"]
        if decay:
            torch._foreach_mul_(list[Tensor](learning), 1 - rate * decay * taken)
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, step in zip(learning, ahead, strict=True):
            for target, part in zip(matrices_of(p, p), matrices_of(p, step), strict=True):
                alike[part.shape].append((target, part))
        for (rows, columns), pairs in alike.items():
            together = torch.stack([part for _, part in pairs])
            steps = orthogonal(together.to(_dtype(together))).to(together.dtype) * taken
            scale = math.sqrt(max(1.0, rows / columns))
            torch._foreach_add_([target for target, _ in pairs], steps.unbind(), alpha=-rate * scale)


def _dtype(matrices: Tensor) -> torch.dtype:
    """bf16 is enough for the iteration. On a CPU small products in it are no faster."""
    slow = matrices.device.type == "cpu" and (min(matrices.shape[1:]) < _LEAST_BF16 or not cpu.multiplies_bf16())
    return matrices.dtype if slow else torch.bfloat16
