"""Inputs as linear machines see them: standardised, or by a Gaussian kernel exp(-gamma |x - x'|^2) as features whose
products are the kernel, exactly among chosen rows (Williams & Seeger 2001) or on average (Rahimi & Recht 2007)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

_JITTER = 1e-10  # on the diagonal of a kernel's matrix, relative to its 1, so that it has a factor


class Standardised(nn.Module):
    """(B, values) -> the same with a mean of 0 and a deviation of 1 over the training rows."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, values: int, *, scaled: bool) -> None:
        super().__init__()
        self.features, self.scaled = values, scaled
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("deviation", torch.ones(values))

    def prepare(self, rows: Tensor, generator: torch.Generator) -> None:
        if self.scaled:
            deviation = rows.std(0, correction=0)
            self.mean.copy_(rows.mean(0))
            self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))  # a value that never changes

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class _Kernel(Standardised):
    gamma: Tensor

    def __init__(self, values: int, *, scaled: bool, features: int, gamma: float | Literal["scale"]) -> None:
        super().__init__(values, scaled=scaled)
        self.features, self._given = features, gamma
        self.register_buffer("gamma", torch.ones(()))

    def _scaled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The rows standardised, once their scale and gamma are found."""
        super().prepare(rows, generator)
        seen = super().forward(rows.to(self.mean))
        variance = float(seen.var(correction=0))
        scale = 1 / (rows.shape[1] * variance) if variance > 0 else 1.0
        self.gamma.fill_(scale if self._given == "scale" else self._given)
        return seen


class Nystroem(_Kernel):
    """Features whose products are the kernel of any row with the chosen ones. With all rows it is exact."""

    landmarks: Tensor
    factor: Tensor

    def __init__(self, values: int, *, scaled: bool, features: int, gamma: float | Literal["scale"]) -> None:
        super().__init__(values, scaled=scaled, features=features, gamma=gamma)
        self.register_buffer("landmarks", torch.zeros(features, values))
        self.register_buffer("factor", torch.eye(features))

    def prepare(self, rows: Tensor, generator: torch.Generator) -> None:
        seen = self._scaled(rows, generator)
        chosen = torch.randperm(len(seen), generator=generator)[: self.features]
        self.landmarks.copy_(seen[chosen.to(seen.device)])
        matrix = self._kernel(self.landmarks.double(), self.landmarks.double())
        jitter = _JITTER
        while True:
            factor, failed = torch.linalg.cholesky_ex(matrix + jitter * torch.eye(len(matrix)).to(matrix))
            if not failed:
                break
            jitter *= 10  # rows that are there twice
        self.factor.copy_(factor)

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-self.gamma.to(x) * torch.cdist(x, y).square())

    def forward(self, x: Tensor) -> Tensor:
        kernel = self._kernel(super().forward(x), self.landmarks)
        return torch.linalg.solve_triangular(self.factor, kernel.T, upper=False).T


class RandomFourier(_Kernel):
    """Cosines of random directions, orthogonal within each block (Yu et al. 2016), and of random phase."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, values: int, *, scaled: bool, features: int, gamma: float | Literal["scale"]) -> None:
        super().__init__(values, scaled=scaled, features=features, gamma=gamma)
        self.register_buffer("frequencies", torch.zeros(features, values))
        self.register_buffer("phases", torch.zeros(features))

    def prepare(self, rows: Tensor, generator: torch.Generator) -> None:
        seen = self._scaled(rows, generator)
        values, blocks = seen.shape[1], []
        for _ in range(math.ceil(self.features / values)):
            directions = torch.linalg.qr(torch.randn(values, values, generator=generator, dtype=torch.float64)).Q
            lengths = torch.randn(values, values, generator=generator, dtype=torch.float64).norm(dim=1)
            blocks.append(directions * lengths[:, None])
        self.frequencies.copy_(torch.cat(blocks)[: self.features] * (2 * self.gamma.double().cpu()).sqrt())
        self.phases.copy_(2 * math.pi * torch.rand(self.features, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.cos(super().forward(x) @ self.frequencies.T + self.phases)
        return waves * math.sqrt(2 / self.features)
