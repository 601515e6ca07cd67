"""An alternating GAN with R1, a masked character model, a full-batch softmax, a first stage with latents, and a model
that shows what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Batch, Model, Request, Spec, Terms, Update


class ProbeGan(Model):
    """Two learners; the first also takes a lazy penalty that needs a second derivative. Any real data of one axis."""

    def __init__(self, *, spec: Spec, config: Any, net: Any) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        size, width = spec.shape[0], config.width
        self.generator = nn.Sequential(nn.Linear(config.noise, width), nn.Tanh(), nn.Linear(width, size))
        self.discriminator = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 1))

    def updates(self) -> Sequence[Update]:
        return (
            Update(trains="discriminator", loss=self.tell),
            Update(trains="discriminator", name="r1", loss=self.penalty, every=3, second_order=True),
            Update(trains="generator", loss=self.fool, start=1),
        )

    def generate(self, x: Tensor) -> Tensor:
        return self.generator(torch.randn(len(x), self.config.noise, dtype=x.dtype, device=x.device))

    def tell(self, batch: Batch, samples: int) -> Terms:
        real, fake = self.discriminator(batch.x), self.discriminator(self.generate(batch.x).detach())
        return {"loss": (F.softplus(-real) + F.softplus(fake)).mean(), "real": real.mean()}

    def penalty(self, batch: Batch, samples: int) -> Terms:
        x = batch.x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.discriminator(x).sum(), x, create_graph=True)
        return {"loss": 3 * 0.05 * slope.square().sum(1).mean()}

    def fool(self, batch: Batch, samples: int) -> Terms:
        return {"loss": F.softplus(-self.discriminator(self.generate(batch.x))).mean()}

    def draw(self, request: Request) -> Tensor:
        return self.generator(request.noise(self.config.noise))

    def evaluate(self, batch: Batch) -> Terms:
        return {"real_logit": self.discriminator(batch.x).mean()}


class Characters(Model):
    """p(next | last): only unmasked tokens count, and micro-batches hold unequal numbers of them."""

    stop_metric = "loss_nats_per_token"

    def __init__(self, *, spec: Spec, config: Any, net: Any) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.net = nn.Sequential(nn.Embedding(spec.vocab + 1, config.width), nn.Linear(config.width, spec.vocab))

    def updates(self) -> Sequence[Update]:
        return (Update(trains="net", loss=self.loss),)

    def nats(self, batch: Batch) -> Tensor:
        assert batch.mask is not None
        start = torch.full_like(batch.x[:, :1], self.spec.vocab)
        logits = self.net(torch.cat([start, batch.x[:, :-1]], dim=1)).float()
        each = F.cross_entropy(logits.flatten(0, 1), batch.x.flatten(), reduction="none").view(batch.x.shape)
        return (each * batch.mask).sum() / batch.mask.sum()

    def loss(self, batch: Batch, samples: int) -> Terms:
        return {"loss": self.nats(batch)}

    def draw(self, request: Request) -> Tensor:
        last = torch.full((request.count,), self.spec.vocab, device=request.device)
        columns = []
        for _ in range(self.spec.shape[0]):
            chances = self.net(last).softmax(-1).cpu()
            picks = [torch.multinomial(p, 1, generator=g) for p, g in zip(chances, request.generators, strict=True)]
            last = torch.cat(picks).to(request.device)
            columns.append(last)
        return torch.stack(columns, dim=1)

    def evaluate(self, batch: Batch) -> Terms:
        return {"loss_nats_per_token": self.nats(batch)}


class Softmax(Model):
    """p(label | input), convex: sum of the losses + 0.5 * decay * |W|^2, for a full-batch L-BFGS."""

    predicts = "target"
    stop_metric = "nll_nats"

    def __init__(self, *, spec: Spec, config: Any, net: Any) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        inputs = spec.cond["input"].shape
        self.net = nn.Linear(torch.Size(inputs).numel(), spec.classes)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)

    def updates(self) -> Sequence[Update]:
        return (Update(trains="net", loss=self.loss),)

    def logits(self, batch: Batch) -> Tensor:
        return self.net(batch.cond["input"].flatten(1))

    def loss(self, batch: Batch, samples: int) -> Terms:
        penalty = 0.5 * self.config.decay * self.net.weight.square().sum()
        return {"loss": F.cross_entropy(self.logits(batch), batch.x) + penalty}

    def draw(self, request: Request) -> Tensor:
        return self.net(request.cond["input"].flatten(1)).softmax(-1)

    def evaluate(self, batch: Batch) -> Terms:
        logits = self.logits(batch)
        return {
            "nll_nats": F.cross_entropy(logits, batch.x),
            "accuracy": (logits.argmax(1) == batch.x).to(logits.dtype).mean(),
        }


class Autoencoder(Model):
    """A linear first stage: pictures to `width` numbers and back."""

    stop_metric = "mse"

    def __init__(self, *, spec: Spec, config: Any, net: Any) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        size = torch.Size(spec.shape).numel()
        self.net = nn.ModuleDict({"encode": nn.Linear(size, config.width), "decode": nn.Linear(config.width, size)})

    def updates(self) -> Sequence[Update]:
        return (Update(trains="net", loss=lambda batch, samples: {"loss": self.evaluate(batch)["mse"]}),)

    def to_latent(self, x: Tensor) -> Tensor:
        return self.net["encode"](x.flatten(1))

    def from_latent(self, latent: Tensor) -> Tensor:
        return self.net["decode"](latent).unflatten(1, self.spec.shape)

    def latent_spec(self) -> Spec:
        return Spec(kind="real", shape=(self.config.width,), modality="latent")

    def draw(self, request: Request) -> Tensor:
        return self.from_latent(request.noise(self.config.width))

    def evaluate(self, batch: Batch) -> Terms:
        return {"mse": (self.from_latent(self.to_latent(batch.x)) - batch.x).square().mean()}


class Painter(Model):
    """Draws what reaches it: the first values of a picture are the bytes of its prompt, then come its label and a noise
    of its own, in grey levels; the rest is learned from the prompt."""

    stop_metric = "mse"

    def __init__(self, *, spec: Spec, config: Any, net: Any) -> None:
        super().__init__()
        self.spec, self.config = spec.told("label", "prompt"), config
        self.net = nn.Linear(spec.prompt_length, torch.Size(spec.shape).numel())

    def updates(self) -> Sequence[Update]:
        return (Update(trains="net", loss=lambda batch, samples: {"loss": self.evaluate(batch)["mse"]}),)

    def evaluate(self, batch: Batch) -> Terms:
        x = batch.x.flatten(1)
        return {"mse": (self.net(batch.cond["prompt"].to(x) / 255) - x).square().mean()}

    def draw(self, request: Request) -> Tensor:
        told = torch.cat([request.cond["prompt"], request.cond["label"][:, None]], dim=1).to(request.dtype)
        shown = torch.cat([told, 255 * request.noise(1).sigmoid()], dim=1) / 127.5 - 1
        rest = self.net(told[:, :-1] / 255)[:, shown.shape[1] :]
        return torch.cat([shown, rest], dim=1).unflatten(1, self.spec.shape)

    def draw_between(self, first: Request, second: Request, weight: Tensor) -> Tensor:
        return torch.lerp(self.draw(first), self.draw(second), weight.view(-1, 1, 1, 1))

    def vary(self, x: Tensor, request: Request, strength: float) -> Tensor:
        return torch.lerp(x, self.draw(request), strength)
