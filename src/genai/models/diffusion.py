"""Diffusion in its one form: a denoiser, and a solver that follows it from noise to data (Karras et al. 2022).

Symbols: x0 data in units of their deviation, eps standard normal, x = x0 + sigma eps, D(x, sigma, c) the expected x0
given x and the condition c. What the network predicts is a row of scalars (parametrisation.py), how x gets to sigma = 0
a function of D (genai.solvers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genai.contract import Alarm, Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import DiffusionConfig
from genai.models.conditions import PROMPT, Cond, Conditions, Told
from genai.models.latents import between
from genai.models.parametrisation import OBJECTIVES, WEIGHTINGS, law_of, sigma_of, stratified
from genai.nets.family import family
from genai.schema import NetConfig, SamplingConfig
from genai.solvers import flow, steps
from genai.solvers.grid import sigmas
from genai.solvers.inpaint import inpaint
from genai.solvers.steps import Denoise, Noise

_BINS = 8  # equal parts of the law of noise that the loss is logged in
_WAVES, _SLOWEST, _FASTEST = 32, 0.125, 8.0  # of the noise level as the network is told it, periods in its unit
_LEAST, _MOST, _TINY = 0.002, 80.0, 1e-8  # sigma
_CONSISTENCY_LAW = -0.4, 2.0  # of ln(sigma), mean and deviation; the paper's -1.1 is for data of deviation 0.5
_BY_HEART = 1.5
_CONTINUED = ("edm", "flow", "v", "eps")  # objectives of which D(x, 0) = x


class Denoiser(nn.Module):
    """D(x, sigma, c) of x (B, *spec.shape) in units of the data's deviation and sigma (B,)."""

    frequencies: Tensor

    def __init__(self, *, spec: Spec, config: DiffusionConfig, net: NetConfig) -> None:
        super().__init__()
        self.scalars = OBJECTIVES[config.objective]
        context = config.text_width if PROMPT in spec.cond else 0
        self.net = self._net(spec, net, context)
        features = self.net.features
        self.conditions = Conditions(
            spec=spec, features=features, text_width=config.text_width, text_layers=config.text_layers
        )
        ratio = (_FASTEST / _SLOWEST) ** (1 / (_WAVES - 1))
        self.register_buffer("frequencies", 2 * math.pi * _SLOWEST * ratio ** torch.arange(_WAVES), persistent=False)
        self.noise_level = nn.Sequential(nn.Linear(2 * _WAVES, features), nn.SiLU(), nn.Linear(features, features))
        self.log_variance = nn.Linear(2 * _WAVES, 1) if config.weighting == "learned" else None
        if self.log_variance is not None:
            nn.init.zeros_(self.log_variance.weight)

    def _net(self, spec: Spec, net: NetConfig, context: int) -> Any:
        return family(net).denoiser(spec=spec, config=net, context=context)

    def forward(self, x: Tensor, sigma: Tensor, told: Told | None) -> Tensor:
        """`told` is what `conditions` makes of c."""
        row = self.scalars(sigma)
        each = (-1, *[1] * (x.ndim - 1))
        level = self.noise_level(self.waves(row.c_noise))
        if told is None:
            found = self.net(row.c_in.view(each) * x, level)
        else:
            found = self.net(row.c_in.view(each) * x, level + told.vector, told.context, told.mask)
        return row.c_skip.view(each) * x + row.c_out.view(each) * found.to(x.dtype)

    def waves(self, level: Tensor) -> Tensor:
        angles = level[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Diffusion(Model):
    sampling_keys = frozenset(
        {"solver", "steps", "grid", "sigma_min", "sigma_max", "shift", "eta", "churn", "guidance", "guidance_interval"}
        | {"frames", "path", "repeats", "likelihood_steps", "print_grid", "guide", "draws"}
    )
    weights_go_by = frozenset({"objective"})
    levels: ClassVar[tuple[float, float]] = (_LEAST, _MOST)  # of noise, that samples pass through
    mean: Tensor
    deviation: Tensor
    guide: Diffusion | None

    def __init__(self, *, spec: Spec, config: DiffusionConfig, net: NetConfig) -> None:
        super().__init__()
        self.spec = spec.told(*config.conditions)
        self.config, self.law, self.guide = config, law_of(config), None
        if config.consistency and config.objective not in _CONTINUED:
            what = f"model.consistency needs an objective whose D leaves data as they are, not {config.objective}"
            raise ConfigError(what, fix="start from a run with model.objective=edm, flow, v or eps")
        if config.consistency and config.init_from is None:
            what = "model.consistency tunes what a run has learned"
            raise ConfigError(what, fix="name the run by model.init_from=RUN")
        if config.consistency and getattr(net, "dropout", 0.0) > 0:
            what = "model.consistency compares two outputs of the network, which net.dropout sets apart"
            raise ConfigError(what, fix="type net.dropout=0")
        if config.mirror and spec.modality not in ("image", "video"):
            what = f"model.mirror is of pictures, the data is {spec.modality}"
            raise ConfigError(what, fix="type model.mirror=false")
        self.may_lack = frozenset(self.spec.cond) if config.condition_dropout else frozenset()
        self.stop_metric = None if config.consistency else "weighted_mse"
        self.denoiser = self._denoiser(self.spec, config, net)
        shape = (-1, *[1] * (len(spec.shape) - 1))
        self.register_buffer("mean", torch.tensor(spec.mean).view(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(spec.deviation).view(shape), persistent=False)

    @classmethod
    def suited(cls, spec: Spec) -> type[Model]:
        if spec.modality != "table":
            return cls
        from genai.models.row_diffusion import RowDiffusion

        return RowDiffusion

    def _denoiser(self, spec: Spec, config: DiffusionConfig, net: NetConfig) -> Denoiser:
        return Denoiser(spec=spec, config=config, net=net)

    def updates(self) -> Sequence[Update]:
        return (Update(trains="denoiser", loss=self.loss),)

    def notes(self) -> Sequence[str]:
        told = " and ".join(self.denoiser.conditions.names) or "nothing"
        if self.config.consistency:
            return [f"consistency tuning of {self.config.objective}, told {told}"]
        name, mean, std = self.law
        law = f"{name}({mean:g}, {std:g})" if name in ("normal", "log_uniform") else name
        return [f"objective {self.config.objective}, ln(sigma) {law}, told {told}"]

    def alarms(self) -> Sequence[Alarm]:
        return (
            Alarm(
                name="error on held-out data over that in training",
                measure=lambda terms: terms["valid/weighted_mse"] / terms["denoiser/weighted_mse"],
                above=_BY_HEART,
                says="it learns the data by heart, and samples become copies - add data, or type --step best",
            ),
        )

    def loss(self, batch: Batch, samples_seen: int) -> Terms:
        cond = self.denoiser.conditions.dropped(batch.cond, self.config.condition_dropout)
        x0 = self.standard(batch.x)
        if self.config.mirror:
            chosen = torch.rand(len(x0), *[1] * (x0.ndim - 1), device=x0.device) < 0.5
            x0 = torch.where(chosen, x0.flip(-1), x0)
        return self.consistency_terms(x0, cond) if self.config.consistency else self.denoising_terms(x0, cond)

    def denoising_terms(self, x0: Tensor, cond: Cond) -> Terms:
        """The weighted error of D, also in eight equal parts of the law of noise; each is its part's mean."""
        share = stratified(len(x0), x0)
        sigma = sigma_of(share, self.law)
        each = (-1, *[1] * (x0.ndim - 1))
        x = x0 + sigma.view(each) * torch.randn_like(x0)
        error = (self.denoiser(x, sigma, self.denoiser.conditions(cond)) - x0).square().flatten(1).mean(1)
        row = self.denoiser.scalars(sigma)
        weighting = "auto" if self.config.weighting == "learned" else self.config.weighting
        weighted = WEIGHTINGS[weighting](sigma, row) * error
        loss = weighted.mean()
        if self.denoiser.log_variance is not None:  # as EDM2 (Karras et al. 2024, equation 14)
            u = self.denoiser.log_variance(self.denoiser.waves(row.c_noise))[:, 0].to(x0.dtype)
            loss = (weighted / u.exp() + u).mean()
        part = (share * _BINS).long().clamp(max=_BINS - 1)
        none = torch.zeros(_BINS, dtype=x0.dtype, device=x0.device)
        counts = none.index_add(0, part, torch.ones_like(weighted))
        means = none.index_add(0, part, weighted.detach()) / counts.clamp(min=1)
        return {
            "loss": loss,
            "weighted_mse": weighted.mean(),
            **{f"noise_{number}": mean for number, mean in enumerate(means)},
        }

    def consistency_terms(self, x0: Tensor, cond: Cond) -> Terms:
        """How far D moves along a path of the ODE, from t to r a little below, with one noise for both (Geng et al.
        2024, easy consistency tuning). D at 0 is x0."""
        each = (-1, *[1] * (x0.ndim - 1))
        t = sigma_of(stratified(len(x0), x0), ("normal", *_CONSISTENCY_LAW)).clamp(min=_LEAST)
        r = t * (1 - self.config.consistency_gap * (1 + 8 * torch.sigmoid(-t / 2))).clamp(min=0)
        eps, told = torch.randn_like(x0), self.denoiser.conditions(cond)
        with torch.no_grad():
            x_r = x0 + r.view(each) * eps
            target = torch.where(r.view(each) > 0, self.denoiser(x_r, r.clamp(min=_TINY), told), x0)
        moved = self.denoiser(x0 + t.view(each) * eps, t, told) - target
        distance = (moved.square().flatten(1).mean(1) + 1e-12).sqrt()
        return {"loss": (distance / (t - r)).mean(), "distance": distance.mean()}

    def evaluate(self, batch: Batch) -> Terms:
        terms = self.denoising_terms(self.standard(batch.x), batch.cond)
        return {"weighted_mse": terms["weighted_mse"]}

    def standard(self, x: Tensor) -> Tensor:
        """In units of the data's deviation, around 0."""
        return (x - self.mean) / self.deviation

    def original(self, x: Tensor) -> Tensor:
        return x * self.deviation + self.mean

    def evaluate_likelihood(self, batch: Batch, steps: int) -> Terms:
        """By `steps` steps of Heun's method and one random probe a sample; of pictures with grey levels spread evenly
        (uniform dequantisation), so that the figure bounds that of the levels."""
        x, values = batch.x, math.prod(self.spec.shape)
        levelled = self.spec.modality in ("image", "video")
        scale = torch.tensor(self.spec.scale, dtype=x.dtype, device=x.device)
        if levelled:
            x = x + (torch.rand_like(x) - 0.5) / scale.view(-1, *[1] * (x.ndim - 2))
        probe = 1 - 2 * torch.randint_like(x, 2)
        rising = sigmas("karras", steps + 1, sigma_min=_LEAST, sigma_max=_MOST)[-2::-1]
        told = self.denoiser.conditions(batch.cond)

        nats = -flow.log_likelihood(lambda x, sigma: self.at(x, sigma, told), self.standard(x), rising, probe)
        each = values // self.deviation.numel()
        nats = nats + each * self.deviation.log().sum()  # of x in model units
        if not levelled:
            return {"nll_nats": nats.mean()}
        in_levels = nats + values // scale.numel() * scale.log().sum()
        return {"bits_per_dim_bound": in_levels.mean() / (values * math.log(2))}

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self, request: Request) -> Tensor:
        levels = self.grid(request.sampling)
        x = levels[0] * request.noise(*self.spec.shape)
        return self.original(self.solved(self.denoise_of(request), x, levels, request))

    def draw_between(self, first: Request, second: Request, weight: Tensor) -> Tensor:
        one, other = (request.noise(*self.spec.shape) for request in (first, second))
        return self.from_between(one, other, first, second, weight)

    def end(self, x: Tensor, request: Request) -> Tensor:
        """The noise that the ODE leads x to; by twice the steps, to find back from there."""
        rising = self.grid(replace(request.sampling, steps=2 * request.sampling.steps))[-2::-1]
        return flow.invert(self.denoise_of(_unguided(request)), self.standard(x), rising) / rising[-1]

    def blend(self, end: Tensor, other: Tensor, first: Request, second: Request, weight: Tensor) -> Tensor:
        """Without guidance, which the way to the ends went without: only so are these the inputs again."""
        return self.from_between(end, other, _unguided(first), _unguided(second), weight)

    def from_between(self, one: Tensor, other: Tensor, first: Request, second: Request, weight: Tensor) -> Tensor:
        """From a point between two draws of noise, led by D between that of the first and of the second condition."""
        levels = self.grid(first.sampling)
        flat = between(one.flatten(1), other.flatten(1), weight[:, None], first.sampling.path)
        x, denoise = levels[0] * flat.view_as(one), self.denoise_of(first)
        conditions = self.denoiser.conditions
        one_cond, other_cond = (conditions.filled(r.cond, r.count, r.device) for r in (first, second))
        if not all(torch.equal(one_cond[name], other_cond[name]) for name in one_cond):
            here, there, share = denoise, self.denoise_of(second), weight.view(-1, *[1] * (one.ndim - 1))

            def denoise(x: Tensor, sigma: float) -> Tensor:
                return torch.lerp(here(x, sigma), there(x, sigma), share)

        return self.original(self.solved(denoise, x, levels, first))

    def vary(self, x: Tensor, request: Request, strength: float) -> Tensor:
        """x noised to where that part of the steps is left, and denoised again (Meng et al. 2022, SDEdit)."""
        levels = self.grid(request.sampling, fraction=strength)
        if len(levels) == 1:
            return x
        noised = self.standard(x) + levels[0] * request.noise(*self.spec.shape)
        return self.original(self.solved(self.denoise_of(request), noised, levels, request))

    def impute(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        levels, fresh = self.grid(request.sampling), self.fresh(request)
        made = inpaint(
            self.denoise_of(request),
            levels[0] * fresh(),
            levels,
            fresh,
            known=self.standard(x),
            missing=missing,
            repeats=request.sampling.repeats,
        )
        return torch.where(missing, self.original(made), x)

    def fresh(self, request: Request) -> Noise:
        return lambda: request.noise(*self.spec.shape)

    def grid(self, sampling: SamplingConfig, fraction: float = 1.0) -> list[float]:
        """The levels of noise that a sample passes through, in units of the data's deviation."""
        least, most = self.levels
        low, high = sampling.sigma_min or least, sampling.sigma_max or most
        if low >= high:
            what = f"sampling.sigma_min={low:g} is not below sampling.sigma_max={high:g}"
            raise ConfigError(what, fix="type a smaller sampling.sigma_min")
        jumps = sampling.solver == "consistency"  # from every level to the data: the lowest one would change nothing
        try:
            levels = sigmas(
                sampling.grid,
                sampling.steps + jumps,
                sigma_min=low,
                sigma_max=high,
                shift=sampling.shift,
                fraction=fraction,
            )
        except ValueError as error:
            raise ConfigError(f"sampling.steps={sampling.steps}: {error}", fix="type fewer steps") from error
        return [*levels[:-2], 0.0] if jumps and len(levels) > 2 else levels

    def check_sampling(self, sampling: SamplingConfig) -> None:
        levels = self.grid(sampling)
        if sampling.guidance != 1 and sampling.guide is None:
            self.require_dropout()
        if sampling.guide is not None and sampling.guidance == 1:
            raise ConfigError("sampling.guidance=1 is away from no guide", fix="add sampling.guidance=2")
        low, high = sampling.guidance_interval or (0.0, math.inf)
        if not any(low < level <= high for level in levels):
            fix = f"type [{high:g},{low:g}], the lower level first"
            if low < high:
                fix = f"the levels are {levels[0]:.4g} to {levels[-2]:.4g}"
            raise ConfigError("no level of noise lies in sampling.guidance_interval", fix=fix)

    def solved(self, denoise: Denoise, x: Tensor, levels: Sequence[float], request: Request) -> Tensor:
        """From x at the first level to the last."""
        return _SOLVERS[request.sampling.solver](denoise, x, levels, self.fresh(request), request.sampling)

    def at(self, x: Tensor, sigma: float, told: Told | None) -> Tensor:
        """D of a batch that is noised alike."""
        found: Tensor = self.denoiser(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device), told)
        return found

    def denoise_of(self, request: Request) -> Denoise:
        """D as a function of x and sigma: told the request's conditions, guided where that is asked for."""
        conditions, sampling = self.denoiser.conditions, request.sampling
        cond = conditions.filled(request.cond, request.count, request.device)
        scale, (low, high) = sampling.guidance, sampling.guidance_interval or (0.0, math.inf)
        told = conditions(cond)  # once for all levels
        if scale == 1:
            return lambda x, sigma: self.at(x, sigma, told)
        if self.guide is not None:  # autoguidance (Karras et al. 2024)
            guide, by_guide = self.guide, self.guide.denoiser.conditions(cond)

            def pair(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
                return guide.at(x, sigma, by_guide), self.at(x, sigma, told)

        else:  # classifier-free guidance (Ho & Salimans 2022)
            nothing = conditions.nothing(request.count, request.device)
            both = conditions({name: torch.cat([nothing[name], cond[name]]) for name in cond})

            def pair(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
                free, own = self.at(torch.cat([x, x]), sigma, both).chunk(2)
                return free, own

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return torch.lerp(*pair(x, sigma), scale) if low < sigma <= high else self.at(x, sigma, told)

        return denoise

    def take_guide(self, weaker: Model) -> None:
        if not isinstance(weaker, Diffusion) or _units(weaker) != _units(self):
            what = "sampling.guide names a model of other data or other conditions"
            raise ConfigError(what, fix="name an earlier or smaller run on the same data")
        self.guide = weaker

    def require_dropout(self) -> None:
        """Raises ConfigError where nothing is known of samples that nothing is told of."""
        if self.may_lack:
            return
        what = "sampling.guidance needs a model that was trained with model.condition_dropout above 0"
        if not self.denoiser.conditions.names:
            what = "sampling.guidance needs a condition, this model was trained without labels and text"
        raise ConfigError(what, fix="type sampling.guidance=1, or sampling.guide=RUN for another checkpoint")


def _unguided(request: Request) -> Request:
    return replace(request, sampling=replace(request.sampling, guidance=1.0))


def _units(model: Model) -> tuple[object, ...]:
    """What two models must share for their D to be of one x and one condition."""
    spec = model.spec
    told = {name: cond.form for name, cond in spec.cond.items()}
    return spec.form, spec.mean, spec.deviation, spec.first_stage, told


Solver = Callable[[Denoise, Tensor, Sequence[float], Noise, SamplingConfig], Tensor]
_SOLVERS: dict[str, Solver] = {
    "euler": lambda d, x, levels, noise, sampling: steps.euler(d, x, levels),
    "heun": lambda d, x, levels, noise, sampling: steps.heun(d, x, levels, noise, sampling.churn),
    "ancestral": lambda d, x, levels, noise, sampling: steps.ancestral(d, x, levels, noise, sampling.eta),
    "dpmpp_2m": lambda d, x, levels, noise, sampling: steps.dpmpp_2m(d, x, levels),
    "sde_2m": lambda d, x, levels, noise, sampling: steps.dpmpp_2m(d, x, levels, noise, sampling.eta),
    "unipc": lambda d, x, levels, noise, sampling: steps.unipc(d, x, levels),
    "consistency": lambda d, x, levels, noise, sampling: steps.consistency(d, x, levels, noise),
}
