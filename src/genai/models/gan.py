"""Generative adversarial network (Goodfellow et al. 2014), class-conditional where the data has labels.

Symbols: x real, z noise, y label, G(z, y) generated, D(x, y) one logit per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.models import GanConfig
from genai.nets.family import family
from genai.schema import NetConfig

# gamma=auto: |gradient|^2 is a sum over the values of x, so what is right grows with their number.
GAMMA_PER_VALUE = 4e-4


class Generator(nn.Module):
    """(z, y) -> x: the label joins the noise as a learned vector."""

    def __init__(self, *, spec: Spec, classes: int, latent_dim: int, net: NetConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, latent_dim) if classes else None
        inputs = 2 * latent_dim if classes else latent_dim
        self.decoder = family(net).decoder(spec=spec, inputs=inputs, config=net)

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.decoder(z if self.embed is None else torch.cat([z, self.embed(y)], dim=1))


class Discriminator(nn.Module):
    """(x, y) -> one logit per sample: w.phi(x) + b, and e_y.phi(x) for a label y (projection, Miyato & Koyama 2018)."""

    def __init__(self, *, spec: Spec, classes: int, net: NetConfig) -> None:
        super().__init__()
        self.encoder = family(net).encoder(spec=spec, config=net)
        features = self.encoder.features
        self.weight = nn.Parameter(torch.randn(features) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(()))
        self.embed = nn.Embedding(classes, features) if classes else None
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, std=features**-0.5)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        phi = self.encoder(x).to(self.weight.dtype)  # logits in full precision under autocast too
        direction = self.weight if self.embed is None else self.weight + self.embed(y)
        return (phi * direction).sum(1) + self.bias


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """Mean loss of the discriminator's logits (B,) on real and generated samples of equal labels."""
    if kind == "relativistic":  # Jolicoeur-Martineau 2018: each pair is told apart
        return F.softplus(fake - real).mean()
    if kind == "hinge":  # Lim & Ye 2017
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()  # Goodfellow et al. 2014, eq. 1


def generator_loss(kind: str, real: Tensor | None, fake: Tensor) -> Tensor:
    """Mean loss of the generator; `real` logits count in the relativistic one only."""
    if kind == "relativistic":
        assert real is not None
        return F.softplus(real - fake).mean()
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def squared_gradient(discriminator: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """(B,) |dD/dx|^2 summed over the elements of x, differentiable again (Mescheder et al. 2018)."""
    x = x.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(x, y).sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1)


def describe(real: Tensor, fake: Tensor) -> Terms:
    """Mean logits, and the share of pairs in which the real sample's is higher: 0.5 cannot tell, near 1 has won."""
    return {
        "logit_real": real.mean(),
        "logit_fake": fake.mean(),
        "told_apart_fraction": (real > fake).to(real.dtype).mean(),
    }


class Gan(Model):
    """Updates of a step: the penalty where due, the discriminator, the generator."""

    def __init__(self, *, spec: Spec, config: GanConfig, net: NetConfig) -> None:
        super().__init__()
        self.spec = spec if config.conditional else replace(spec, cond={})
        self.config, self.classes = config, self.spec.label_classes
        self.generator = Generator(spec=spec, classes=self.classes, latent_dim=config.latent_dim, net=net)
        self.discriminator = Discriminator(spec=spec, classes=self.classes, net=net)

    def updates(self) -> Sequence[Update]:
        every = self.config.penalty_every
        penalty = Update(name="penalty", trains="discriminator", loss=self.penalty_loss, every=every, second_order=True)
        discriminator = Update(trains="discriminator", loss=self.discriminator_loss)
        generator = Update(trains="generator", loss=self.generator_loss, every=self.config.generator_every)
        return (discriminator, generator) if self.config.penalty == "none" else (penalty, discriminator, generator)

    def discriminator_loss(self, batch: Batch, samples_seen: int) -> Terms:
        with torch.no_grad():
            generated = self.generate(batch.x, self.labels(batch))
        real, fake = self.discriminator(*self.paired(batch, generated)).chunk(2)
        loss = discriminator_loss(self.config.loss, real, fake)
        return {"loss": loss, **describe(real, fake)}

    def generator_loss(self, batch: Batch, samples_seen: int) -> Terms:
        y = self.labels(batch)
        fake = self.discriminator(self.generate(batch.x, y), y)
        real = None
        if self.config.loss == "relativistic":
            with torch.no_grad():  # the real half of a pair depends on no parameter of the generator
                real = self.discriminator(batch.x, y)
        return {"loss": generator_loss(self.config.loss, real, fake)}

    def penalty_loss(self, batch: Batch, samples_seen: int) -> Terms:
        """gamma / 2 * (R1 + R2), times the interval at which it is due (Karras et al. 2020, lazy regularisation)."""
        gamma = self.gamma(samples_seen)
        y = self.labels(batch)
        if self.config.penalty == "r1":
            terms = {"r1": squared_gradient(self.discriminator, batch.x, y).mean()}
        else:
            with torch.no_grad():
                generated = self.generate(batch.x, y)
            r1, r2 = squared_gradient(self.discriminator, *self.paired(batch, generated)).chunk(2)
            terms = {"r1": r1.mean(), "r2": r2.mean()}
        total = torch.stack(list(terms.values())).sum()
        loss = 0.5 * gamma * self.config.penalty_every * total
        return {"loss": loss, **terms, "gamma": torch.full_like(loss, gamma)}

    def gamma(self, samples_seen: int) -> float:
        """Strength of the penalty: as set or by the size of x (auto), constant or falling by a half cosine."""
        first, last, over = self.config.gamma, self.config.gamma_final, self.config.gamma_decay_samples
        if first == "auto":
            first = GAMMA_PER_VALUE * math.prod(self.spec.shape)
        if last is None or first == last:
            return first
        share = min(1.0, samples_seen / over) if over else 1.0
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))

    def evaluate(self, batch: Batch) -> Terms:
        y = self.labels(batch)
        return describe(self.discriminator(batch.x, y), self.discriminator(self.generate(batch.x, y), y))

    def draw(self, request: Request) -> Tensor:
        z = request.noise(self.config.latent_dim) * request.truncation
        return self.generator(z, request.cond["label"] if self.classes else None)

    def generate(self, x: Tensor, y: Tensor | None) -> Tensor:
        """As many generated samples as x has, with the same labels."""
        return self.generator(torch.randn(len(x), self.config.latent_dim, device=x.device, dtype=x.dtype), y)

    def paired(self, batch: Batch, generated: Tensor) -> tuple[Tensor, Tensor | None]:
        """Real samples, then generated ones, and the labels of both: one pass of twice the size costs less than two."""
        y = self.labels(batch)
        return torch.cat([batch.x, generated]), None if y is None else torch.cat([y, y])

    def labels(self, batch: Batch) -> Tensor | None:
        return batch.cond["label"] if self.classes else None
