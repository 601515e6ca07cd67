"""Autoregressive Transformer: each id follows on all before it. Text, and the codes of pictures and sounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import TransformerConfig
from genai.nets.family import family
from genai.schema import NetConfig, SamplingConfig
from genai.solvers.tokens import choose, penalised


class Transformer(Model):
    """p(x) as the product of p(x_i | x_1 .. x_{i-1}).

    Text comes as windows of one id more than the context, each of which begins anywhere. Codes of other things are
    preceded by a mark: their class, or of a share of them in training that of no class, so that samples may be led
    towards a class (Ho & Salimans 2022).
    """

    sampling_keys = frozenset(
        ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "stop", "guidance", "log_probs"]
    )
    stop_metric = "loss_nats_per_token"

    def __init__(self, *, spec: Spec, config: TransformerConfig, net: NetConfig) -> None:
        super().__init__()
        if spec.kind != "token" or spec.modality == "label":
            fix = "give it text, or the codes of a first stage: data.codec=RUN of one with model.latents=fsq or vq"
            raise ConfigError(f"the data are {spec.modality} of numbers, this model needs ids", fix=fix)
        self.text = spec.modality == "text"
        self.spec = spec = spec.told() if self.text else spec.told(*config.conditions)
        self.condition_dropout = config.condition_dropout
        if spec.label_classes and config.condition_dropout > 0:
            self.may_lack = frozenset({"label"})
        marks = 0 if self.text else 1 + spec.label_classes
        self.length = math.prod(spec.shape)
        self.decoder = family(net).autoregressor(
            ids=spec.vocab + marks, vocab=spec.vocab, context=self.length - self.text, config=net
        )

    def updates(self) -> Sequence[Update]:
        return [Update(trains="decoder", loss=lambda batch, samples: {"loss": self.nats(batch)})]

    def notes(self) -> Sequence[str]:
        return self.decoder.notes()

    def operations(self) -> int:
        return self.decoder.operations() * (self.length - self.text)

    def evaluate(self, batch: Batch) -> Terms:
        return {"loss_nats_per_token": self.nats(batch)}

    def nats(self, batch: Batch) -> Tensor:
        """Mean of -ln p over the ids that count."""
        ids = batch.x.flatten(1)
        if not self.text:
            ids = torch.cat([self.marks(batch.cond, len(ids), ids.device), ids], dim=1)
        wanted = ids[:, 1:]
        if batch.mask is not None:
            wanted = wanted.masked_fill(~batch.mask[:, 1:], -100)
        return self.decoder(ids[:, :-1], wanted=wanted) / (wanted >= 0).sum().clamp(min=1)

    def marks(self, cond: Mapping[str, Tensor], rows: int, device: torch.device) -> Tensor:
        """(B, 1) ids that say of which class a sample is, or that nobody says it."""
        none = torch.full((rows, 1), self.spec.vocab, device=device)
        if "label" not in cond or not self.spec.label_classes:
            return none
        own = none + 1 + cond["label"][:, None]
        if not self.training:
            return own
        return torch.where(torch.rand(rows, 1, device=device) < self.condition_dropout, none, own)

    # -- sampling ------------------------------------------------------------------------------------------------------

    def check_sampling(self, sampling: SamplingConfig) -> None:
        if "" in sampling.stop:
            raise ConfigError("sampling.stop holds an empty text, at which every sample ends", fix="leave it out")
        if sampling.guidance == 1 or self.may_lack:
            return
        what = "sampling.guidance needs a model that was trained with model.condition_dropout above 0"
        if not self.spec.label_classes:
            what = "sampling.guidance needs a condition, this model was trained without labels"
        raise ConfigError(what, fix="type sampling.guidance=1")

    def draw(self, request: Request) -> Tensor:
        """(count, *shape); of text as many ids as sampling.max_tokens says, behind what each sample begins with."""
        ids = torch.stack([ids for ids, _ in self.stream(request)], dim=1)
        return ids if self.text else ids.view(request.count, *self.spec.shape)

    def stream(self, request: Request) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The next ids (count,) of all samples, as often as there are ids in one, and what the model holds of them:
        ln p (count,), guided where they are, before any penalty, temperature or cut."""
        sampling, count = request.sampling, request.count
        steps = (sampling.max_tokens if self.text else None) or self.length
        rows = self._beginnings(request)
        guided = sampling.guidance != 1 and "label" in request.cond
        if guided:
            rows = self._beginnings(replace(request, cond={})) + rows
        u = torch.stack([torch.rand(steps, generator=generator) for generator in request.generators])
        u = u.to(request.device)
        said = torch.zeros(count, self.spec.vocab, dtype=torch.bool, device=request.device)
        cache = self.decoder.cache(rows, max(map(len, rows)) + steps)
        logits_of, h = self.decoder.writer(), cache.read()
        for step in range(steps):
            logits = logits_of(h)
            if guided:
                free, own = logits.log_softmax(1).chunk(2)
                logits = torch.lerp(free, own, sampling.guidance)
            log_p = logits.log_softmax(1) if sampling.log_probs else None
            if sampling.repetition_penalty != 1:
                logits = penalised(logits, said, sampling.repetition_penalty)
            ids = choose(
                logits,
                u[:, step],
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
            )
            yield ids, None if log_p is None else log_p.gather(1, ids[:, None]).squeeze(1)
            if step + 1 < steps:
                if sampling.repetition_penalty != 1:
                    said.scatter_(1, ids[:, None], True)
                h = cache.follow(ids.tolist() * (1 + guided))

    def _beginnings(self, request: Request) -> list[list[int]]:
        """What is read of each sample before it is drawn: its prompt, or its mark."""
        if not self.text:
            return self.marks(request.cond, request.count, request.device).tolist()
        if request.begins is None:
            return [list(self.spec.opening)] * request.count
        return [list(begin) or list(self.spec.opening) for begin in request.begins]
