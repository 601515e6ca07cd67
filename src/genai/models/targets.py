"""What a discriminative model predicts: how far its scores are from it, and what they say of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec, Terms
from genai.errors import ConfigError
from genai.metrics.regression import middle
from genai.models import DiscriminativeConfig

_OF_NUMBERS, _OF_CLASSES = {"ridge": "logistic", "svr": "linear_svm"}, {"logistic": "ridge", "linear_svm": "svr"}


class Classes(nn.Module):
    """A label: one score f for two classes, one for each of more."""

    def __init__(self, spec: Spec, config: DiscriminativeConfig) -> None:
        super().__init__()
        if spec.classes < 2:
            raise ConfigError("the data have one class, there is nothing to tell apart", fix="give them more classes")
        if config.kind in _OF_NUMBERS:
            what = f"model.kind={config.kind} predicts numbers, the target is one of {spec.classes} classes"
            raise ConfigError(what, fix=f"type model.kind={_OF_NUMBERS[config.kind]}")
        if config.loss != "mse":
            what = f"model.loss={config.loss} is not of classes, the target is one of {spec.classes} classes"
            raise ConfigError(what, fix="leave it out")
        self.outputs = 1 if spec.classes == 2 else spec.classes
        self.probable = config.kind in ("network", "logistic")
        self.squared, self.smoothing = config.hinge == "squared" and not self.probable, config.label_smoothing
        self.stop_metric = "nll_nats" if self.probable else "hinge_loss"
        self.C = config.C
        self.levels: tuple[float, ...] = ()

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """(B,) of scores (B, outputs), in training."""
        return self._losses(scores, y, self.smoothing)

    def _losses(self, scores: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        if self.probable:
            if scores.shape[1] == 1:
                wanted = (y.to(scores.dtype) * (1 - smoothing) + smoothing / 2)[:, None]
                return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").squeeze(1)
            if (
                scores.dtype == torch.float64 and not smoothing
            ):  # the same; by rows a softmax of few classes is slow in it
                return F.nll_loss(F.log_softmax(scores.T, 0).T, y, reduction="none")
            return F.cross_entropy(scores, y, reduction="none", label_smoothing=smoothing)
        missing = F.relu(1 - self._side(scores, y) * scores)
        return (missing.square() if self.squared else missing).sum(1)

    def squares(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """The squares that are `losses`: which scores (B, outputs) they are least for, which of them count (1, else 0),
        and C times their second derivative."""
        side = self._side(scores, y)
        return side, (side * scores < 1).to(scores.dtype), 2 * self.C

    def _side(self, scores: Tensor, y: Tensor) -> Tensor:
        """1 of its own class, -1 of the rest."""
        own = y[:, None] if scores.shape[1] == 1 else F.one_hot(y, scores.shape[1])
        return 2 * own.to(scores.dtype) - 1

    def seen(self, scores: Tensor, y: Tensor) -> Terms:
        """What training is logged with."""
        chosen = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
        return {"accuracy": (chosen == y).to(torch.float32).mean()}

    def evaluate(self, scores: Tensor, y: Tensor) -> Terms:
        return {self.stop_metric: self._losses(scores, y).mean(), **self.seen(scores, y)}

    def conclude(self, means: Terms) -> Terms:
        return means

    def answers(self, scores: Tensor) -> Tensor:
        """(B, classes): probabilities; of support vector machines scores, the largest of which is the class."""
        if not self.probable:
            return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores
        if scores.shape[1] == 1:
            return torch.cat([-scores, scores], dim=1).sigmoid()
        return scores.softmax(1)


class Numbers(nn.Module):
    """A number y, in deviations s around its mean: one score, or one for each quantile, each above the one before.

    Machines are those of scikit-learn in data units: with residuals r = s (y - f) and weights s V, C * sum(loss of r) +
    |s V|^2 / 2, divided here by s^2 where the loss is a square, else by s.
    """

    def __init__(self, spec: Spec, config: DiscriminativeConfig) -> None:
        super().__init__()
        name = spec.columns[0].name if spec.columns else "the target"
        if config.kind in _OF_CLASSES:
            what = f"model.kind={config.kind} tells classes apart, {name} is a number"
            raise ConfigError(what, fix=f"type model.kind={_OF_CLASSES[config.kind]}")
        if config.loss in ("softmax", "bpr"):
            what = f"model.loss={config.loss} is of ratings, {name} is a number"
            raise ConfigError(what, fix="type model.loss=mse, huber or quantile")
        if config.label_smoothing:
            what = f"model.label_smoothing is of classes, {name} is a number"
            raise ConfigError(what, fix="type model.label_smoothing=0")
        self.kind = config.loss if config.kind == "network" else "ridge" if config.kind == "ridge" else "margin"
        self.unit = spec.scale[0]
        self.margin = config.epsilon / self.unit if self.kind == "margin" else 0.0
        self.squared = self.kind == "ridge" or (self.kind == "margin" and config.hinge == "squared")
        self.C = config.C if self.squared else config.C / self.unit
        levels = self.levels = config.quantiles if self.kind == "quantile" else ()
        if self.kind == "quantile" and (not levels or list(levels) != sorted(set(levels))):
            what = f"model.quantiles={list(levels)} do not rise from one to the next"
            raise ConfigError(what, fix=f"type 'model.quantiles={sorted(set(levels)) or [0.1, 0.5, 0.9]}'")
        self.outputs, self.middle = max(1, len(levels)), middle(levels)
        self.probable, self.stop_metric = False, "pinball" if self.kind == "quantile" else "mse"

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """(B,) of scores (B, outputs), in training: in deviations."""
        if self.kind == "quantile":
            return self._pinball(scores, y)
        rest = y - scores[:, 0]
        if self.kind == "huber":
            return F.huber_loss(scores[:, 0], y, reduction="none")
        if self.kind == "margin":
            missing = F.relu(rest.abs() - self.margin)
            return missing.square() if self.squared else missing
        return rest.square() / 2 if self.kind == "ridge" else rest.square()

    def squares(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """As those of classes."""
        rest = y[:, None] - scores
        wanted = y[:, None] - self.margin * rest.sign()
        return wanted, (rest.abs() >= self.margin).to(scores.dtype), (1 if self.kind == "ridge" else 2) * self.C

    def _pinball(self, scores: Tensor, y: Tensor) -> Tensor:
        """Koenker & Bassett 1978."""
        rest, levels = y[:, None] - self.answers(scores), torch.tensor(self.levels).to(scores)
        return torch.maximum(levels * rest, (levels - 1) * rest).mean(1)

    def seen(self, scores: Tensor, y: Tensor) -> Terms:
        return {"mae": self._rest(scores, y).abs().mean()}

    def _rest(self, scores: Tensor, y: Tensor) -> Tensor:
        """In data units."""
        return self.unit * (y - self.answers(scores)[:, self.middle])

    def evaluate(self, scores: Tensor, y: Tensor) -> Terms:
        rest = self._rest(scores, y)
        wide = y.to(rest)
        terms = {"mse": rest.square().mean(), "mae": rest.abs().mean()}
        if self.kind == "quantile":
            terms["pinball"] = self.unit * self._pinball(scores, y).mean()
        return {**terms, "moments": torch.stack([wide.mean(), wide.square().mean()])}

    def conclude(self, means: Terms) -> Terms:
        """With the share of the variance that is explained; where nothing varies, 1 of all that is right, else 0."""
        terms = {name: term for name, term in means.items() if name != "moments"}
        mean, square = means["moments"]
        variance = self.unit**2 * (square - mean.square())
        right = (terms["mse"] == 0).to(variance)
        terms["r2"] = torch.where(variance > 0, 1 - terms["mse"] / variance, right)
        return terms

    def answers(self, scores: Tensor) -> Tensor:
        """(B, quantiles), one of them where none are asked for, in deviations around the mean."""
        if scores.shape[1] == 1:
            return scores
        return torch.cat([scores[:, :1], F.softplus(scores[:, 1:])], dim=1).cumsum(1)
