"""What a discriminative model predicts: how far its scores are from it, and what they say of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Spec, Terms
from genai.errors import ConfigError
from genai.metrics.regression import middle
from genai.models import DiscriminativeConfig
from genai.models.calibration import TEMPERATURES, concluded, measured

_ROUNDING = 1e-6  # of a variance, over the mean square
_OF_NUMBERS, _OF_CLASSES = {"ridge": "logistic", "svr": "linear_svm"}, {"logistic": "ridge", "linear_svm": "svr"}


class Classes(nn.Module):
    """A label: one score f for two classes, one for each of more."""

    weights: Tensor
    temperature: Tensor

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
        self.classes, self.outputs = spec.classes, 1 if spec.classes == 2 else spec.classes
        self.margin, self.calibrate = config.kind in ("linear_svm", "kernel_svm"), config.calibrate
        self.squared, self.smoothing = self.margin and config.hinge == "squared", config.label_smoothing
        self.probable = self.calibrate or not self.margin
        self.hinge = "squared_hinge_loss" if self.squared else "hinge_loss"
        self.stop_metric = self.hinge if self.margin else "nll_nats_uncalibrated" if config.calibrate else "nll_nats"
        self.C = config.C
        self.levels: tuple[float, ...] = ()
        self.balanced = config.class_weights == "balanced"
        if self.balanced:
            self.register_buffer("weights", torch.ones(spec.classes))
        if self.calibrate:
            self.register_buffer("temperature", torch.ones(()))

    def balance(self, y: Tensor) -> None:
        """Weighs the classes of the training labels (N,) alike: N / (classes * how many there are of each). In each
        of the problems of a linear_svm a row weighs what its own class does; in liblinear's only the one class does."""
        counts = torch.bincount(y, minlength=self.classes).to(self.weights)
        self.weights.copy_(len(y) / ((counts > 0).sum() * counts.clamp(min=1)))

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        """(B,) of scores (B, outputs), in training."""
        found = self._hinges(scores, y) if self.margin else self._surprises(scores, y)
        return found * self.weights[y] if self.balanced else found

    def _surprises(self, scores: Tensor, y: Tensor) -> Tensor:
        smoothing = self.smoothing
        if scores.shape[1] == 1:
            wanted = (y.to(scores.dtype) * (1 - smoothing) + smoothing / 2)[:, None]
            return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").squeeze(1)
        if scores.dtype == torch.float64 and not smoothing:  # in which a softmax along a few classes is slow
            return F.nll_loss(F.log_softmax(scores.T, 0).T, y, reduction="none")
        return F.cross_entropy(scores, y, reduction="none", label_smoothing=smoothing)

    def _hinges(self, scores: Tensor, y: Tensor) -> Tensor:
        missing = F.relu(1 - self._side(scores, y) * scores)
        return (missing.square() if self.squared else missing).sum(1)

    def squares(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """The squares that are `losses`: which scores (B, outputs) they are least for, how much each counts (0: not),
        and C times their second derivative."""
        side = self._side(scores, y)
        share = (side * scores < 1).to(scores.dtype)
        return side, share * self.weights[y][:, None] if self.balanced else share, 2 * self.C

    def _side(self, scores: Tensor, y: Tensor) -> Tensor:
        """1 of its own class, -1 of the rest."""
        own = y[:, None] if scores.shape[1] == 1 else F.one_hot(y, scores.shape[1])
        return 2 * own.to(scores.dtype) - 1

    def seen(self, scores: Tensor, y: Tensor) -> Terms:
        """What training is logged with."""
        chosen = (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
        return {"accuracy": (chosen == y).to(torch.float32).mean()}

    def evaluate(self, scores: Tensor, y: Tensor, *, openly: bool) -> Terms:
        """At the temperature that it has, or `openly` at all that it could have."""
        terms = self.seen(scores, y)
        if self.margin:
            terms[self.hinge] = self._hinges(scores, y).mean()
        if self.probable:
            own = [] if not self.calibrate else [TEMPERATURES.to(scores) if openly else self.temperature[None]]
            terms |= measured(self._logits(scores), y, torch.cat([scores.new_ones(1), *own]))
        return terms

    def conclude(self, means: Terms) -> Terms:
        if not self.probable:
            return means
        figures = concluded(means)
        return {**{name: term for name, term in means.items() if term.ndim == 0}, **figures}

    def _logits(self, scores: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(scores), scores], dim=1) if scores.shape[1] == 1 else scores

    def answers(self, scores: Tensor) -> Tensor:
        """(B, classes): probabilities; of support vector machines scores, the largest of which is the class."""
        if self.probable:
            return (self._logits(scores) / (self.temperature if self.calibrate else 1)).softmax(1)
        return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores


class Numbers(nn.Module):
    """A number y, in deviations s around its mean: one score, or one for each quantile, each above the one before.

    Machines are those of scikit-learn in data units, C * sum(loss of s (y - f)) + |s V|^2 / 2. What is least for the
    same V: of squares mean(loss) + |V|^2 / (2 C N), of plain losses mean(loss) + |V|^2 / (2 (C / s) N).
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

    def evaluate(self, scores: Tensor, y: Tensor, *, openly: bool) -> Terms:
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
        variance = square - mean.square()  # in deviations; of equal numbers what rounding leaves
        right = (terms["mse"] == 0).to(variance)
        found = 1 - terms["mse"] / (self.unit**2 * variance)
        terms["r2"] = torch.where(variance > _ROUNDING * square, found, right)
        return terms

    def answers(self, scores: Tensor) -> Tensor:
        """(B, quantiles), one of them where none are asked for, in deviations around the mean."""
        if scores.shape[1] == 1:
            return scores
        return torch.cat([scores[:, :1], F.softplus(scores[:, 1:])], dim=1).cumsum(1)
