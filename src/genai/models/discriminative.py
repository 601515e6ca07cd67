"""p(target | input), of a label or a number: linear and kernel machines as scikit-learn states them, and networks. What
an input is brought to first (its scale, the rows that a kernel compares it with) is found from the training data and
kept with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import DiscriminativeConfig, augment
from genai.models.targets import Classes, Numbers
from genai.nets.family import family
from genai.nets.kernels import Nystroem, RandomFourier, Standardised
from genai.schema import NetConfig

_MOST_LANDMARKS = 5000  # of an exact kernel machine: its factor has as many rows and columns
_AT_ONCE = 4096  # rows
_MOST_KEPT = 1 << 26  # numbers


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

    def __init__(self, *, spec: Spec, config: DiscriminativeConfig, net: NetConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.target: Classes | Numbers = (Numbers if spec.modality == "value" else Classes)(spec, config)
        given = spec.cond["input"]
        if given.kind != "real":
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
            self.inputs = self._inputs(math.prod(given.shape))
            self.predictor = head = nn.Linear(self.inputs.features, outputs)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self._kept: Tensor | None = None  # training inputs as the predictor sees them, where that is no network
        self.probable, self.stop_metric = self.target.probable, self.target.stop_metric
        self.quantiles = self.target.levels

    @property
    def head(self) -> nn.Linear:
        """What makes scores of features."""
        last = self.predictor[-1] if isinstance(self.predictor, nn.Sequential) else self.predictor
        assert isinstance(last, nn.Linear)
        return last

    def _inputs(self, values: int) -> Standardised:
        config, rows = self.config, self.spec.num_samples
        if config.kind != "kernel_svm":
            return Standardised(values, scaled=config.standardise)
        most = min(rows, _MOST_LANDMARKS) if config.num_features == "auto" else config.num_features
        if config.features == "random":
            return RandomFourier(values, scaled=config.standardise, features=most, gamma=config.gamma)
        if most > rows:
            what = f"model.num_features={most:,} rows cannot be chosen among {rows:,}"
            raise ConfigError(what, fix=f"type model.num_features={rows}")
        return Nystroem(values, scaled=config.standardise, features=most, gamma=config.gamma)

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int, seed: int) -> None:
        """The scale of the inputs, and what a kernel compares with, from the `count` training samples."""
        if not isinstance(self.inputs, Standardised):
            return
        rows = torch.cat(
            [fetch(part).cond["input"].flatten(1).double() for part in torch.arange(count).split(_AT_ONCE)]
        )
        self.inputs.prepare(rows, torch.Generator().manual_seed(seed))
        if count * self.inputs.features <= _MOST_KEPT:
            parts = rows.to(self.head.weight.dtype).split(_AT_ONCE)
            self._kept = torch.cat([self.inputs(part) for part in parts])

    def updates(self) -> Sequence[Update]:
        return [Update(trains="predictor", loss=lambda batch, samples: self.objective(batch))]

    def scores(self, x: Tensor) -> Tensor:
        """(B, *shape) -> f (B, 1 or classes)."""
        return self.predictor(self.inputs(x.flatten(1)) if isinstance(self.inputs, Standardised) else x)

    def objective(self, batch: Batch) -> Terms:
        config, kept = self.config, self._kept
        x = batch.cond["input"]
        if config.augment and self.training:
            x = augmented(config.augment, x)
        scores = self.scores(x) if kept is None else self.predictor(kept[batch.index])
        scores = _precise(scores)
        terms = {"loss": self.target.losses(scores, batch.x).mean(), **self.target.seen(scores.detach(), batch.x)}
        if config.kind != "network":
            penalty = self.head.weight.square().sum() / (2 * self.target.C * max(1, self.spec.num_samples))
            terms["loss"] = terms["loss"] + penalty
        return terms

    def evaluate(self, batch: Batch) -> Terms:
        return self.target.evaluate(_precise(self.scores(batch.cond["input"])), batch.x)

    def conclude(self, means: Terms) -> Terms:
        return self.target.conclude(means)

    def draw(self, request: Request) -> Tensor:
        """(count, classes): probabilities, of support vector machines scores; of a number (count, quantiles)."""
        return self.target.answers(_precise(self.scores(request.cond["input"])))


def _precise(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype == torch.bfloat16 else scores
