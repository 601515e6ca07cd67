"""Inputs as linear machines see them: standardised, or by a Gaussian kernel exp(-gamma |x - x'|^2) as features whose
products are the kernel, exactly among chosen rows (Williams & Seeger 2001) or on average (Rahimi & Recht 2007)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from genai.errors import NonFiniteError

# On the diagonal of a kernel's matrix, relative to its 1, so that it has a factor; what lies below it is rounding.
_JITTER = {torch.float64: 1e-10, torch.float32: 1e-6}


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


def gaussian(x: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
    """(B, values), (N, values) -> (B, N)."""
    lengths = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(lengths, x, y.T, alpha=-2).clamp_(min=0).mul_(-gamma).exp_()


def factor_of(matrix: Tensor) -> Tensor:
    """Cholesky's lower factor of a symmetric matrix, with as much more on the diagonal as that takes."""
    more = torch.finfo(matrix.dtype).eps * matrix.diagonal().mean()
    if not more.isfinite():
        raise NonFiniteError("the kernel of the rows is not finite", fix="type model.standardise=true")
    factor, failed = torch.linalg.cholesky_ex(matrix)
    while failed:  # rows that are there twice, or a kernel that is rounded
        more = 10 * more
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(more.expand(len(matrix))))
    return factor


class Exact(_Kernel):
    """The kernel itself with every training row: functions are sums of these, their norms those of the kernel."""

    landmarks: Tensor

    def __init__(self, values: int, *, scaled: bool, features: int, gamma: float | Literal["scale"]) -> None:
        super().__init__(values, scaled=scaled, features=features, gamma=gamma)
        self.register_buffer("landmarks", torch.zeros(features, values))

    def prepare(self, rows: Tensor, generator: torch.Generator) -> None:
        self.landmarks.copy_(self._scaled(rows, generator))

    def forward(self, x: Tensor) -> Tensor:
        return gaussian(super().forward(x), self.landmarks, self.gamma)


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
        double = self.landmarks.double()
        matrix = gaussian(double, double, self.gamma.double())
        matrix.diagonal().add_(_JITTER[self.factor.dtype])
        self.factor.copy_(factor_of(matrix))

    def forward(self, x: Tensor) -> Tensor:
        kernel = gaussian(super().forward(x), self.landmarks, self.gamma)
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
