"""Gaussian copula of table rows (Sklar 1959; Patki et al. 2016, the Synthetic Data Vault): every element has a normal
score, the scores are jointly normal. What other models of tables are to beat, known after one look at the data.

A number is its own score. A category stands for the part of (0, 1) that is as long as the category is frequent, and has
the scores of its ranks there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import CopulaConfig
from genai.models.rows import Rows
from genai.schema import NetConfig

_EDGE = 1e-4  # of ranks
_AT_ONCE = 4096  # rows
_LEAST_EIGENVALUE = 1e-3  # of the correlations, so that they can be inverted


class Copula(Model):
    sampling_keys = frozenset({"draws"})
    correlation: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, *, spec: Spec, config: CopulaConfig, net: NetConfig) -> None:
        super().__init__()
        if spec.modality != "table":
            raise ConfigError(f"a copula is of tables, the data is {spec.modality}", fix="type data.path=TABLE.csv")
        self.spec, self.rows = spec.told("label"), Rows(spec)
        self.classes = self.spec.label_classes
        elements, rest = self.rows.elements, sum(self.rows.sizes)
        self.register_buffer("correlation", torch.eye(elements + bool(self.classes)))
        # Of each category, then of each label: the ends of its ranks.
        self.register_buffer("low", torch.zeros(rest + self.classes))
        self.register_buffer("high", torch.ones(rest + self.classes))

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int, seed: int) -> None:
        """Frequencies, then the correlations of the scores of those elements of which both are there."""
        parts = [fetch(ids) for ids in torch.arange(count).split(_AT_ONCE)]
        ones = torch.cat([self._ones(part).double().sum(0, keepdim=True) for part in parts]).sum(0)
        start = 0
        for size in (*self.rows.sizes, *([self.classes] if self.classes else [])):
            ends = ones[start : start + size].cumsum(0) / ones[start : start + size].sum().clamp(min=1)
            self.high[start : start + size] = ends.to(self.high)
            self.low[start : start + size] = F.pad(ends[:-1], (1, 0)).to(self.low)
            start += size
        generator = torch.Generator().manual_seed(seed)
        size = len(self.correlation)
        sums = torch.zeros(5, size, size, dtype=torch.float64)
        for part in parts:
            z, there = self.scores(part, generator)
            z, there = z.double().cpu() * there.double().cpu(), there.double().cpu()
            sums += torch.stack([there.T @ there, z.T @ there, there.T @ z, z.T @ z, z.square().T @ there])
        n, first, second, product, square = sums
        n = n.clamp(min=1)
        covariance = product / n - first / n * (second / n)
        variance = square / n - (first / n).square()
        found = covariance / (variance * variance.T).clamp(min=1e-12).sqrt()
        found = torch.nan_to_num(found).clamp(-1, 1).fill_diagonal_(1.0)
        values, vectors = torch.linalg.eigh(found)  # pairs that lack others leave it no correlation matrix
        found = vectors * values.clamp(min=_LEAST_EIGENVALUE) @ vectors.T
        scale = found.diagonal().rsqrt()
        self.correlation.copy_(scale[:, None] * found * scale)

    def _ones(self, batch: Batch) -> Tensor:
        """(B, rest + classes): 1 at the category of each group, and at the label."""
        _, ones = self.rows.split(batch.x)
        if not self.classes:
            return ones
        return torch.cat([ones, F.one_hot(batch.cond["label"], self.classes).to(ones)], dim=1)

    def scores(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(B, elements) and 1 where they are there. Of a category a score out of its part, or its middle one."""
        x, ones = batch.x, self._ones(batch)
        numbers, _ = self.rows.split(x)
        sizes = (*self.rows.sizes, *([self.classes] if self.classes else []))
        low, high = (
            torch.stack([part.sum(1) for part in (ones * ends.to(ones)).split(sizes, dim=1)], dim=1) if sizes else ones
            for ends in (self.low, self.high)
        )
        share = torch.full_like(low, 0.5)
        if generator is not None:
            share = torch.rand(low.shape, generator=generator).to(low)
        rank = (low + share * (high - low)).clamp(_EDGE, 1 - _EDGE)
        there = torch.cat([self.rows.there(x), torch.ones_like(low)], dim=1)
        return torch.cat([numbers, torch.special.ndtri(rank)], dim=1), there

    def updates(self) -> Sequence[Update]:
        return ()

    def evaluate(self, batch: Batch) -> Terms:
        """Of the scores that are there, beside independent ones."""
        z, there = self.scores(batch)
        own, nats = z.double() * there, torch.zeros(len(z), dtype=torch.float64, device=z.device)
        masks, which = there.double().unique(dim=0, return_inverse=True)  # few differ
        for i, among in enumerate(self._among(mask[None]) for mask in masks):
            rows, factor = which == i, torch.linalg.cholesky(among[0])
            white = torch.linalg.solve_triangular(factor, own[rows].T, upper=False)
            nats[rows] = factor.diagonal().log().sum() + 0.5 * (white.square().sum(0) - own[rows].square().sum(1))
        return {"copula_nats": nats.mean().to(z)}

    def _among(self, mask: Tensor) -> Tensor:
        """(B, E) of 0 and 1 -> (B, E, E): the correlations of those that are 1; all others stand alone."""
        return self.correlation.double() * mask[:, :, None] * mask[:, None] + torch.diag_embed(1 - mask)

    def draw(self, request: Request) -> Tensor:
        x = torch.zeros(request.count, *self.spec.shape, device=request.device, dtype=request.dtype)
        return self.completed(x, torch.zeros(request.count, self.rows.elements, device=x.device), request)

    def impute(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        return self.completed(x, self.rows.known(missing).to(x), request, whole=True)

    def complete(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        return self.completed(x, self.rows.known(missing).to(x), request)

    def completed(self, x: Tensor, is_known: Tensor, request: Request, *, whole: bool = False) -> Tensor:
        """Rows drawn given their elements `is_known` (B, E) and the label: a draw of all scores, moved to what is known
        (Journel & Huijbregts 1978). No category is missing where they are `whole`."""
        correlation = self.correlation.double()
        z = request.noise(len(correlation)).double() @ torch.linalg.cholesky(correlation).T
        known, there = self.scores(Batch(x=x, cond=request.cond))
        if self.classes:
            is_known = torch.cat([is_known, torch.ones_like(is_known[:, :1])], dim=1)
        mask = is_known.double() * there.double()
        masks, which = mask.unique(dim=0, return_inverse=True)  # few differ
        for i, one in enumerate(masks):
            if one.any():
                rows, at = which == i, one > 0
                off = known[rows][:, at].double() - z[rows][:, at]
                factor = torch.linalg.cholesky(correlation[at][:, at])
                z[rows] += torch.cholesky_solve(off.T, factor).T @ correlation[at]
        z = z.to(x.dtype)
        numbers, rest = z[:, : self.rows.numbers], z[:, self.rows.numbers : self.rows.elements]
        rank = self.rows.spread(torch.cat([numbers, torch.special.ndtr(rest)], dim=1))[:, self.rows.numbers :]
        count = sum(self.rows.sizes)
        if whole and self.rows.missing_at:  # the last part of the ranks
            ends = torch.ones(len(self.rows.sizes), dtype=rank.dtype, device=rank.device)
            groups = self.rows.element[self.rows.numbers :][self.rows.missing_at] - self.rows.numbers
            ends[groups] = self.low[self.rows.missing_at].to(rank)
            rank = rank * ends[self.rows.element[self.rows.numbers :] - self.rows.numbers]
        inside = (rank >= self.low[:count].to(rank)) & (rank < self.high[:count].to(rank))
        drawn = torch.cat([numbers, self.rows.hardened(inside.to(x.dtype))], dim=1)
        return torch.where(self.rows.spread(is_known[:, : self.rows.elements]) > 0, x, drawn)
