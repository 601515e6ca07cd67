"""p(x | z) for what a decoder puts out: log-probabilities in nats, summed over the values of x, and the mean of x.

x is in model units: pictures in [-1, 1], of which grey level k of 256 is k / 127.5 - 1. All of it in fp32 or wider.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec, Terms
from genai.errors import ConfigError
from genai.models import VaeConfig
from genai.models.rows import Rows
from genai.nets.family import refuse_ids

LEVELS = 256
_HALF = 127.5  # levels per model unit
_LEAST_LOG_SCALE = -7.0  # of a logistic, in model units: a seventh of a level
_FOLLOW, _LEAST_VARIANCE = 0.1, 1e-6  # of the optimal deviation: share of the last step; a tenth of a level
_PARTS = 10  # logistics in a mixture
_LOG_2PI = math.log(2 * math.pi)
_LOG_SIGMAS = math.log(0.01), math.log(2.0)  # bounds of a column's deviation


class Likelihood(nn.Module, ABC):
    """What stands between a decoder's output (B, channels, ...) and x."""

    channels: int  # that the decoder puts out
    discrete = True  # probabilities of grey levels, so that bits per value mean something

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """(B,) nats."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """(B, *x.shape[1:]) in model units: what errors are least around."""

    def errors(self, x: Tensor, output: Tensor) -> Terms:
        """Means over a batch of how far the mean is from x."""
        return {"squared_error": (self.mean(output) - x).square().mean()}

    def follow(self, terms: Terms) -> None:
        """Takes note of the errors of a step's global batch."""


class Bernoulli(Likelihood):
    """Of white or black: x is what `binarised` made of grey levels."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        if spec.modality != "image":
            what = f"a Bernoulli likelihood needs values from 0 to 1, the data is {spec.modality}"
            raise ConfigError(what, fix="type model.likelihood=gaussian")
        self.channels = spec.shape[0]

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        white = (x + 1) / 2
        return -F.binary_cross_entropy_with_logits(_wide(output), white, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return _wide(output).sigmoid() * 2 - 1


class Density(Likelihood):
    """Around a mean that the decoder puts out, within [-1, 1] for pictures."""

    discrete = False

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.channels, self.bounded = spec.shape[0], spec.modality == "image"

    def mean(self, output: Tensor) -> Tensor:
        return torch.tanh(_wide(output)) if self.bounded else _wide(output)


class Gaussian(Density):
    """Of one deviation for all values: a number, learned, or the optimal one, which is the root of the mean squared
    error (Rybkin et al. 2021, sigma-VAE), here of the last steps' global batches. A density, in model units."""

    variance: Tensor

    def __init__(self, spec: Spec, sigma: float | Literal["optimal", "learned"]) -> None:
        super().__init__(spec)
        self.sigma = sigma
        self.register_buffer("variance", torch.tensor(sigma**2 if isinstance(sigma, float) else 1.0))
        # In tens, so that a step of the optimizer moves it as far as it has to go in a few hundred.
        self.tenth_log_sigma = nn.Parameter(torch.zeros(())) if sigma == "learned" else None

    @property
    def log_sigma(self) -> Tensor:
        return 0.5 * self.variance.log() if self.tenth_log_sigma is None else 10 * self.tenth_log_sigma

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        squared, log_sigma = (x - self.mean(output)).square().flatten(1), self.log_sigma
        return -0.5 * (squared * (-2 * log_sigma).exp() + 2 * log_sigma + _LOG_2PI).sum(1)

    def follow(self, terms: Terms) -> None:
        if self.sigma == "optimal":
            self.variance.lerp_(terms["squared_error"].to(self.variance), _FOLLOW).clamp_(min=_LEAST_VARIANCE)


class Columns(Likelihood):
    """Of table rows: a number that is there is Gaussian with a deviation of its own, a group is one of its categories
    (Xu et al. 2019, TVAE). A density, in model units."""

    discrete = False

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.rows = Rows(spec)
        self.channels = spec.shape[0]
        # In tens, as above.
        self.tenth_log_sigma = nn.Parameter(torch.zeros(self.rows.numbers))

    @property
    def log_sigma(self) -> Tensor:
        return (10 * self.tenth_log_sigma).clamp(*_LOG_SIGMAS)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        mean, logits = self.rows.split(_wide(output))
        own, groups = self.rows.split(x)
        log_sigma = self.log_sigma
        numbers = -0.5 * ((own - mean).square() * (-2 * log_sigma).exp() + 2 * log_sigma + _LOG_2PI)
        return (numbers * self.rows.there(x)).sum(1) + (groups * self.rows.log_softmax(logits)).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        mean, logits = self.rows.split(_wide(output))
        return torch.cat([mean, self.rows.log_softmax(logits).exp()], dim=1)

    def drawn(self, output: Tensor, noise: Tensor) -> Tensor:
        """A draw of x out of standard normal noise of its shape."""
        mean, logits = self.rows.split(_wide(output))
        of_numbers, of_groups = self.rows.split(noise)
        groups = self.rows.drawn(self.rows.log_softmax(logits), of_groups)
        return torch.cat([mean + self.log_sigma.exp() * of_numbers, groups], dim=1)


class Laplace(Density):
    """Of one scale for all values, the optimal one, which is the mean absolute error, here of the last steps' global
    batches; edges are blurred less than by a Gaussian. A density, in model units."""

    scale: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.register_buffer("scale", torch.tensor(1.0))

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        return -((x - self.mean(output)).abs() / self.scale + (2 * self.scale).log()).flatten(1).sum(1)

    def errors(self, x: Tensor, output: Tensor) -> Terms:
        error = self.mean(output) - x
        return {"squared_error": error.square().mean(), "absolute_error": error.abs().mean()}

    def follow(self, terms: Terms) -> None:
        self.scale.lerp_(terms["absolute_error"].to(self.scale), _FOLLOW).clamp_(min=_LEAST_VARIANCE**0.5)


class Logistic(Likelihood):
    """Grey levels as intervals of a logistic distribution (Kingma et al. 2016, inverse autoregressive flow, C.2)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        _refuse_no_picture(spec, "logistic")
        self.channels = 2 * spec.shape[0]

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        mean, log_scale = _wide(output).chunk(2, dim=1)
        return log_prob_of_level(level_of(x), mean, log_scale).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return _wide(output).chunk(2, dim=1)[0].clamp(-1, 1)


class LogisticMixture(Likelihood):
    """A mixture of logistics for each pixel; green depends on red, and blue on both (Salimans et al. 2017, PixelCNN++,
    equations 2 and 3)."""

    def __init__(self, spec: Spec, parts: int) -> None:
        super().__init__()
        _refuse_no_picture(spec, "logistic_mixture")
        self.parts, self.colours = parts, spec.shape[0]
        self.coupled = self.colours == 3
        # Of each part: its weight, and of each colour the mean and scale; then three couplings of colours.
        self.channels = parts * (1 + 2 * self.colours + 3 * self.coupled)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights (B, parts, H, W), means and scales (B, parts, colours, H, W), couplings (B, parts, 3, H, W)."""
        values = _wide(output).unflatten(1, (self.parts, -1))
        colours = self.colours
        weight, mean, log_scale = values[:, :, 0], values[:, :, 1 : 1 + colours], values[:, :, 1 + colours :]
        return weight.log_softmax(1), mean, log_scale[:, :, :colours], log_scale[:, :, colours:].tanh()

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        log_weight, mean, log_scale, coupling = self._split(output)
        known = x[:, None]
        if self.coupled:
            red, green, blue = mean.unbind(2)
            green = green + coupling[:, :, 0] * known[:, :, 0]
            blue = blue + coupling[:, :, 1] * known[:, :, 0] + coupling[:, :, 2] * known[:, :, 1]
            mean = torch.stack([red, green, blue], dim=2)
        each = log_prob_of_level(level_of(known).expand_as(mean), mean, log_scale).sum(2)
        return (log_weight + each).logsumexp(1).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        """Of the likeliest part of each pixel: the mean of a mixture of two colours is a third one."""
        log_weight, mean, _, coupling = self._split(output)
        chosen = log_weight.argmax(1, keepdim=True)
        mean = mean.gather(1, chosen[:, :, None].expand(-1, -1, mean.shape[2], -1, -1))[:, 0].clamp(-1, 1)
        if not self.coupled:
            return mean
        a, b, c = coupling.gather(1, chosen[:, :, None].expand(-1, -1, 3, -1, -1))[:, 0].unbind(1)
        red, green, blue = mean.unbind(1)
        green = (green + a * red).clamp(-1, 1)
        return torch.stack([red, green, (blue + b * red + c * green).clamp(-1, 1)], dim=1)


def likelihood_of(config: VaeConfig, spec: Spec) -> Likelihood:
    """Raises ConfigError for data that the likelihood is not for."""
    refuse_ids(spec)
    if (config.likelihood == "columns") != (spec.modality == "table"):
        what = f"model.likelihood={config.likelihood} is not for data of {spec.modality}"
        raise ConfigError(what, fix=f"type model.likelihood={'columns' if spec.modality == 'table' else 'gaussian'}")
    if config.likelihood == "columns":
        return Columns(spec)
    if config.likelihood == "gaussian":
        return Gaussian(spec, config.sigma)
    if config.likelihood == "laplace":
        return Laplace(spec)
    if config.likelihood == "bernoulli":
        return Bernoulli(spec)
    return Logistic(spec) if config.likelihood == "logistic" else LogisticMixture(spec, parts=_PARTS)


def level_of(x: Tensor) -> Tensor:
    """Grey level 0 to 255, whole, of x in model units."""
    return ((x + 1) * _HALF).round().clamp(0, LEVELS - 1)


def log_prob_of_level(level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(level - 1/2 < k <= level + 1/2) of a logistic in model units, whose outermost levels take what lies beyond.

    With a and b the ends in units of the scale, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which
    loses no digits where both are close to 0 or to 1.
    """
    inverse = (-log_scale.clamp(min=_LEAST_LOG_SCALE)).exp()
    centre = level / _HALF - 1 - mean
    a, b = (centre + 0.5 / _HALF) * inverse, (centre - 0.5 / _HALF) * inverse
    inside = F.logsigmoid(a) + F.logsigmoid(-b) + (-torch.expm1(-inverse / _HALF)).log()
    return torch.where(level == 0, F.logsigmoid(a), torch.where(level == LEVELS - 1, F.logsigmoid(-b), inside))


def binarised(x: Tensor, *, dynamic: bool) -> Tensor:
    """Black or white (-1 or 1): drawn anew with the grey level as the probability of white (Salakhutdinov & Murray
    2008), or by whether it is the lighter half."""
    white = (x + 1) / 2
    return (torch.rand_like(white) < white if dynamic else white > 0.5).to(x.dtype) * 2 - 1


def _wide(output: Tensor) -> Tensor:
    """Out of bf16, in which probabilities have three digits."""
    return output if output.dtype == torch.float64 else output.float()


def _refuse_no_picture(spec: Spec, name: str) -> None:
    if spec.modality != "image":
        what = f"model.likelihood={name} is of grey levels, the data is {spec.modality}"
        raise ConfigError(what, fix="type model.likelihood=gaussian")
