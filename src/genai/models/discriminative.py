"""p(target | input), of a label or a number: linear and kernel machines as scikit-learn states them, and networks. What
an input is brought to first (its scale, the rows that a kernel compares it with) is found from the training data and
kept with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import DiscriminativeConfig, augment, machines
from genai.models.hashed_texts import HashedTexts
from genai.models.recommender import Recommender
from genai.models.targets import Classes, Numbers
from genai.nets.family import family
from genai.nets.kernels import Exact, Nystroem, RandomFourier, Standardised
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
        if config.augment and (given.modality != "image" or config.kind != "network"):
            what = f"model.augment is of pictures that a network learns, here a {config.kind} learns {given.modality}"
            raise ConfigError(what, fix="type 'model.augment=[]'")
        outputs = self.target.outputs
        self.inputs: nn.Module = nn.Identity()
        if config.kind == "network":
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
        """The scale of the inputs, and what a kernel compares with, from the `count` training samples."""
        inputs = self.inputs
        if isinstance(inputs, HashedTexts):
            self._kept = inputs.prepare(fetch, count)
        if not isinstance(inputs, Standardised):
            return
        batches = [fetch(part) for part in torch.arange(count).split(_AT_ONCE)]
        rows = torch.cat([batch.cond["input"].flatten(1).double() for batch in batches])
        inputs.prepare(rows, torch.Generator().manual_seed(seed))
        if count * inputs.features <= _MOST_KEPT:
            dtype, targets = self.head.weight.dtype, torch.cat([batch.x for batch in batches])
            seen = [inputs(part) for part in rows.to(dtype).split(_AT_ONCE)]
            self._kept = (
                torch.cat(seen) if len(seen) > 1 else seen[0],
                targets.to(dtype) if targets.is_floating_point() else targets,
            )
            if isinstance(inputs, Exact) and self.target.squared:
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
        """(B, *shape) -> f (B, 1 or classes)."""
        return self.predictor(self.inputs(x.flatten(1) if isinstance(self.inputs, Standardised) else x))

    def objective(self, batch: Batch) -> Terms:
        config, x, y = self.config, batch.cond["input"], batch.x
        if config.augment and self.training:
            x = augmented(config.augment, x)
        if self._kept is None:
            scores = _precise(self.scores(x))
        else:
            rows, targets = self._kept  # all of them, whose order does not matter
            if len(batch) < len(rows):
                rows, targets = rows[batch.index], y
            scores, y = self.predictor(rows), targets
            self._scores = scores.detach()
        loss = self.target.losses(scores, y).mean()
        if config.kind == "network":
            return {"loss": loss, **self.target.seen(scores.detach(), y)}
        # A machine's accuracy is left to evaluation: it takes a third of the time of such a step.
        return {"loss": loss + self._squared_norm(scores) / (2 * self.target.C * max(1, self.spec.num_samples))}

    def _squared_norm(self, scores: Tensor) -> Tensor:
        """Of the weights; of sums of kernels that of the functions, by the scores of all rows where they are known."""
        weight, bias, inputs = self.head.weight, self.head.bias, self.inputs
        if not isinstance(inputs, Exact):
            return weight.square().sum()
        if self._kept is not None and len(scores) == len(self._kept[0]):
            return ((scores - bias) * weight.T).sum()
        kernel = inputs.gram() if self._kept is None else self._kept[0]
        return (weight @ kernel * weight).sum()

    def evaluate(self, batch: Batch) -> Terms:
        return self.target.evaluate(_precise(self.scores(batch.cond["input"])), batch.x)

    def conclude(self, means: Terms) -> Terms:
        return self.target.conclude(means)

    def draw(self, request: Request) -> Tensor:
        """(count, classes): probabilities, of support vector machines scores; of a number (count, quantiles)."""
        return self.target.answers(_precise(self.scores(request.cond["input"])))


def _precise(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype == torch.bfloat16 else scores
