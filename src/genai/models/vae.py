"""Variational autoencoder (Kingma & Welling 2014).

Symbols: x data, z latent, q(z|x) the encoder's posterior, a Gaussian of mean mu and log-variance logvar, p(z) = N(0,I),
p(x|z) the decoder's likelihood. The rate KL(q(z|x) || p(z)) and the distortion -log p(x|z) are in nats, summed over
latents and over values of x; with beta = 1 their sum is a bound on -log p(x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Alarm, Batch, Model, Request, Spec, Terms, Update
from genai.models import VaeConfig
from genai.models.adversarial import GAMES, squared_gradient_norm
from genai.models.flow_prior import FlowPrior
from genai.models.latents import along_circle
from genai.models.likelihood import Bernoulli, Gaussian, Likelihood, binarised, likelihood_of
from genai.nets.family import family
from genai.schema import NetConfig

_MOST_LOG_VARIANCE = 10.0
_ACTIVE = 0.01  # nats that a latent tells on average, below which it counts as collapsed
_PRIOR_DRAWS = 4  # noises and times for each latent that the prior learns from: they cost next to nothing
_GAME = GAMES["relativistic"]  # a reconstruction against what it is of
_LEAST_PUSH = 1e-6
_PENALTY_EVERY, _GAMMA_PER_VALUE = 8, 4e-4  # as in the GAN
_AT_ONCE = 2048  # latents decoded at a time for the importance-weighted bound


class Autoencoder(nn.Module):
    """Encoder, decoder, likelihood, and the prior that samples are drawn from: one optimizer trains them together."""

    def __init__(self, *, spec: Spec, config: VaeConfig, classes: int, net: NetConfig) -> None:
        super().__init__()
        self.likelihood = likelihood_of(config, spec)
        self.posterior = family(net).encoder(spec=spec, config=net, outputs=2 * config.latent_dim)
        output = replace(spec, shape=(self.likelihood.channels, *spec.shape[1:]), modality="latent")
        self.decoder = family(net).decoder(spec=output, inputs=config.latent_dim, config=net)
        self.prior = None
        if config.prior == "flow":
            self.prior = FlowPrior(
                latent_dim=config.latent_dim, classes=classes, width=config.prior_width, layers=config.prior_layers
            )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x -> mu, logvar: (B, latent_dim) each, out of bf16."""
        mu, logvar = self.posterior(x).to(x.dtype).chunk(2, dim=1)
        return mu, _MOST_LOG_VARIANCE * torch.tanh(logvar / _MOST_LOG_VARIANCE)


class Vae(Model):
    def __init__(self, *, spec: Spec, config: VaeConfig, net: NetConfig) -> None:
        super().__init__()
        # The label is what the prior is told; the decoder reads all that it needs from z.
        self.spec = spec if config.prior == "flow" else replace(spec, cond={})
        self.config, self.classes = config, self.spec.label_classes
        self.stop_metric = "nll_nats_bound" if config.beta == 1 else "mse"  # what it is trained for
        self.autoencoder = Autoencoder(spec=spec, config=config, classes=self.classes, net=net)
        self.discriminator = None
        if config.adversarial:
            self.discriminator = family(net).encoder(spec=spec, config=net, outputs=1)

    @property
    def likelihood(self) -> Likelihood:
        return self.autoencoder.likelihood

    def updates(self) -> Sequence[Update]:
        learn = Update(trains="autoencoder", loss=self.loss, after=self.follow)
        if self.discriminator is None:
            return (learn,)
        penalty = Update(
            name="penalty", trains="discriminator", loss=self.penalty_loss, every=_PENALTY_EVERY, second_order=True
        )
        return penalty, Update(trains="discriminator", loss=self.discriminator_loss), learn

    def loss(self, batch: Batch, samples_seen: int) -> Terms:
        x = self.observed(batch.x)
        mu, logvar = self.autoencoder.encode(x)
        z = self.sampled(mu, logvar)
        output = self.autoencoder.decoder(z)
        rates = kl_to_standard_normal(mu, logvar)
        distortions = -self.likelihood.log_prob(x, output)
        distortion = distortions.mean()
        weight = self.kl_weight(samples_seen)
        loss = distortion + weight * rates.clamp(min=self.config.free_nats).sum(1).mean()
        terms = {
            "rate_nats": rates.sum(1).mean(),
            "distortion_nats": distortion,
            "squared_error": (self.likelihood.mean(output) - x).square().mean(),
            "kl_weight": torch.full_like(loss, weight),
        }
        if self.autoencoder.prior is not None:
            y = batch.cond["label"].repeat(_PRIOR_DRAWS) if self.classes else None
            terms["prior"] = self.autoencoder.prior.loss(z.detach().repeat(_PRIOR_DRAWS, 1), y)
            loss = loss + terms["prior"]
        if self.discriminator is not None:
            terms["adversarial"] = self.adversarial(x, output, distortions)
            loss = loss + terms["adversarial"]
        return {"loss": loss, **terms}

    # -- reconstructions that a discriminator cannot tell from what they are of (Larsen et al. 2016, VAE-GAN) ----------

    def adversarial(self, x: Tensor, output: Tensor, distortion: Tensor) -> Tensor:
        """What a discriminator says of reconstructions beside what they are of. Each is weighted such that its gradient
        is `config.adversarial` times as long as that of its distortion (Esser et al. 2021, VQGAN, equation 7, weigh a
        whole batch, which would tie samples together)."""
        assert self.discriminator is not None
        reconstruction = self.likelihood.mean(output)
        losses = F.softplus(self.discriminator(x) - self.discriminator(reconstruction)).float().squeeze(1)
        pull, push = (
            torch.autograd.grad(total.sum(), output, retain_graph=True)[0].flatten(1).norm(dim=1)
            for total in (distortion, losses)
        )
        return self.config.adversarial * (losses * pull / (push + _LEAST_PUSH)).mean()

    def discriminator_loss(self, batch: Batch, samples_seen: int) -> Terms:
        assert self.discriminator is not None
        x, reconstruction = self.original_and_again(batch)
        real, fake = self.discriminator(torch.cat([x, reconstruction])).float().chunk(2)
        return {"loss": _GAME.discriminator(real, fake), "pair_sign": (real - fake).sign().mean()}

    def penalty_loss(self, batch: Batch, samples_seen: int) -> Terms:
        assert self.discriminator is not None
        both = torch.cat(self.original_and_again(batch))
        r1, r2 = squared_gradient_norm(lambda x, _: self.discriminator(x), both, None).chunk(2)  # type: ignore[misc]
        gamma = _GAMMA_PER_VALUE * math.prod(self.spec.shape)
        return {"loss": 0.5 * gamma * _PENALTY_EVERY * (r1.mean() + r2.mean()), "r1": r1.mean(), "r2": r2.mean()}

    def original_and_again(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x = self.observed(batch.x)
            return x, self.from_latent(self.sampled(*self.autoencoder.encode(x)))

    def sampled(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """z ~ q(z|x)."""
        return mu + (0.5 * logvar).exp() * torch.randn_like(mu)

    def follow(self, terms: Terms) -> None:
        """The optimal sigma is that of the errors just made."""
        if isinstance(self.likelihood, Gaussian):
            self.likelihood.follow(terms["squared_error"])

    def kl_weight(self, samples_seen: int) -> float:
        over = self.config.kl_warmup_samples
        return self.config.beta * (min(1.0, samples_seen / over) if over else 1.0)

    def observed(self, x: Tensor) -> Tensor:
        """What the likelihood is of: x, or its black and white form."""
        if isinstance(self.likelihood, Bernoulli):
            return binarised(x, dynamic=self.config.binarise == "dynamic")
        return x

    # -- what is measured ----------------------------------------------------------------------------------------------

    def evaluate(self, batch: Batch) -> Terms:
        x = self.observed(batch.x)
        mu, logvar = self.autoencoder.encode(x)
        rates = kl_to_standard_normal(mu, logvar)
        distortion = -self.likelihood.log_prob(x, self.autoencoder.decoder(self.sampled(mu, logvar))).mean()
        nats = rates.sum(1).mean() + distortion
        error = self.from_latent(mu) - x
        return {
            **self.bound_terms(nats),
            "rate_nats": rates.sum(1).mean(),
            "distortion_nats": distortion,
            # Of pictures on 0 to 1, of other data in units of their deviation.
            "mse": error.square().mean() / (4 if self.spec.modality == "image" else 1),
            "active_units": (rates.mean(0) > _ACTIVE).to(nats.dtype).sum(),
        }

    def bound_terms(self, nats: Tensor, suffix: str = "") -> Terms:
        """A bound in nats and, of probabilities, in bits for each value of x."""
        terms = {f"nll_nats_bound{suffix}": nats}
        if self.likelihood.discrete:
            terms[f"bits_per_dim_bound{suffix}"] = nats / (math.prod(self.spec.shape) * math.log(2))
        return terms

    def log_likelihood_bound(self, batch: Batch, samples: int) -> Tensor:
        """(B,) nats: log of the mean over `samples` draws z ~ q(z|x) of p(x|z) p(z) / q(z|x), which lies below log p(x)
        on average and rises to it (Burda et al. 2016, importance-weighted autoencoders, equation 8)."""
        x = self.observed(batch.x)
        mu, logvar = self.autoencoder.encode(x)
        weights = []
        for count in _parts(samples, max(1, _AT_ONCE // len(x))):
            e = torch.randn(count, *mu.shape, device=mu.device, dtype=mu.dtype)
            z = mu + (0.5 * logvar).exp() * e
            log_q = -0.5 * (e.square() + logvar).sum(-1)  # both without the normal's constant, which cancels
            log_p = -0.5 * z.square().sum(-1)
            output = self.autoencoder.decoder(z.flatten(0, 1))
            repeated = x.repeat(count, *[1] * (x.ndim - 1))
            weights.append(self.likelihood.log_prob(repeated, output).view(count, -1) + log_p - log_q)
        return torch.cat(weights).logsumexp(0) - math.log(samples)

    def evaluate_bound(self, batch: Batch, samples: int) -> Terms:
        return self.bound_terms(-self.log_likelihood_bound(batch, samples).mean(), f"_s{samples}")

    def alarms(self) -> Sequence[Alarm]:
        return (
            Alarm(
                name="latents that say something",
                measure=lambda terms: terms["valid/active_units"],
                below=min(1.5, self.config.latent_dim - 0.5),  # one of several, or none at all
                steps=1000,
                says="the decoder does without the latents (posterior collapse) - start again with "
                "model.kl_warmup_samples=100000, model.free_nats=0.1 or a smaller model.beta",
            ),
        )

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self, request: Request) -> Tensor:
        return self.from_latent(self.latents(request))

    def draw_between(self, first: Request, second: Request, weight: Tensor) -> Tensor:
        """From noise on the way between theirs: what the prior makes of it is a sample like any other."""
        return self.from_latent(self.latents(first, second, weight[:, None]))

    def vary(self, x: Tensor, request: Request, strength: float) -> Tensor:
        """On the way from the latent of x to that of a new sample, of the same label where there is one."""
        return self.from_latent(along_circle(self.to_latent(x), self.latents(request), torch.tensor(strength)))

    def latents(self, request: Request, other: Request | None = None, weight: Tensor | None = None) -> Tensor:
        """Drawn from the prior; with another request, `weight` (B, 1) of the way to it."""
        noise, prior = self.noise(request), self.autoencoder.prior
        if other is not None and weight is not None:
            noise = along_circle(noise, self.noise(other), weight)
        if prior is None:
            return noise
        label = prior.label(request.cond["label"] if self.classes else None)
        if other is not None and weight is not None and label is not None:
            label = torch.lerp(label, prior.label(other.cond["label"]), weight)  # type: ignore[arg-type]
        return prior.sample(noise, label, steps=self.config.prior_steps)

    def noise(self, request: Request) -> Tensor:
        return request.noise(self.config.latent_dim) * request.truncation

    # -- as a first stage ----------------------------------------------------------------------------------------------

    def to_latent(self, x: Tensor) -> Tensor:
        return self.autoencoder.encode(self.observed(x))[0]

    def from_latent(self, latent: Tensor) -> Tensor:
        """The mean of p(x|z), in model units."""
        return self.likelihood.mean(self.autoencoder.decoder(latent))

    def latent_spec(self) -> Spec:
        return Spec(kind="real", shape=(self.config.latent_dim,), modality="latent")


def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) of each latent, in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
