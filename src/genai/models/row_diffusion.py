"""Diffusion of table rows. A category is noised as the numbers of its group, and D of a group are the probabilities of
its categories, learned by their cross-entropy (Dieleman et al. 2022, CDCD). D is told which elements are known, and
learns to complete rows from any part of them (as Tashiro et al. 2021, CSDI, does for series): what is drawn by a
condition, or filled in, follows exactly from what is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genai.contract import Alarm, Batch, Request, Spec, Terms
from genai.errors import ConfigError
from genai.models import DiffusionConfig
from genai.models.conditions import Cond, Told
from genai.models.diffusion import Denoiser, Diffusion
from genai.models.parametrisation import sigma_of, stratified
from genai.models.rows import Rows
from genai.nets.family import family
from genai.schema import NetConfig

_BY_HEART = 1.3
_MEASURED = 1024  # rows of a batch of held-out ones, at least


class RowDenoiser(Denoiser):
    def __init__(self, *, spec: Spec, config: DiffusionConfig, net: NetConfig) -> None:
        super().__init__(spec=spec, config=config, net=net)
        self.rows = Rows(spec)

    def _net(self, spec: Spec, net: NetConfig, context: int) -> torch.nn.Module:
        beside = spec.shape[0] + Rows(spec).elements
        return family(net).completer(spec=spec, config=net, context=context, beside=beside)

    def outputs(self, x: Tensor, sigma: Tensor, told: Told | None, known: Tensor, is_known: Tensor) -> Tensor:
        """(B, D): D of numbers, and log-probabilities within groups. Of elements `is_known` (B, E) the values are those
        of `known` (B, D), whatever x says; sigma (B,) or (1,)."""
        row, given = self.scalars(sigma), self.rows.spread(is_known)
        level = self.noise_level(self.waves(row.c_noise))
        noised = row.c_in[:, None] * x * (1 - given)
        found = self.net(
            torch.cat([noised, known * given, is_known], dim=1), level if told is None else level + told.vector
        ).to(x.dtype)
        numbers, logits = self.rows.split(found)
        own = row.c_skip[:, None] * x[:, : self.rows.numbers] + row.c_out[:, None] * numbers
        return torch.cat([own, self.rows.log_softmax(logits)], dim=1)


class RowDiffusion(Diffusion):
    # Below, categories are long settled: drawn down to 0.002, where training hardly comes, 3.7 % of them were wrong in
    # income.csv, and down to 0.05 1.4 %.
    levels = (0.05, 20.0)
    denoiser: RowDenoiser

    def __init__(self, *, spec: Spec, config: DiffusionConfig, net: NetConfig) -> None:
        if config.consistency:
            raise ConfigError("model.consistency is not for tables", fix="type model.consistency=false")
        super().__init__(spec=spec, config=config, net=net)
        self.stop_metric = "denoising_loss"

    def _denoiser(self, spec: Spec, config: DiffusionConfig, net: NetConfig) -> Denoiser:
        return RowDenoiser(spec=spec, config=config, net=net)

    def denoising_terms(self, x0: Tensor, cond: Cond) -> Terms:
        """Means over elements of the weighted error of numbers, and of the cross-entropy of groups."""
        rows = self.denoiser.rows
        share = stratified(len(x0), x0)
        sigma = sigma_of(share, self.law)
        x = x0 + sigma[:, None] * torch.randn_like(x0)
        there = torch.cat([rows.there(x0), x0.new_ones(len(x0), len(rows.sizes))], dim=1)
        is_known = self.masks(x0) * there
        out = self.denoiser.outputs(x, sigma, self.denoiser.conditions(cond), x0, is_known)
        wanted = there * (1 - is_known)
        numbers, logs = rows.split(out)
        own, groups = rows.split(x0)
        squared = self.denoiser.scalars(sigma).weight[:, None] * (numbers - own).square()
        entropy = x0.new_zeros(len(x0), len(rows.sizes)).index_add(
            1, rows.element[rows.numbers :] - rows.numbers, -groups * logs
        )
        errors, asked = torch.cat([squared, entropy], dim=1) * wanted, wanted.sum(0).clamp(min=1)
        by_element = errors.sum(0) / asked
        terms = {"loss": errors.sum() / wanted.sum().clamp(min=1)}
        if rows.numbers:
            terms["weighted_mse"] = by_element[: rows.numbers].mean()
        if rows.sizes:
            terms["cross_entropy"] = by_element[rows.numbers :].mean()
        return terms

    def alarms(self) -> Sequence[Alarm]:
        return (
            Alarm(
                name="loss on held-out rows over that in training",
                measure=lambda terms: terms["valid/denoising_loss"] / terms["denoiser/loss"],
                above=_BY_HEART,
                says="it learns the rows by heart, and samples become copies - add rows, or type --step best",
            ),
        )

    def masks(self, x: Tensor) -> Tensor:
        """(B, E), 1 for elements that are known: of some rows none, of the others each by a chance of the row."""
        chance = torch.rand(len(x), 1, device=x.device, dtype=x.dtype)
        chance = torch.where(torch.rand_like(chance) < self.config.completion, chance, 0.0)
        return (torch.rand(len(x), self.denoiser.rows.elements, device=x.device, dtype=x.dtype) < chance).to(x.dtype)

    def evaluate(self, batch: Batch) -> Terms:
        # Of few rows several levels and parts each: by one of each, which checkpoint is best is luck.
        times = math.ceil(_MEASURED / len(batch))
        cond = {name: value.repeat(times, *(1,) * (value.ndim - 1)) for name, value in batch.cond.items()}
        terms = self.denoising_terms(batch.x.repeat(times, 1), cond)
        return {"denoising_loss": terms.pop("loss"), **terms}

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self, request: Request) -> Tensor:
        known = torch.zeros(request.count, *self.spec.shape, device=request.device, dtype=request.dtype)
        return self.completed(known, known.new_zeros(request.count, self.denoiser.rows.elements), request)

    def impute(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        return self.completed(x, self.denoiser.rows.known(missing).to(x), request, whole=True)

    def complete(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        return self.completed(x, self.denoiser.rows.known(missing).to(x), request)

    def completed(self, known: Tensor, is_known: Tensor, request: Request, *, whole: bool = False) -> Tensor:
        """Rows drawn given their elements `is_known` (B, E); of the groups 1 at one number. No category is missing
        where they are `whole`."""
        levels, rows = self.grid(request.sampling), self.denoiser.rows
        conditions = self.denoiser.conditions
        told = conditions(conditions.filled(request.cond, request.count, request.device))

        def denoise(x: Tensor, sigma: float) -> Tensor:
            # One level of noise for all of them: what a network makes of it is worked out once.
            out = self.denoiser.outputs(x, x.new_full((1,), sigma), told, known, is_known)
            numbers, logs = rows.split(out)
            if whole and rows.missing_at:
                logs[:, rows.missing_at] = -math.inf
                logs = rows.log_softmax(logs)
            return torch.cat([numbers, logs.exp()], dim=1)

        x = self.solved(denoise, levels[0] * request.noise(*self.spec.shape), levels, request)
        numbers, groups = rows.split(x)
        drawn = torch.cat([numbers, rows.hardened(groups)], dim=1)
        return torch.where(rows.spread(is_known) > 0, known, drawn)
