"""p(label | input): linear and kernel machines as scikit-learn states them, and networks. What an input is brought to
first (its scale, the rows that a kernel compares it with) is found from the training data and kept with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.models import DiscriminativeConfig, augment
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
    """One score f for two classes, one for each of more. Of a machine C * sum(loss) + |W|^2 / 2 is least, the bias free
    (Cortes & Vapnik 1995; Fan et al. 2008); here it is divided by C and the number of rows."""

    predicts = "target"

    def __init__(self, *, spec: Spec, config: DiscriminativeConfig, net: NetConfig) -> None:
        super().__init__()
        if spec.classes < 2:
            raise ConfigError("the data have one class, there is nothing to tell apart", fix="give them more classes")
        self.spec, self.config = spec, config
        given = spec.cond["input"]
        if given.kind != "real":
            raise ConfigError(f"inputs are {given.modality} of ids, this model needs numbers", fix="choose other data")
        if config.augment and (given.modality != "image" or config.kind != "network"):
            what = f"model.augment is of pictures that a network learns, here a {config.kind} learns {given.modality}"
            raise ConfigError(what, fix="type 'model.augment=[]'")
        outputs = 1 if spec.classes == 2 else spec.classes
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
        self.probable = config.kind in ("network", "logistic")
        self.stop_metric = "nll_nats" if self.probable else "hinge_loss"

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
        losses = self.losses(scores, batch.x, config.label_smoothing)
        terms = {"loss": losses.mean(), "accuracy": self._hits(scores, batch.x)}
        if config.kind != "network":
            penalty = self.head.weight.square().sum() / (2 * config.C * max(1, self.spec.num_samples))
            terms["loss"] = terms["loss"] + penalty
        return terms

    def losses(self, scores: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """(B,) of scores (B, 1 or classes) for labels y (B,)."""
        if scores.dtype == torch.bfloat16:
            scores = scores.float()
        two = scores.shape[1] == 1
        if self.probable:
            if two:
                wanted = (y.to(scores.dtype) * (1 - smoothing) + smoothing / 2)[:, None]
                return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").squeeze(1)
            return F.cross_entropy(scores, y, reduction="none", label_smoothing=smoothing)
        side = 2 * (y[:, None] if two else F.one_hot(y, scores.shape[1])).to(scores.dtype) - 1  # one against the rest
        missing = F.relu(1 - side * scores)
        return (missing.square() if self.config.hinge == "squared" else missing).sum(1)

    def _hits(self, scores: Tensor, y: Tensor) -> Tensor:
        chosen = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
        return (chosen == y).to(torch.float32).mean()

    def evaluate(self, batch: Batch) -> Terms:
        scores = self.scores(batch.cond["input"])
        name = "nll_nats" if self.probable else "hinge_loss"
        return {name: self.losses(scores, batch.x).mean(), "accuracy": self._hits(scores, batch.x)}

    def draw(self, request: Request) -> Tensor:
        """(count, classes): probabilities; of support vector machines scores, the largest of which is the class."""
        scores = self.scores(request.cond["input"])
        scores = scores.float() if scores.dtype == torch.bfloat16 else scores
        if not self.probable:
            return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores
        if scores.shape[1] == 1:
            return torch.cat([-scores, scores], dim=1).sigmoid()
        return scores.softmax(1)
