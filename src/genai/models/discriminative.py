"""p(target | input), of a label or a number: linear and kernel machines as scikit-learn states them, and networks. What
an input is brought to first (its scale, the rows that a kernel compares it with) is found from the training data and
kept with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import DiscriminativeConfig, augment, machines
from genai.models.hashed_texts import HashedTexts
from genai.models.recommender import Recommender
from genai.models.targets import Classes, Numbers
from genai.models.unread import refuse_unread
from genai.nets.family import family
from genai.nets.kernels import Exact, Nystroem, RandomFourier, Standardised
from genai.nets.logmel import LogMel
from genai.nets.sparse import SparseLinear
from genai.schema import NetConfig

_MOST_ROWS = 5000  # of a kernel of all with all
_FEATURES = 1000  # of a kernel with more rows
_AT_ONCE = 4096  # rows
_MOST_KEPT = 1 << 27  # numbers


def augmented(kinds: Sequence[str], x: Tensor) -> Tensor:
    """Pictures (B, C, H, W), each in its own way; half of them in a mirror."""
    if "mirror" in kinds:
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    rest = [kind for kind in kinds if kind != "mirror"]
    return augment.drawn(rest, 1.0, x)(x) if rest else x


class Discriminative(Model):
    """Scores f of an input. Of a machine C * sum(loss) + |W|^2 / 2 is least, the bias free (Cortes & Vapnik 1995; Fan
    et al. 2008); here it is divided by C and the number of rows."""

    predicts = "target"

    @classmethod
    def suited(cls, spec: Spec) -> type[Model]:
        return Recommender if spec.modality == "ratings" else cls

    def __init__(self, *, spec: Spec, config: DiscriminativeConfig, net: NetConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.target: Classes | Numbers = (Numbers if spec.modality == "value" else Classes)(spec, config)
        given = spec.cond["input"]
        is_text = given.modality == "text"
        if given.kind != "real" and not is_text:
            raise ConfigError(f"inputs are {given.modality} of ids, this model needs numbers", fix="choose other data")
        refuse_unread(config, spec)
        outputs = self.target.outputs
        self.inputs: nn.Module = nn.Identity()
        if config.kind == "network":
            if given.modality == "audio" and config.mel_bands:
                self.inputs = mel = LogMel(given, bands=config.mel_bands)
                given = mel.spec
            encoder = family(net).encoder(spec=given, config=net)
            head = nn.Linear(encoder.features, outputs)
            self.predictor: nn.Module = nn.Sequential(encoder, nn.Dropout(config.dropout), head)
        else:
            inputs = self._texts(given) if is_text else self._inputs(math.prod(given.shape))
            self.predictor = head = (SparseLinear if is_text else nn.Linear)(inputs.features, outputs)
            self.inputs = inputs
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        # Of a machine: training rows as it sees them (a Tensor, of texts Rows), their targets.
        self._kept: tuple[Any, Tensor] | None = None
        self._scores: Tensor | None = None  # of the rows that a loss was last asked of
        self.probable, self.stop_metric = self.target.probable, self.target.stop_metric
        self.quantiles = self.target.levels

    @property
    def head(self) -> nn.Linear:
        """What makes scores of features."""
        last = self.predictor[-1] if isinstance(self.predictor, nn.Sequential) else self.predictor
        assert isinstance(last, nn.Linear)
        return last

    def _texts(self, given: Spec) -> HashedTexts:
        if self.config.kind == "kernel_svm":
            fix = "type model.kind=linear_svm, or model.kind=logistic"
            raise ConfigError("model.kind=kernel_svm compares numbers, here are texts", fix=fix)
        return HashedTexts(spec=given, config=self.config)

    def _inputs(self, values: int) -> Standardised:
        config, rows = self.config, self.spec.num_samples
        if config.kind != "kernel_svm":
            return Standardised(values, scaled=config.standardise)
        settings: dict[str, Any] = {"scaled": config.standardise, "gamma": config.gamma}
        most, few = config.num_features, rows <= _MOST_ROWS
        if config.features == "exact" and (most != "auto" or not few):
            what = f"model.features=exact compares with each of {rows:,} rows"
            told = f", {_MOST_ROWS:,} are the most" if not few else ", of which model.num_features names some"
            raise ConfigError(what + told, fix="type model.features=nystroem, or model.features=random")
        if config.features == "exact" or (config.features == "auto" and most == "auto" and few and self.target.squared):
            return Exact(values, **settings, features=rows)
        if most == "auto":
            most = rows if few else _FEATURES
        if config.features == "random":
            return RandomFourier(values, **settings, features=most)
        if most > rows:
            what = f"model.num_features={most:,} rows cannot be chosen among {rows:,}"
            raise ConfigError(what, fix=f"type model.num_features={rows}")
        return Nystroem(values, **settings, features=most)

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int, seed: int) -> None:
        """The scale of the inputs, what a kernel compares with, and the weights of classes, from the `count` training
        samples."""
        inputs, balanced = self.inputs, isinstance(self.target, Classes) and self.target.balanced
        rows: list[Tensor] = []
        if isinstance(inputs, HashedTexts):
            self._kept = inputs.prepare(fetch, count)
            targets = self._kept[1]
        elif isinstance(inputs, Standardised) or balanced:
            found = []
            for part in torch.arange(count).split(_AT_ONCE):
                batch = fetch(part)
                found.append(batch.x)
                if isinstance(inputs, Standardised):
                    rows.append(batch.cond["input"].flatten(1))
            targets = torch.cat(found)
        if balanced:
            assert isinstance(self.target, Classes)
            self.target.balance(targets)
        if isinstance(inputs, Standardised):
            whole = torch.cat(rows).double()
            del rows[:]
            inputs.prepare(whole, torch.Generator().manual_seed(seed))
            if count * inputs.features <= _MOST_KEPT:
                self._keep(whole, targets)

    def _keep(self, rows: Tensor, targets: Tensor) -> None:
        """All training rows as the head sees them."""
        dtype = self.head.weight.dtype
        seen = [self.inputs(part) for part in rows.to(dtype).split(_AT_ONCE)]
        self._kept = (
            torch.cat(seen) if len(seen) > 1 else seen[0],
            targets.to(dtype) if targets.is_floating_point() else targets,
        )
        if isinstance(self.inputs, Exact) and self.target.squared:
            self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """The weights of every ninth, then of every third row, from which few steps are left to those of all."""
        assert self._kept is not None
        kernel, targets = self._kept
        for stride in (9, 3):
            chosen = torch.arange(0, len(kernel), stride)
            part = kernel[chosen[:, None], chosen]
            for _ in range(4):
                scores = part @ self.head.weight[:, chosen].T + self.head.bias
                self.head.weight[:, chosen], self.head.bias[:] = self._least(part, targets[chosen], scores)

    def _least(self, rows: Tensor, targets: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and biases for which the squares are least that rows with these scores cost."""
        wanted, share, strength = self.target.squares(scores, targets)
        return machines.least(rows, wanted, share, strength, self.head.bias, kernel=isinstance(self.inputs, Exact))

    @torch.no_grad()
    def _step(self) -> list[Tensor]:
        """Newton's, of the weights and of the biases."""
        assert self._kept is not None
        rows, targets = self._kept
        scores = self._scores if self._scores is not None and len(self._scores) == len(rows) else self.predictor(rows)
        weight, bias = self._least(rows, targets, scores)
        return [weight - self.head.weight, bias - self.head.bias]

    def updates(self) -> Sequence[Update]:
        if self._kept is not None and self.target.squared and not isinstance(self.inputs, HashedTexts):
            self.head.weight.newton = self._step  # type: ignore[attr-defined]
        return [Update(trains="predictor", loss=lambda batch, samples: self.objective(batch))]

    def scores(self, x: Tensor) -> Tensor:
        """(B, *shape) -> f (B, outputs)."""
        return self.predictor(self.inputs(x.flatten(1) if isinstance(self.inputs, Standardised) else x))

    def objective(self, batch: Batch) -> Terms:
        return self._of_network(batch) if self.config.kind == "network" else self._of_machine(batch)

    def _of_network(self, batch: Batch) -> Terms:
        config, x, y = self.config, batch.cond["input"], batch.x
        if config.augment and self.training:
            x = augmented(config.augment, x)
        if not (config.mixup and self.training):
            scores = _precise(self.scores(x))
            return {"loss": self.target.losses(scores, y).mean(), **self.target.seen(scores.detach(), y)}
        # Inputs and targets between those of two samples (Zhang et al. 2018).
        share, other = float(Beta(config.mixup, config.mixup).sample()), torch.randperm(len(x)).to(x.device)
        scores = _precise(self.scores(torch.lerp(x[other], x, share)))
        loss = share * self.target.losses(scores, y).mean() + (1 - share) * self.target.losses(scores, y[other]).mean()
        return {"loss": loss, **self.target.seen(scores.detach(), y if share > 0.5 else y[other])}

    def _of_machine(self, batch: Batch) -> Terms:
        if self._kept is None:
            scores, y = _precise(self.scores(batch.cond["input"])), batch.x
        else:
            rows, y = self._kept  # all of them, whose order does not matter
            if len(batch) < len(rows):
                rows, y = rows[batch.index], batch.x
            scores = self.predictor(rows)
            self._scores = scores.detach()
        # Its accuracy is left to evaluation: that would take a third of the time of such a step.
        penalty = self._squared_norm(scores) / (2 * self.target.C * max(1, self.spec.num_samples))
        return {"loss": self.target.losses(scores, y).mean() + penalty}

    def _squared_norm(self, scores: Tensor) -> Tensor:
        """Of the weights; of sums of kernels that of the functions, by the scores of all rows where they are known."""
        weight, bias, inputs = self.head.weight, self.head.bias, self.inputs
        if not isinstance(inputs, Exact):
            return weight.square().sum()
        assert self._kept is not None  # of so few rows all are
        kernel = self._kept[0]
        if len(scores) == len(kernel):
            return ((scores - bias) * weight.T).sum()
        return (weight @ kernel * weight).sum()

    def evaluate(self, batch: Batch) -> Terms:
        return self.target.evaluate(self._final(batch.cond["input"]), batch.x, openly=False)

    def evaluate_openly(self, batch: Batch) -> Terms:
        return self.target.evaluate(self._final(batch.cond["input"]), batch.x, openly=True)

    def _final(self, x: Tensor) -> Tensor:
        """The scores that answers are made of."""
        scores = _precise(self.scores(x))
        return (scores + _precise(self.scores(x.flip(3)))) / 2 if self.config.mirror_answers else scores

    def calibrate(self, figures: Mapping[str, float]) -> None:
        if "temperature" in figures:
            assert isinstance(self.target, Classes)
            self.target.temperature.fill_(figures["temperature"])

    def conclude(self, means: Terms) -> Terms:
        return self.target.conclude(means)

    def draw(self, request: Request) -> Tensor:
        """(count, classes): probabilities, of support vector machines scores; of a number (count, quantiles)."""
        return self.target.answers(self._final(request.cond["input"]))


def _precise(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype == torch.bfloat16 else scores
