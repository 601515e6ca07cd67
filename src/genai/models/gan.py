"""Generative adversarial network (Goodfellow et al. 2014), class-conditional where the data has labels.

Symbols: x real, z noise, y label, G(z, y) generated, D(x, y) one logit per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from genai.contract import Alarm, Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import GanConfig
from genai.models.adversarial import (
    GAMES,
    interpolated,
    squared_gradient_norm,
    squared_gradient_norm_by_difference,
)
from genai.models.augment import Augmentation, drawn
from genai.models.latents import between
from genai.models.rows import Rows
from genai.nets.family import family
from genai.schema import NetConfig

# gamma=auto: |gradient|^2 is a sum over the values of x, so what is right grows with their number.
GAMMA_PER_VALUE = 4e-4
GAMMA_GP = 20.0  # gamma / 2 = 10, the weight of Gulrajani et al. 2017; a gradient of norm 1 is that at any size
# augment=auto: so few pictures, of at least so many pixels a side (of 8 x 8 digits it left one kind a class)
AUGMENT_BELOW, AUGMENT_SIDE = 10_000, 16
_TEMPERATURE = 0.5  # of softened draws of categories
_LABEL_VALUES = 8  # that a label adds to points for a discriminator that sees it as input


class Generator(nn.Module):
    """(z, y) -> x: the label joins the noise as a learned vector."""

    def __init__(self, *, spec: Spec, classes: int, latent_dim: int, net: NetConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, latent_dim) if classes else None
        inputs = 2 * latent_dim if classes else latent_dim
        self.decoder = family(net).decoder(spec=spec, inputs=inputs, config=net)
        self.rows = Rows(spec) if spec.modality == "table" else None

    def forward(self, z: Tensor, y: Tensor | None, noise: Tensor | None = None) -> Tensor:
        """Categories of table rows are drawn by `noise` (B, D), standard normal; their gradients are those of softened
        draws (Jang et al. 2017, straight-through Gumbel-softmax)."""
        x: Tensor = self.decoder(z if self.embed is None else torch.cat([z, self.embed(y)], dim=1))
        if self.rows is None:
            return x
        numbers, logits = self.rows.split(x)
        noise = torch.randn_like(x) if noise is None else noise
        gumbel = -(-torch.special.ndtr(self.rows.split(noise)[1].float()).clamp(1e-6, 1 - 1e-6).log()).log()
        soft = self.rows.log_softmax((logits + gumbel) / _TEMPERATURE).exp()
        return torch.cat([numbers, self.rows.hardened(soft) + soft - soft.detach()], dim=1)

    def between(self, z: Tensor, y: Tensor | None, other: Tensor | None, weight: Tensor) -> Tensor:
        """As forward, `weight` (B, 1) of the way from the label y to another one."""
        if self.embed is None:
            return self.decoder(z)
        return self.decoder(torch.cat([z, torch.lerp(self.embed(y), self.embed(other), weight)], dim=1))


class Discriminator(nn.Module):
    """(x, y) -> one logit per sample, or per `pack` of samples (Lin et al. 2018, PacGAN): w.phi(x) + b.

    A label y joins by projection, as e_y.phi(x) (Miyato & Koyama 2018), or as a further channel of x, learned for each
    label (Mirza & Osindero 2014).
    """

    def __init__(self, *, spec: Spec, classes: int, projected: bool, net: NetConfig, pack: int = 1) -> None:
        super().__init__()
        first, *others = spec.shape
        self.label_shape, self.pack = (1, *others) if others else (_LABEL_VALUES,), pack
        values = first + self.label_shape[0] if classes and not projected else first
        seen = replace(spec, shape=(values * pack, *others))
        self.encoder = family(net).encoder(spec=seen, config=net)
        features = self.encoder.features
        self.weight = nn.Parameter(torch.randn(features) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(()))
        self.embed = nn.Embedding(classes, features) if classes and projected else None
        if self.embed is not None:
            nn.init.normal_(self.embed.weight, std=features**-0.5)
        self.channel = nn.Embedding(classes, math.prod(self.label_shape)) if classes and not projected else None

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        if self.channel is not None:
            x = torch.cat([x, self.channel(y).view(-1, *self.label_shape).to(x.dtype)], dim=1)
        if self.pack > 1:
            x = filled(x, self.pack).unflatten(0, (-1, self.pack)).flatten(1, 2)
        phi = self.encoder(x).to(self.weight.dtype)  # logits in full precision under autocast too
        direction = self.weight if self.embed is None else self.weight + self.embed(y)
        return (phi * direction).sum(1) + self.bias

    def normalise(self) -> None:
        """Divides every weight by its largest singular value from here on (Miyato et al. 2018)."""
        for module in list(self.modules()):
            if isinstance(weight := getattr(module, "weight", None), nn.Parameter):
                if not weight.any():  # a layer that starts at zero has no direction to keep
                    nn.init.kaiming_normal_(weight, a=0.2)
                spectral_norm(module, "weight")
        self.train(self.training)

    def train(self, mode: bool = True) -> Discriminator:
        super().train(mode)
        for module in filter(is_parametrized, self.modules()):
            module.get_submodule("parametrizations").eval()  # it would iterate in every forward pass
        return self

    @torch.no_grad()
    def iterate(self) -> None:
        """One step of power iteration towards the singular values."""
        for module in filter(is_parametrized, self.modules()):
            normalising = module.get_submodule("parametrizations").train()
            _ = module.weight  # computing it is what iterates
            normalising.eval()


def describe(real: Tensor, fake: Tensor) -> Terms:
    """Mean logits, and the mean sign of a pair's difference: 0 where D cannot tell, near 1 where it has won."""
    return {"logit_real": real.mean(), "logit_fake": fake.mean(), "pair_sign": (real - fake).sign().mean()}


class Gan(Model):
    """Updates of a step: the penalty where due, the discriminator, the generator."""

    sampling_keys = frozenset({"truncation", "frames", "path"})

    def __init__(self, *, spec: Spec, config: GanConfig, net: NetConfig) -> None:
        super().__init__()
        self.spec = spec.told("label") if config.conditional else spec.told()
        self.config, self.classes, self.game = config, self.spec.label_classes, GAMES[config.loss]
        self.penalty = self.game.penalty if config.penalty == "auto" else config.penalty
        self.spectral = self.game.spectral_norm if config.spectral_norm == "auto" else config.spectral_norm
        self.augment = _augmentation(spec) if config.augment == "auto" else config.augment
        _check(config, self.penalty, spec)
        self.generator = Generator(spec=spec, classes=self.classes, latent_dim=config.latent_dim, net=net)
        self.discriminator = Discriminator(
            spec=spec, classes=self.classes, projected=config.condition == "projection", net=net, pack=config.pack
        )
        self._iterated_at = -1  # samples seen at the last power iteration
        if self.spectral:
            self.discriminator.normalise()

    def updates(self) -> Sequence[Update]:
        exact = self.config.penalty_form == "exact"
        penalty = Update(
            name="penalty",
            trains="discriminator",
            loss=self.penalty_loss,
            every=self.config.penalty_every,
            second_order=exact,
            full_precision=not exact,  # a small difference of logits
        )
        discriminator = Update(trains="discriminator", loss=self.discriminator_loss)
        generator = Update(trains="generator", loss=self.generator_loss, every=self.config.generator_every)
        return (discriminator, generator) if self.penalty == "none" else (penalty, discriminator, generator)

    def discriminator_loss(self, batch: Batch, samples_seen: int) -> Terms:
        if self.spectral and samples_seen != self._iterated_at:  # once a step, however many micro-batches it has
            self.discriminator.iterate()
            self._iterated_at = samples_seen
        with torch.no_grad():
            generated = self.generate(batch.x, self.labels(batch))
        real, fake = self.discriminate(*self.paired(batch, generated), samples_seen).chunk(2)
        return {"loss": self.game.discriminator(real, fake), **describe(real, fake)}

    def generator_loss(self, batch: Batch, samples_seen: int) -> Terms:
        y = self.labels(batch)
        fake = self.discriminate(self.generate(batch.x, y), y, samples_seen)
        real = fake
        if self.game.paired:
            with torch.no_grad():  # the real half of a pair depends on no parameter of the generator
                real = self.discriminate(batch.x, y, samples_seen)
        return {"loss": self.game.generator(real, fake)}

    def penalty_loss(self, batch: Batch, samples_seen: int) -> Terms:
        """gamma / 2 times the penalty, times the interval at which it is due (Karras et al. 2020, lazy regularisation).

        The gradient is that with respect to the picture as it is, through the augmentation.
        """
        exact = self.config.penalty_form == "exact"

        def squared(x: Tensor, y: Tensor | None) -> Tensor:
            measure = squared_gradient_norm if exact else squared_gradient_norm_by_difference
            return measure(self.discriminator, x, y, self.view(x, samples_seen))

        y = self.labels(batch)
        if self.penalty == "r1":
            terms = {"r1": squared(*self.whole_packs(batch)).mean()}
        else:
            with torch.no_grad():
                generated = self.generate(batch.x, y)
            if self.penalty == "gp":
                lengths = (squared(interpolated(batch.x, generated), y) + 1e-12).sqrt()
                terms = {"gp": (lengths - 1).square().mean()}
            else:
                r1, r2 = squared(*self.paired(batch, generated)).chunk(2)
                terms = {"r1": r1.mean(), "r2": r2.mean()}
        gamma = self.gamma(samples_seen)
        loss = 0.5 * gamma * self.config.penalty_every * torch.stack(list(terms.values())).sum()
        return {"loss": loss, **terms, "gamma": torch.full_like(loss, gamma)}

    # -- schedules, on one clock ---------------------------------------------------------------------------------------

    def gamma(self, samples_seen: int) -> float:
        """Strength of the penalty: as set or by the size of x (auto), constant or falling by a half cosine."""
        first, last = self.config.gamma, self.config.gamma_final
        if first == "auto":
            first = GAMMA_GP if self.penalty == "gp" else GAMMA_PER_VALUE * math.prod(self.spec.shape)
        return first if last is None else last + (first - last) * (1 - self.progress(samples_seen))

    def augment_p(self, samples_seen: int) -> float:
        """Probability of each augmentation, rising from 0 by a half cosine."""
        return self.config.augment_p * self.progress(samples_seen)

    def progress(self, samples_seen: int) -> float:
        """0 at the first sample, 1 after schedule_samples."""
        over = self.config.schedule_samples
        return 0.5 * (1 - math.cos(math.pi * min(1.0, samples_seen / over))) if over else 1.0

    # -- what is told --------------------------------------------------------------------------------------------------

    def notes(self) -> Sequence[str]:
        config, told = self.config, [f"loss {self.config.loss}"]
        if self.spectral:
            told.append("spectral normalisation")
        if self.penalty != "none":
            told.append(f"penalty {self.penalty} every {config.penalty_every} steps")
            auto = " (auto)" if config.gamma == "auto" else ""
            final = "" if config.gamma_final is None else f" falling to {config.gamma_final:.4g}"
            told.append(f"gamma {self.gamma(0):.4g}{auto}{final}")
        else:
            told.append("no penalty" + ("" if config.gamma == "auto" else ", so that model.gamma has no effect"))
        if self.augment:
            told.append(f"augmented by {', '.join(self.augment)}" + " (auto)" * (config.augment == "auto"))
        return [", ".join(told)]

    def alarms(self) -> Sequence[Alarm]:
        stronger = "start again with model.penalty=" + ("gp" if self.config.loss == "wgan_gp" else "r1")
        if self.penalty != "none":
            stronger = f"start again with a larger model.gamma (twice: {2 * self.gamma(0):.3g})"
        augmenting = self.spec.modality == "image" and not self.augment
        return (
            Alarm(
                name="mean sign of real minus generated logits",
                measure=lambda terms: terms["discriminator/pair_sign"],
                above=0.99,
                says=f"the discriminator has won, the generator learns little - {stronger}, or a smaller optim.lr",
            ),
            Alarm(
                name="gradient of the generator",
                measure=lambda terms: terms["generator/grad_norm"],
                below=1e-3,
                steps=200,
                says="the generator has stopped learning - start again with a smaller optim.lr",
            ),
            Alarm(
                name="squared gradient of the discriminator at held-out data",
                measure=lambda terms: terms["valid/r1"],
                # Good runs stay below 5; a weak penalty lets it grow by itself.
                above=20.0 if self.penalty == "none" else 100.0,
                says=f"it is too steep to learn from - {stronger}",
            ),
            Alarm(
                name="mean sign on training data minus that on held-out data",
                measure=lambda terms: terms["discriminator/pair_sign"] - terms["valid/pair_sign"],
                # Held-out data is judged by averaged weights, which alone makes up to 0.55 on data that never repeats.
                above=0.8,
                says="the discriminator knows the training data by heart - add data"
                + (", or start again with model.augment=[translation,cutout]" if augmenting else ""),
            ),
            Alarm(
                name="diversity of the preview over that of the data",
                measure=lambda terms: terms["preview/diversity"],
                below=0.4,
                says=f"the generator draws few kinds - {stronger}, or a smaller optim.lr",
            ),
        )

    def evaluate(self, batch: Batch) -> Terms:
        y = self.labels(batch)
        terms = describe(self.discriminator(batch.x, y), self.discriminator(self.generate(batch.x, y), y))
        x, y = self.whole_packs(batch)
        return {**terms, "r1": squared_gradient_norm_by_difference(self.discriminator, x, y).mean()}

    # -- drawing -------------------------------------------------------------------------------------------------------

    def draw(self, request: Request) -> Tensor:
        z, y = self.noise(request), request.cond["label"] if self.classes else None
        return self.generator(z, y, request.noise(*self.spec.shape) if self.generator.rows is not None else None)

    def draw_between(self, first: Request, second: Request, weight: Tensor) -> Tensor:
        z = between(self.noise(first), self.noise(second), weight[:, None], first.sampling.path)
        one, other = (request.cond["label"] if self.classes else None for request in (first, second))
        return self.generator.between(z, one, other, weight[:, None])

    def noise(self, request: Request) -> Tensor:
        return request.noise(self.config.latent_dim) * request.sampling.truncation

    def generate(self, x: Tensor, y: Tensor | None) -> Tensor:
        """As many generated samples as x has, with the same labels."""
        return self.generator(torch.randn(len(x), self.config.latent_dim, device=x.device, dtype=x.dtype), y)

    def discriminate(self, x: Tensor, y: Tensor | None, samples_seen: int) -> Tensor:
        """Logits (B,) of augmented samples."""
        return self.discriminator(self.view(x, samples_seen)(x), y)

    def view(self, x: Tensor, samples_seen: int) -> Augmentation:
        """What is done to such samples."""
        return drawn(self.augment, self.augment_p(samples_seen), x)

    def paired(self, batch: Batch, generated: Tensor) -> tuple[Tensor, Tensor | None]:
        """Real samples, then generated ones, and the labels of both: one pass of twice the size costs less than two."""
        y, pack = self.labels(batch), self.config.pack
        both = torch.cat([filled(batch.x, pack), filled(generated, pack)])
        return both, None if y is None else torch.cat([filled(y, pack)] * 2)

    def whole_packs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        y, pack = self.labels(batch), self.config.pack
        return filled(batch.x, pack), None if y is None else filled(y, pack)

    def labels(self, batch: Batch) -> Tensor | None:
        return batch.cond["label"] if self.classes else None


def filled(x: Tensor, pack: int) -> Tensor:
    """With the first samples again, where there are too few for the last pack."""
    count = -(-len(x) // pack) * pack
    return x if count == len(x) else x[torch.arange(count, device=x.device) % len(x)]


def _augmentation(spec: Spec) -> tuple[str, ...]:
    """For a set so small that the discriminator would learn it by heart (Zhao et al. 2020, figure 1)."""
    if spec.modality != "image" or min(spec.shape[1:]) < AUGMENT_SIDE or not 0 < spec.num_samples < AUGMENT_BELOW:
        return ()
    return "translation", "cutout"  # measured on 1,715 emoji: color made samples greyer and fewer in kind


def _check(config: GanConfig, penalty: str, spec: Spec) -> None:
    """Settings that cannot go together. Raises ConfigError."""
    if penalty == "gp" and config.penalty_form == "finite_difference":
        what = "penalty=gp needs the gradient itself, a finite difference estimates its square"
        raise ConfigError(what, fix="type model.penalty_form=exact, or model.penalty=r1_r2")
    if config.pack > 1 and config.conditional and spec.label_classes and config.condition == "projection":
        what = f"model.pack={config.pack}: samples of several classes are judged together, which projection cannot"
        raise ConfigError(what, fix="type model.condition=embedding, or model.pack=1")
    if config.gamma_final is not None and not config.schedule_samples:
        what = "model.gamma_final is what gamma falls to over model.schedule_samples, which is 0"
        raise ConfigError(what, fix="type model.schedule_samples=NUMBER, or model.gamma_final=null")
    if config.augment not in ("auto", ()) and spec.modality != "image":
        raise ConfigError(f"model.augment changes pictures, the data is {spec.modality}", fix="type model.augment=[]")
