"""Variational autoencoder (Kingma & Welling 2014), also with codes for latents (van den Oord et al. 2017, VQ-VAE).

Symbols: x data, z latents, a vector or a map, q(z|x) the encoder's posterior, p(z) = N(0,I) or even over codes, p(x|z)
the decoder's likelihood. The rate KL(q(z|x) || p(z)) and the distortion -log p(x|z) are in nats, summed over latents
and over values of x; with beta = 1 their sum is a bound on -log p(x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Alarm, Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import VaeConfig
from genai.models.adversarial import GAMES, squared_gradient_norm
from genai.models.bottleneck import Posterior, bottleneck_of
from genai.models.latents import along_circle, between
from genai.models.likelihood import Bernoulli, Columns, Likelihood, binarised, likelihood_of
from genai.models.mixture_prior import MixturePrior
from genai.models.spectral import log_spectral_distance
from genai.nets.family import family
from genai.schema import NetConfig

# Of a prior with full covariances: latents, numbers in all, and samples that a part is worth.
_MOST_LATENTS, _MOST_NUMBERS, _SAMPLES_OF_PART = 512, 1 << 23, 100
_GAME = GAMES["relativistic"]  # a reconstruction against what it is of
_LEAST_PUSH = 1e-6
_PENALTY_EVERY, _GAMMA_PER_VALUE = 8, 4e-4  # as in the GAN
_FEW_CODES = 0.1  # of all, in the held-out data
_STEEP = 1000.0  # squared gradient of a discriminator, which is below 1 where all is well
_AT_ONCE = 2048  # latents decoded at a time for the importance-weighted bound


class Autoencoder(nn.Module):
    """Encoder, bottleneck, decoder, likelihood, and the prior that samples are drawn from: one optimizer trains them
    together."""

    def __init__(self, *, spec: Spec, config: VaeConfig, classes: int, net: NetConfig) -> None:
        super().__init__()
        self.likelihood = likelihood_of(config, spec)
        self.bottleneck = bottleneck_of(config)
        build, factor = family(net), factor_of(config, spec)
        self.encoder = build.encoder(spec=spec, config=net, outputs=self.bottleneck.outputs, factor=factor)
        output = replace(spec, shape=(self.likelihood.channels, *spec.shape[1:]), modality="latent")
        self.decoder = build.decoder(spec=output, inputs=self.bottleneck.channels, config=net, factor=factor)
        self.shape = (self.bottleneck.channels, *self.encoder.shape[1:])  # of z
        self.prior = None
        if config.prior == "mixture":
            latents = math.prod(self.shape)
            parts = _parts_of_class(config.prior_parts, latents, classes, spec.num_samples)
            self.prior = MixturePrior(latent_dim=latents, classes=classes, parts=parts)

    def encode(self, x: Tensor) -> Posterior:
        """q(z|x), out of bf16."""
        posterior: Posterior = self.bottleneck(self.encoder(x).to(x.dtype))
        return posterior


class Vae(Model):
    sampling_keys = frozenset({"truncation", "frames", "path", "importance_samples"})

    def __init__(self, *, spec: Spec, config: VaeConfig, net: NetConfig) -> None:
        super().__init__()
        # The label is what the prior is told; the decoder reads all that it needs from z.
        self.spec = spec.told("label") if config.prior == "mixture" else spec.told()
        self.draws = config.prior != "none"
        self.config, self.classes = config, self.spec.label_classes
        if len(spec.shape) == 1 and (config.downsample is not None or config.latents != "gaussian"):
            what = f"{spec.modality} have no positions, of which a map of latents could be made"
            raise ConfigError(what, fix="type model.latents=gaussian model.downsample=null")
        if config.spectral and spec.modality != "audio":
            what = f"model.spectral is of sounds, the data is {spec.modality}"
            raise ConfigError(what, fix="type model.spectral=0")
        self.stop_metric = "nll_nats_bound" if config.beta == 1 else "mse"  # what it is trained for
        self.autoencoder = Autoencoder(spec=spec, config=config, classes=self.classes, net=net)
        self.discriminator = None
        if config.adversarial:
            # Of a map it judges each position.
            self.discriminator = family(net).encoder(spec=spec, config=net, outputs=1, factor=factor_of(config, spec))

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
        posterior = self.autoencoder.encode(x)
        z = posterior.sample()
        output = self.autoencoder.decoder(z)
        rates = posterior.rates()
        distortions = -self.likelihood.log_prob(x, output)
        distortion = distortions.mean()
        weight = self.kl_weight(samples_seen)
        loss = distortion + weight * rates.clamp(min=self.config.free_nats).sum(1).mean()
        terms = {
            "rate_nats": rates.sum(1).mean(),
            "distortion_nats": distortion,
            **self.likelihood.errors(x, output),
            "kl_weight": torch.full_like(loss, weight),
            **posterior.terms(z),
        }
        if "commitment" in terms:
            loss = loss + math.prod(self.spec.shape) * terms["commitment"]
        if self.config.spectral:
            terms["spectral"] = log_spectral_distance(x, self.likelihood.mean(output)).mean()
            loss = loss + self.config.spectral * math.prod(self.spec.shape) * terms["spectral"]
        if self.autoencoder.prior is not None:
            terms |= self.autoencoder.prior.terms(z.detach().flatten(1), batch.cond["label"] if self.classes else None)
        if self.discriminator is not None:
            strength = self.config.adversarial * _risen(samples_seen, self.config.adversarial_warmup_samples)
            terms["adversarial"] = strength * self.adversarial(x, output, distortions)
            loss = loss + terms["adversarial"]
        return {"loss": loss, **terms}

    # -- reconstructions that a discriminator cannot tell from what they are of (Larsen et al. 2016, VAE-GAN) ----------

    def adversarial(self, x: Tensor, output: Tensor, distortion: Tensor) -> Tensor:
        """What a discriminator says of reconstructions beside what they are of. Each is weighted such that its gradient
        is as long as that of its distortion (Esser et al. 2021, VQGAN, equation 7, weigh a whole batch, which would tie
        samples together)."""
        assert self.discriminator is not None
        reconstruction = self.likelihood.mean(output)
        pairs = self.discriminator(x) - self.discriminator(reconstruction)
        losses = F.softplus(pairs.float()).flatten(1).mean(1)
        pull, push = (
            torch.autograd.grad(total.sum(), output, retain_graph=True)[0].flatten(1).norm(dim=1)
            for total in (distortion, losses)
        )
        return (losses * pull / (push + _LEAST_PUSH)).mean()

    def discriminator_loss(self, batch: Batch, samples_seen: int) -> Terms:
        assert self.discriminator is not None
        x, reconstruction = self.original_and_again(batch)
        real, fake = self.discriminator(torch.cat([x, reconstruction])).float().chunk(2)
        return {"loss": _GAME.discriminator(real, fake), "pair_sign": (real - fake).sign().mean()}

    def penalty_loss(self, batch: Batch, samples_seen: int) -> Terms:
        assert self.discriminator is not None
        both = torch.cat(self.original_and_again(batch))
        judge = self.discriminator
        r1, r2 = squared_gradient_norm(lambda x, _: judge(x).flatten(1).mean(1), both, None).chunk(2)
        gamma = _GAMMA_PER_VALUE * math.prod(self.spec.shape)
        return {"loss": 0.5 * gamma * _PENALTY_EVERY * (r1.mean() + r2.mean()), "r1": r1.mean(), "r2": r2.mean()}

    def original_and_again(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x = self.observed(batch.x)
            return x, self.decoded(self.autoencoder.encode(x).sample())

    def follow(self, terms: Terms) -> None:
        """The optimal deviation is that of the errors just made; codes and the prior move to what they stand for."""
        self.likelihood.follow(terms)
        self.autoencoder.bottleneck.follow(terms)
        if self.autoencoder.prior is not None:
            self.autoencoder.prior.follow(terms)

    def kl_weight(self, samples_seen: int) -> float:
        return self.config.beta * _risen(samples_seen, self.config.kl_warmup_samples)

    def observed(self, x: Tensor) -> Tensor:
        """What the likelihood is of: x, or its black and white form."""
        if isinstance(self.likelihood, Bernoulli):
            return binarised(x, dynamic=self.config.binarise == "dynamic")
        return x

    # -- what is measured ----------------------------------------------------------------------------------------------

    def evaluate(self, batch: Batch) -> Terms:
        x = self.observed(batch.x)
        posterior = self.autoencoder.encode(x)
        rate = posterior.rates().sum(1).mean()
        distortion = -self.likelihood.log_prob(x, self.autoencoder.decoder(posterior.sample())).mean()
        again = self.decoded(posterior.mode)
        error = again - x
        terms = posterior.held_out()
        if self.spec.modality == "audio":
            terms["log_spectral_distance"] = log_spectral_distance(x, again).mean()
        return {
            **self.bound_terms(rate + distortion),
            "rate_nats": rate,
            "distortion_nats": distortion,
            # Of pictures on 0 to 1, of other data in units of their deviation.
            "mse": error.square().mean() / (4 if self.spec.modality == "image" else 1),
            "l1": error.abs().mean(),  # in model units: of pictures on -1 to 1
            **terms,
        }

    def conclude(self, means: Terms) -> Terms:
        scalars = {name: mean for name, mean in means.items() if mean.ndim == 0}
        return scalars | self.autoencoder.bottleneck.conclude(means)

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
        posterior = self.autoencoder.encode(x)
        weights = []
        for count in _parts(samples, max(1, _AT_ONCE // len(x))):
            z, log_weight = posterior.weighted(count)
            output = self.autoencoder.decoder(z.flatten(0, 1))
            repeated = x.repeat(count, *[1] * (x.ndim - 1))
            weights.append(self.likelihood.log_prob(repeated, output).view(count, -1) + log_weight)
        return torch.cat(weights).logsumexp(0) - math.log(samples)

    def evaluate_bound(self, batch: Batch, samples: int) -> Terms:
        return self.bound_terms(-self.log_likelihood_bound(batch, samples).mean(), f"_s{samples}")

    def alarms(self) -> Sequence[Alarm]:
        found = [self._latents_alarm() if self.config.latents == "gaussian" else self._codes_alarm()]
        if self.discriminator is not None:
            found.append(
                Alarm(
                    name="the discriminator's squared gradient",
                    measure=lambda terms: terms["penalty/r1"],
                    above=_STEEP,
                    steps=100,
                    says="it diverges and sharpens nothing - start again with half of optim.lr",
                )
            )
        return found

    def _latents_alarm(self) -> Alarm:
        return Alarm(
            name="latents that say something",
            measure=lambda terms: terms["valid/active_units"],
            below=min(1.5, math.prod(self.autoencoder.shape) - 0.5),  # one of several, or none at all
            steps=1000,
            says="the decoder does without the latents (posterior collapse) - start again with "
            "model.kl_warmup_samples=100000, model.free_nats=0.1 or a smaller model.beta",
        )

    def _codes_alarm(self) -> Alarm:
        vocab = self.latent_spec().vocab
        seen = math.prod(self.autoencoder.shape[1:]) * self.spec.num_samples // 10 or vocab  # by what is held out
        return Alarm(
            name="codes in use",
            measure=lambda terms: terms["valid/codes_active"],
            below=_FEW_CODES * min(1.0, seen / vocab),
            steps=1000,
            says="most codes stand for nothing - start again with fewer (model.levels=[5,5,5], model.codes=128)",
        )

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self, request: Request) -> Tensor:
        """Means of p(x|z); of table rows draws, in which numbers scatter and categories are chosen."""
        if not isinstance(self.likelihood, Columns):
            return self.from_vector(self.drawn(request))
        z = self.autoencoder.bottleneck.settled(self.drawn(request).unflatten(1, self.autoencoder.shape))
        return self.likelihood.drawn(self.autoencoder.decoder(z), request.noise(*self.spec.shape))

    def draw_between(self, first: Request, second: Request, weight: Tensor) -> Tensor:
        return self.from_vector(between(self.drawn(first), self.drawn(second), weight[:, None], first.sampling.path))

    def vary(self, x: Tensor, request: Request, strength: float) -> Tensor:
        """On the way from the latents of x to those of a new sample, of the same label where there is one."""
        return self.from_vector(along_circle(self.known(x), self.drawn(request), torch.tensor(strength)))

    def end(self, x: Tensor, request: Request) -> Tensor:
        return self.known(x)

    def blend(self, end: Tensor, other: Tensor, first: Request, second: Request, weight: Tensor) -> Tensor:
        return self.from_vector(between(end, other, weight[:, None], first.sampling.path))

    def known(self, x: Tensor) -> Tensor:
        """The likeliest latents of x, (B, latents)."""
        return self.mode(x).flatten(1)

    def mode(self, x: Tensor) -> Tensor:
        """The likeliest z, of black and white pictures by their lighter half: the same for the same x."""
        return self.posterior_of(x).mode

    def posterior_of(self, x: Tensor) -> Posterior:
        return self.autoencoder.encode(binarised(x, dynamic=False) if isinstance(self.likelihood, Bernoulli) else x)

    def drawn(self, request: Request) -> Tensor:
        """Latents from the prior, (B, latents)."""
        noise, prior = request.noise(math.prod(self.autoencoder.shape) + 1), self.autoencoder.prior
        noise[:, :-1] *= request.sampling.truncation
        if prior is None:
            return noise[:, :-1]
        return prior.sample(noise, request.cond["label"] if self.classes else None)

    def from_vector(self, latents: Tensor) -> Tensor:
        """The mean of p(x|z), in model units; of codes that of the nearest."""
        return self.decoded(self.autoencoder.bottleneck.settled(latents.unflatten(1, self.autoencoder.shape)))

    def decoded(self, z: Tensor) -> Tensor:
        return self.likelihood.mean(self.autoencoder.decoder(z))

    # -- as a first stage ----------------------------------------------------------------------------------------------

    def to_latent(self, x: Tensor) -> Tensor:
        return self.autoencoder.bottleneck.to_latent(self.mode(x))

    def to_latents(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        bottleneck = self.autoencoder.bottleneck
        posterior = self.posterior_of(x)
        return bottleneck.to_latent(posterior.mode), bottleneck.spread(posterior)

    def from_latent(self, latent: Tensor) -> Tensor:
        return self.decoded(self.autoencoder.bottleneck.from_latent(latent, self.autoencoder.shape))

    def latent_spec(self) -> Spec:
        return self.autoencoder.bottleneck.latent_spec(self.autoencoder.shape)


def _parts_of_class(parts: int, latents: int, classes: int, samples: int) -> int:
    """Of `parts` shared out among the classes, as many as fit and as samples (0: unknown) are enough for.

    Raises ConfigError where not one does.
    """
    each = max(1, parts // max(classes, 1))
    fitting = _MOST_NUMBERS // (max(classes, 1) * latents**2)
    if latents > _MOST_LATENTS or fitting == 0:
        what = f"model.prior=mixture is for at most {_MOST_LATENTS} latents and {_MOST_NUMBERS:,} numbers, "
        what += f"here are {latents:,} latents of {max(classes, 1):,} classes"
        raise ConfigError(what, fix="type model.prior=none, and train a model on the latents by data.codec=RUN")
    worth = max(1, samples // (_SAMPLES_OF_PART * max(classes, 1))) if samples else each
    return min(each, fitting, worth)


def factor_of(config: VaeConfig, spec: Spec) -> int | None:
    """Values a side that a position of the map of latents stands for; None: they are a vector."""
    return (32 if spec.modality == "audio" else 4) if config.downsample == "auto" else config.downsample


def _risen(samples_seen: int, over: int) -> float:
    """From 0 to 1 over so many samples; 1 without them."""
    return min(1.0, samples_seen / over) if over else 1.0


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
