"""What an encoder's output becomes before the decoder reads it: Gaussian latents, or codes out of finitely many.

An encoder ends in h, (B, outputs) or a map (B, outputs, *map); z is what the decoder takes, (B, channels[, *map]).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec, Terms
from genai.errors import ConfigError
from genai.models import MOST_CODES, VaeConfig

_MOST_LOG_VARIANCE = 10.0
_ACTIVE = 0.01  # nats that a latent tells on average, below which it counts as collapsed
_MEASURED = 0.02  # share of the last step in the mean and deviation of latents
_EDGE = 1e-3  # by which the outermost levels are wider, so that a bounded value reaches them
_USED = 0.01  # share of the last step in how often and where a code is used
_DEAD = 0.05  # of an even share of the uses, below which a code is given another place


class Posterior(ABC):
    """q(z|x) for the x of a batch."""

    mode: Tensor  # the likeliest z

    @abstractmethod
    def sample(self) -> Tensor:
        """z ~ q(z|x), through which gradients reach the encoder."""

    @abstractmethod
    def rates(self) -> Tensor:
        """(B, latents): KL(q(z|x) || p(z)) in nats, which sums over latents."""

    @abstractmethod
    def weighted(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` draws for each x, (count, B, ...), and log p(z) - log q(z|x) of each, (count, B)."""

    @abstractmethod
    def terms(self, z: Tensor) -> Terms:
        """What else a loss knows of it and of a draw z: `commitment`, and statistics to follow."""

    @abstractmethod
    def held_out(self) -> Terms:
        """Means over samples of which `Bottleneck.conclude` makes figures."""


class Bottleneck(nn.Module, ABC):
    outputs: int  # that the encoder ends in
    channels: int  # that the decoder takes

    @abstractmethod
    def forward(self, h: Tensor) -> Posterior: ...

    @abstractmethod
    def follow(self, terms: Terms) -> None:
        """Takes up the statistics of a step's global batch."""

    @abstractmethod
    def settled(self, z: Tensor) -> Tensor:
        """z as the decoder knows them, of values that lie anywhere: the nearest codes."""

    @abstractmethod
    def to_latent(self, z: Tensor) -> Tensor:
        """What another model learns of z."""

    def spread(self, posterior: Posterior) -> Tensor | None:
        """The deviations of what another model learns; None where it is sure."""
        return None

    @abstractmethod
    def from_latent(self, latent: Tensor, shape: Sequence[int]) -> Tensor:
        """z of `shape` (channels, *map) again."""

    @abstractmethod
    def latent_spec(self, shape: Sequence[int]) -> Spec: ...

    @abstractmethod
    def conclude(self, means: Terms) -> Terms:
        """Figures out of what `Posterior.held_out` gave, averaged."""


# -- Gaussian latents (Kingma & Welling 2014) --------------------------------------------------------------------------


class Gaussians(Bottleneck):
    """Each latent a Gaussian. Other models learn them with mean 0 and deviation 1 for each channel, as measured over
    draws from q during training."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.outputs = channels, 2 * channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("square", torch.ones(channels))
        self.register_buffer("steps", torch.zeros(()))  # that were measured

    def forward(self, h: Tensor) -> GaussianPosterior:
        mu, logvar = h.chunk(2, dim=1)
        return GaussianPosterior(mu, _MOST_LOG_VARIANCE * torch.tanh(logvar / _MOST_LOG_VARIANCE))

    def follow(self, terms: Terms) -> None:
        self.steps += 1
        share = (1 / self.steps).clamp(min=_MEASURED)
        self.mean.lerp_(terms["latent_mean"].to(self.mean), share)
        self.square.lerp_(terms["latent_square"].to(self.square), share)

    def settled(self, z: Tensor) -> Tensor:
        return z

    def to_latent(self, z: Tensor) -> Tensor:
        mean, deviation = self._units(z)
        return (z - mean) / deviation

    def spread(self, posterior: Posterior) -> Tensor | None:
        assert isinstance(posterior, GaussianPosterior)
        return (0.5 * posterior.logvar).exp() / self._units(posterior.mu)[1]

    def from_latent(self, latent: Tensor, shape: Sequence[int]) -> Tensor:
        mean, deviation = self._units(latent)
        return latent * deviation + mean

    def _units(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (z.ndim - 2))
        deviation = (self.square - self.mean.square()).clamp(min=1e-8).sqrt()
        return self.mean.view(shape), deviation.view(shape)

    def latent_spec(self, shape: Sequence[int]) -> Spec:
        return Spec(kind="real", shape=tuple(shape), modality="latent")

    def conclude(self, means: Terms) -> Terms:
        return {"active_units": (means["latent_rates"] > _ACTIVE).sum()}


class GaussianPosterior(Posterior):
    def __init__(self, mu: Tensor, logvar: Tensor) -> None:
        self.mode, self.mu, self.logvar = mu, mu, logvar

    def sample(self) -> Tensor:
        return self.mu + (0.5 * self.logvar).exp() * torch.randn_like(self.mu)

    def rates(self) -> Tensor:
        return kl_to_standard_normal(self.mu, self.logvar).flatten(1)

    def weighted(self, count: int) -> tuple[Tensor, Tensor]:
        e = torch.randn(count, *self.mu.shape, device=self.mu.device, dtype=self.mu.dtype)
        z = self.mu + (0.5 * self.logvar).exp() * e
        # Without the normal's constant, which cancels.
        return z, 0.5 * (e.square() + self.logvar - z.square()).flatten(2).sum(-1)

    def terms(self, z: Tensor) -> Terms:
        by_channel = z.detach().movedim(1, 0).flatten(1)
        return {"latent_mean": by_channel.mean(1), "latent_square": by_channel.square().mean(1)}

    def held_out(self) -> Terms:
        return {"latent_rates": self.rates().mean(0)}


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) of each latent, in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


# -- codes -------------------------------------------------------------------------------------------------------------


class Codes(Bottleneck):
    """One of `vocab` codes for each position of a map; other models learn their numbers, row by row."""

    vocab: int

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = self.outputs = channels

    @abstractmethod
    def vectors(self, index: Tensor) -> Tensor:
        """Numbers of codes (...) -> what the decoder takes for each, (..., channels)."""

    @abstractmethod
    def index_of(self, z: Tensor) -> Tensor:
        """z (B, channels, *map) -> the number of each position's nearest code, (B, *map)."""

    def settled(self, z: Tensor) -> Tensor:
        return self.vectors(self.index_of(z)).movedim(-1, 1)

    def follow(self, terms: Terms) -> None:
        pass

    def to_latent(self, z: Tensor) -> Tensor:
        return self.index_of(z).flatten(1)

    def from_latent(self, latent: Tensor, shape: Sequence[int]) -> Tensor:
        return self.vectors(latent).movedim(-1, 1).unflatten(2, tuple(shape[1:]))

    def latent_spec(self, shape: Sequence[int]) -> Spec:
        return Spec(kind="token", shape=(math.prod(shape[1:]),), modality="latent", vocab=self.vocab)

    def conclude(self, means: Terms) -> Terms:
        used = means["code_share"]
        entropy = -torch.special.xlogy(used, used).sum()
        return {"codes_active": (used > 0).to(used.dtype).mean(), "code_perplexity": entropy.exp()}


class CodePosterior(Posterior):
    """One code for certain; p(z) is even over all of them."""

    def __init__(self, z: Tensor, index: Tensor, vocab: int, terms: Terms) -> None:
        self.mode, self.index, self.vocab, self._terms = z, index.flatten(1), vocab, terms

    def sample(self) -> Tensor:
        return self.mode

    def rates(self) -> Tensor:
        return torch.full_like(self.index, math.log(self.vocab), dtype=self.mode.dtype)

    def weighted(self, count: int) -> tuple[Tensor, Tensor]:
        return self.mode.expand(count, *self.mode.shape), -self.rates().sum(1).expand(count, -1)

    def terms(self, z: Tensor) -> Terms:
        return self._terms

    def held_out(self) -> Terms:
        uses = torch.bincount(self.index.flatten(), minlength=self.vocab)
        return {"code_share": uses.to(self.mode.dtype) / self.index.numel()}


class FiniteScalars(Codes):
    """Each channel rounded to one of a few levels (Mentzer et al. 2024, finite scalar quantisation): no codebook."""

    levels: Tensor
    middle: Tensor  # the level that is 0
    unit: Tensor  # levels from 0 to 1
    step: Tensor  # from one number of a code to the next, of each channel

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__(len(levels))
        self.vocab = math.prod(levels)
        count, step = torch.tensor(levels), [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", count, persistent=False)
        self.register_buffer("middle", count // 2, persistent=False)
        self.register_buffer("unit", (count // 2).float(), persistent=False)
        self.register_buffer("step", torch.tensor(step), persistent=False)

    def forward(self, h: Tensor) -> CodePosterior:
        h = h.movedim(1, -1)
        half, even = (self.levels - 1) * (1 + _EDGE) / 2, (1 - self.levels % 2) / 2
        level = torch.tanh(h + torch.atanh(even / half)) * half - even  # 0 where h is
        level = level + (level.round() - level).detach()  # the gradient goes straight through
        z = (level / self.unit).movedim(-1, 1)
        return CodePosterior(z, self.index_of(z.detach()), self.vocab, {})

    def index_of(self, z: Tensor) -> Tensor:
        level = (z.movedim(1, -1) * self.unit).round().long() + self.middle
        return (level.clamp(min=0).minimum(self.levels - 1) * self.step).sum(-1)

    def vectors(self, index: Tensor) -> Tensor:
        level = index[..., None] // self.step % self.levels - self.middle
        return level / self.unit


class Codebook(Codes):
    """The nearest of learned unit vectors (van den Oord et al. 2017), each the direction of the mean of what it stands
    for, which moves with the batches (appendix A.1 there). A code that is hardly used is put beside a busy one."""

    codes: Tensor
    steps: Tensor
    uses: Tensor
    sums: Tensor
    away: Tensor

    def __init__(self, *, codes: int, channels: int, commitment: float) -> None:
        super().__init__(channels)
        self.vocab, self.commitment = codes, commitment
        self.register_buffer("codes", F.normalize(torch.randn(codes, channels), dim=1))
        self.register_buffer("steps", torch.zeros(codes))  # whose batches were followed
        self.register_buffer("uses", torch.full((codes,), 1 / codes))
        self.register_buffer("sums", self.codes / codes)
        # Where each code is put from a busy one; drawn once, so that all processes put it at the same place.
        self.register_buffer("away", F.normalize(torch.randn(codes, channels), dim=1))

    def forward(self, h: Tensor) -> CodePosterior:
        h = F.normalize(h, dim=1)
        index = self.index_of(h.detach())
        code = self.vectors(index).movedim(-1, 1)
        z = h + (code - h).detach()
        error = (h - code).square().sum(1).mean()
        flat, found = h.detach().movedim(1, -1).flatten(0, -2), index.flatten()
        uses = torch.zeros_like(self.uses, dtype=h.dtype).index_add_(0, found, torch.ones_like(flat[:, 0]))
        sums = torch.zeros_like(self.sums, dtype=h.dtype).index_add_(0, found, flat)
        told = {"commitment": self.commitment * error, "code_error": error.detach()}
        return CodePosterior(z, index, self.vocab, {**told, "uses": uses / len(flat), "sums": sums / len(flat)})

    def follow(self, terms: Terms) -> None:
        self.steps += 1
        share = (1 / self.steps).clamp(min=_USED)
        self.uses.lerp_(terms["uses"].to(self.uses), share)
        self.sums.lerp_(terms["sums"].to(self.sums), share[:, None])
        even = 1 / self.vocab
        dead = self.uses < _DEAD * even
        # Each beside one that is alive, the busiest first.
        number = (dead.long().cumsum(0) - 1) % (~dead).sum().clamp(min=1)
        busiest = self.uses.argsort(descending=True)[number.clamp(min=0)]
        # As far from the busy code as what that stands for is.
        put = F.normalize(self.codes[busiest] + terms["code_error"].to(self.codes).sqrt() * self.away, dim=1)
        self.uses.masked_fill_(dead, even)
        self.sums.copy_(torch.where(dead[:, None], put * even, self.sums))
        self.codes.copy_(F.normalize(self.sums, dim=1))

    def index_of(self, z: Tensor) -> Tensor:
        # Distances, which stay in fp32 where products would be rounded to bf16.
        return torch.cdist(z.movedim(1, -1).flatten(1, -2), self.codes).argmin(-1).unflatten(1, z.shape[2:])

    def vectors(self, index: Tensor) -> Tensor:
        return self.codes[index]


def bottleneck_of(config: VaeConfig) -> Bottleneck:
    """Raises ConfigError for codes without a map."""
    if config.latents == "gaussian":
        return Gaussians(config.latent_dim)
    if config.downsample is None:
        what = f"model.latents={config.latents} gives a code to each position of a map, and there is no map"
        raise ConfigError(what, fix="type model.downsample=auto")
    if config.prior == "normal":
        what = f"model.prior=normal is of gaussian latents, these are codes ({config.latents})"
        raise ConfigError(what, fix="type model.prior=mixture or model.prior=none")
    if config.latents == "fsq":
        if not config.levels or math.prod(config.levels) > MOST_CODES:
            what = f"model.levels={list(config.levels)} make {math.prod(config.levels):,} codes"
            raise ConfigError(what, fix=f"type a list such as [8,6,5], of at most {MOST_CODES:,} codes")
        return FiniteScalars(config.levels)
    return Codebook(codes=config.codes, channels=config.code_dim, commitment=config.commitment)
