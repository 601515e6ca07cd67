"""What a denoiser's network predicts, from which noise it learns, and how errors weigh: one row of scalars for each.

x = x0 + sigma eps, with sigma in units of the data's deviation; D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), and
the loss is w |D - x0|^2. Scaled like this, EDM, DDPM and rectified flows differ in these scalars alone (Karras et al.
2022, table 1; Kingma & Gao 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genai.errors import ConfigError
from genai.models import DiffusionConfig

_BETAS = 0.1, 19.9  # of the variance-preserving SDE: the first, and how much they rise (Song et al. 2021)
_EDGE = 1e-5  # of a share of the law of noise, on either side
_JIT_LEAST = 0.05  # time below which the weight of a predicted x0 rises no more (Li & He 2025)
_MIN_SNR = 5.0  # signal-to-noise ratio above which the weight rises no more (Hang et al. 2023)


@dataclass(frozen=True)
class Scalars:
    """Of shape (B,), as sigma."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor  # what the network is told of sigma, of size about one
    weight: Tensor  # of |D - x0|^2


def _time_of_vp(s: Tensor) -> Tensor:
    """t in 0..1 of the variance-preserving SDE at which the noise is sigma."""
    first, rise = _BETAS
    return ((first**2 + 2 * rise * torch.log1p(s * s)).sqrt() - first) / rise


def _edm(s: Tensor) -> Scalars:
    """Karras et al. 2022."""
    root = (1 + s * s).sqrt()
    return Scalars(1 / root, 1 / root**2, s / root, s.log() / 4, (1 + s * s) / (s * s))


def _eps(s: Tensor) -> Scalars:
    """DDPM: F predicts the noise (Ho et al. 2020)."""
    return Scalars(1 / (1 + s * s).sqrt(), torch.ones_like(s), -s, _time_of_vp(s), 1 / (s * s))


def _v(s: Tensor) -> Scalars:
    """F predicts (eps - sigma x0) / sqrt(1 + sigma^2) (Salimans & Ho 2022)."""
    root = (1 + s * s).sqrt()
    return Scalars(1 / root, 1 / root**2, -s / root, 2 / math.pi * s.atan(), (1 + s * s) / (s * s))


def _x0(s: Tensor) -> Scalars:
    """F predicts the data."""
    one = torch.ones_like(s)
    return Scalars(1 / (1 + s * s).sqrt(), 0 * one, one, s.log() / 4, one)


def _flow(s: Tensor) -> Scalars:
    """Rectified flow: F predicts the velocity eps - x0 (Liu et al. 2023; Lipman et al. 2023)."""
    return Scalars(1 / (1 + s), 1 / (1 + s), -s / (1 + s), s / (1 + s), ((1 + s) / s).square())


def _jit(s: Tensor) -> Scalars:
    """F predicts the data, its velocity is what weighs (Li & He 2025)."""
    t, one = s / (1 + s), torch.ones_like(s)
    return Scalars(1 / (1 + s), 0 * one, one, t, 1 / t.clamp(min=_JIT_LEAST).square())


OBJECTIVES: dict[str, Callable[[Tensor], Scalars]] = {
    "edm": _edm,
    "eps": _eps,
    "v": _v,
    "x0": _x0,
    "flow": _flow,
    "jit": _jit,
}
WEIGHTINGS: dict[str, Callable[[Tensor, Scalars], Tensor]] = {
    "auto": lambda s, row: row.weight,
    "edm": lambda s, row: (1 + s * s) / (s * s),
    "min_snr": lambda s, row: (1 / (s * s)).clamp(max=_MIN_SNR),
    "soft_min_snr": lambda s, row: 1 / (1 + s * s),  # EDM's times s^2 / (1 + s^2)^2 (Crowson et al. 2024)
}


def _normal(u: Tensor, mean: float, std: float) -> Tensor:
    return mean + std * torch.special.ndtri(u)


def _ddpm(u: Tensor) -> Tensor:
    """Even over the time of the variance-preserving SDE."""
    first, rise = _BETAS
    return 0.5 * torch.expm1(0.5 * rise * u * u + first * u).log()


# ln(sigma) of a share u of the law: even over the time of a flow, or of a cosine schedule, or over ln(sigma).
LAWS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "normal": _normal,
    "uniform_t": lambda u, mean, std: torch.logit(u),
    "cosine": lambda u, mean, std: torch.tan(0.5 * math.pi * u).log(),
    "ddpm": lambda u, mean, std: _ddpm(u),
    "log_uniform": lambda u, mean, std: mean + std * math.sqrt(12) * (u - 0.5),
}
_OWN_LAW: dict[str, tuple[str, float, float]] = {  # of each objective: law, mean and deviation of ln(sigma)
    "edm": ("normal", -0.5, 1.2),  # the paper's -1.2 is for data of deviation 0.5
    "eps": ("ddpm", 0.0, 1.0),
    "v": ("cosine", 0.0, 1.0),
    "x0": ("normal", -0.5, 1.2),
    "flow": ("uniform_t", 0.0, 1.0),
    "jit": ("normal", 0.8, 0.8),
}


def law_of(config: DiffusionConfig) -> tuple[str, float, float]:
    """Its name, and mean and deviation of ln(sigma) where it has them. Raises ConfigError where they are given to
    another."""
    name, mean, std = _OWN_LAW[config.objective]
    name = name if config.noise == "auto" else config.noise
    if name not in ("normal", "log_uniform") and (config.noise_mean, config.noise_std) != (None, None):
        what = f"the law {name} has no model.noise_mean and model.noise_std"
        raise ConfigError(what, fix="add model.noise=normal, of a flow its logit-normal times")
    return (
        name,
        mean if config.noise_mean is None else config.noise_mean,
        std if config.noise_std is None else config.noise_std,
    )


def stratified(count: int, like: Tensor) -> Tensor:
    """(count,) shares of a law, one out of each of `count` equal parts of it, in random order."""
    order = torch.randperm(count, device=like.device)
    return (order + torch.rand(count, device=like.device, dtype=like.dtype)) / count


def sigma_of(share: Tensor, law: tuple[str, float, float]) -> Tensor:
    name, mean, std = law
    return LAWS[name](share.clamp(_EDGE, 1 - _EDGE), mean, std).exp()
