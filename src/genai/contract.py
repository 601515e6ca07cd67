"""What data, models, trainer and sampler agree on. Imports nothing of ours but the settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genai.columns import Column
from genai.schema import SamplingConfig

Terms = dict[str, Tensor]
"""Means over a micro-batch. "loss" is backpropagated; the scalars among them are logged as <update>/<term>."""

MOST_QUESTIONS = 64  # that a Spec keeps of text


@dataclass(frozen=True)
class Spec:
    """What one thing is. Data states it, nets are built from it, checkpoints keep it.

    A real x is (C, H, W) for images, (C, T, H, W) for video, (C, T) for audio, (D,) for points, and for table rows as
    `genai.columns` lays them out; () for a number that is predicted. A token x is (T,) ids, or () for one label; of
    ratings the items of a user, filled up with -1. Models see real values scaled to about unit size: data units are
    `x * scale + offset`, with scale and offset given per channel (first axis) or once for all; those of tables the
    columns say.
    """

    kind: Literal["real", "token"]
    shape: tuple[int, ...]
    modality: Literal["image", "video", "audio", "points", "table", "text", "label", "value", "ratings", "latent"]
    vocab: int = 0
    classes: int = 0
    names: tuple[str, ...] = ()
    cond: Mapping[str, Spec] = field(default_factory=dict)
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    mean: tuple[float, ...] = (0.0,)  # of the training part in model units, for each channel or once for all
    deviation: tuple[float, ...] = (1.0,)
    sample_rate: int = 0  # of audio, values a second
    num_samples: int = 0  # that training learns from; 0: unknown
    columns: tuple[Column, ...] = ()  # of tables, and of what is predicted from them
    titles: tuple[str, ...] = ()  # of the items of ratings, whose names are their ids
    features: tuple[tuple[int, ...], ...] = ()  # of each of them, by number, what is known of it
    first_stage: str = ""  # of latents: sha256 of the weights that make them
    tokenizer: str = ""  # of text: all that makes ids of it, as `genai.data.tokens` writes it
    opening: tuple[int, ...] = ()  # of text: what a sample without a prompt follows on
    dialogue: bool = False  # of text: lines that are answered; answers alone are learned
    given: tuple[str, ...] = ()  # of such text: the attributes that a line tells, `name: value; name: value`
    questions: tuple[str, ...] = ()  # ... and what is asked most often, in order where it is fewer than MOST_QUESTIONS

    @property
    def form(self) -> tuple[object, ...]:
        """What must be equal for one to stand for another; not the units, nor what it is conditioned on."""
        columns = tuple((column.name, column.kind, column.role) for column in self.columns)
        return self.kind, self.modality, self.shape, self.vocab, self.classes, self.sample_rate, self.tokenizer, columns

    @property
    def num_predicted(self) -> int:
        """Ids of a sample that are predicted: of a window of text all but the first; 0 where it is none of ids."""
        if self.kind != "token" or not self.shape or self.modality == "ratings":
            return 0
        return math.prod(self.shape) - (self.modality == "text")

    def told(self, *names: str) -> Spec:
        """The same with no other conditions than these."""
        return replace(self, cond={name: self.cond[name] for name in names if name in self.cond})

    @property
    def seen(self) -> Spec:
        """What comes out of the data: x itself, or what a target is predicted from."""
        return self.cond.get("input", self)

    @property
    def label_classes(self) -> int:
        """Number of classes of the label that x may be conditioned on; 0 where there is none."""
        return self.cond["label"].classes if "label" in self.cond else 0

    @property
    def prompt_length(self) -> int:
        """Bytes of the prompt that x may be conditioned on, (T,) of UTF-8 filled up with 0; 0 where there is none."""
        return self.cond["prompt"].shape[0] if "prompt" in self.cond else 0


def label_spec(classes: int, names: Sequence[str] = ()) -> Spec:
    return Spec(kind="token", shape=(), modality="label", classes=classes, names=tuple(names))


def value_spec(column: Column) -> Spec:
    """Of a number that is predicted: a column of a table, in units of its deviation around its mean."""
    return Spec(
        kind="real",
        shape=(),
        modality="value",
        scale=(column.deviation,),
        offset=(column.mean,),
        columns=(column,),
    )


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the device, after the codec."""

    x: Tensor  # (B, *spec.shape)
    cond: Mapping[str, Tensor] = field(default_factory=dict)  # by the names of spec.cond; may be empty
    mask: Tensor | None = None  # (B, *spec.shape) or (B, T): which elements count
    index: Tensor | None = None  # (B,) ids of the samples, for errors and for logs
    weight: Tensor | None = None  # scalar: elements that count here; None: the number of samples
    spread: Tensor | None = None  # (B, *spec.shape) of an x that is known as Gaussians: their deviations, x their means

    def __len__(self) -> int:
        return self.x.shape[0]

    def replace(self, **changes: Any) -> Batch:
        return replace(self, **changes)

    def drawn(self) -> Batch:
        """With an x of its Gaussians, where it is known as such."""
        if self.spread is None:
            return self
        return self.replace(x=self.x + self.spread * torch.randn_like(self.x), spread=None)

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The same on a device, real values in `dtype`; ids and masks keep theirs."""

        def move(value: Tensor | None) -> Any:
            real = value is not None and value.is_floating_point()
            return None if value is None else value.to(device, dtype if real else None)

        return Batch(
            x=move(self.x),
            cond={name: move(value) for name, value in self.cond.items()},
            mask=move(self.mask),
            index=move(self.index),
            weight=move(self.weight),
            spread=move(self.spread),
        )


@dataclass(frozen=True, kw_only=True)
class Update:
    """One optimizer step: what learns, from which loss, how often."""

    trains: str  # child module that learns; every other child is frozen meanwhile
    loss: Callable[[Batch, int], Terms]  # (micro-batch, samples seen before this step) -> terms
    name: str = ""  # prefix of its metrics; default: trains. Equal `trains` share one optimizer
    every: int = 1  # n_critic, lazy penalties: due at steps divisible by it
    start: int = 0  # first step at which it is due
    second_order: bool = False  # differentiates a gradient: runs uncompiled and outside autocast
    full_precision: bool = False  # runs outside autocast
    after: Callable[[Terms], None] | None = None  # told the terms of the global batch once the step is taken: what
    # follows statistics (a deviation, a codebook) instead of a gradient; terms of several values are for it alone

    @property
    def prefix(self) -> str:
        return self.name or self.trains

    def due(self, step: int) -> bool:
        return step >= self.start and (step - self.start) % self.every == 0


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What shows that training goes wrong, and what to do then.

    It rings when the mean of what it measures over the last `steps` steps lies above or below its bound.
    """

    name: str  # of what is measured
    measure: Callable[[Mapping[str, float]], float]  # of a line of metrics.jsonl; KeyError: not in this line
    says: str  # what is wrong, and what to type
    above: float = math.inf
    below: float = -math.inf
    steps: int = 500


@dataclass(frozen=True)
class Request:
    """What the sampler asks a model for: `count` samples, one generator each, conditions on the device."""

    count: int
    cond: Mapping[str, Tensor]
    generators: Sequence[torch.Generator]
    device: torch.device
    dtype: torch.dtype = torch.float32
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    begins: Sequence[Sequence[int]] | None = None  # ids that each sample goes on from

    def noise(self, *shape: int) -> Tensor:
        """Standard normal (count, *shape), drawn on the CPU, so that devices agree, by each sample's own generator."""
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device, self.dtype)


class Model(nn.Module, ABC):
    """Networks + losses + a way to draw. It never touches devices, autocast, optimizers, EMA, processes or files.

    Constructed by the registry as `Model(spec=..., config=..., net=...)`: the data's Spec, this model's settings, and
    the settings of the network it is to be built with.
    """

    predicts: ClassVar[Literal["data", "target"]] = "data"  # p(x | cond), or p(target | x): what draw returns
    probable: bool = True  # of one that predicts classes: draw gives their probabilities, not scores
    quantiles: tuple[float, ...] = ()  # of one that predicts a number: those that draw gives; () for the number alone
    draws: bool = True  # False: what comes out of it is made from inputs
    sampling_keys: ClassVar[frozenset[str]] = frozenset()  # settings of sampling that it goes by
    weights_go_by: ClassVar[frozenset[str]] = frozenset()  # its settings that say what its weights mean
    stop_metric: str | None = None  # held-out term that says which checkpoint is best: the lowest, or the highest of
    # those in schema.HIGHER_IS_BETTER
    spec: Spec  # what it models; its cond are what `draw` is to be given
    may_lack: frozenset[str] = frozenset()  # those of them that a sample may go without

    @classmethod
    def suited(cls, spec: Spec) -> type[Model]:
        """The class that is built for such data: this one, or a kind of it."""
        return cls

    @abstractmethod
    def updates(self) -> Sequence[Update]:
        """Asked once, when training starts."""

    def alarms(self) -> Sequence[Alarm]:
        """What the trainer watches for; asked once, when training starts."""
        return ()

    def operations(self) -> int:
        """Of floating point, that training takes for a sample; 0: not told."""
        return 0

    def notes(self) -> Sequence[str]:
        """Lines that say what settings left to the model ("auto") became, and what is slower than it could be, in the
        precision that is chosen around the call."""
        return ()

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Raises ConfigError for settings of sampling that it could not go by."""

    @abstractmethod
    def draw(self, request: Request) -> Tensor:
        """(count, *spec.shape) in model units, or predictions for a discriminative model."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> Terms:
        """Held-out terms that average by weight, units in their names."""

    def conclude(self, means: Terms) -> Terms:
        """The figures of held-out means; terms of several values become figures here."""
        return means


@runtime_checkable
class Prepares(Protocol):
    """A model that takes something from the training data before it is trained: a scale, rows to compare with."""

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int, seed: int) -> None:
        """`fetch` gives the samples of (B,) ids below `count`, on the model's device. The same data and seed give the
        same, whenever a training goes on."""


@runtime_checkable
class Calibrates(Protocol):
    """A model that has something left open until held-out data are seen, such as how sure it sounds. It decides that at
    each evaluation of a training, so that every checkpoint which is saved then has it."""

    def evaluate_openly(self, batch: Batch) -> Terms:
        """`evaluate`, with what is to be decided."""

    def calibrate(self, figures: Mapping[str, float]) -> None:
        """Decides by the figures of all held-out data."""


@runtime_checkable
class Interpolates(Protocol):
    """A model that draws what lies between two samples."""

    def draw_between(self, first: Request, second: Request, weight: Tensor) -> Tensor:
        """(count, *spec.shape): `weight` (count,), 0 to 1, of the way from the first samples to the second."""


@runtime_checkable
class Blends(Protocol):
    """A model that draws what lies between two given samples."""

    def end(self, x: Tensor, request: Request) -> Tensor:
        """(B, ...): where a way from x, of which `request` is told, begins or ends."""

    def blend(self, end: Tensor, other: Tensor, first: Request, second: Request, weight: Tensor) -> Tensor:
        """(B, *spec.shape): `weight` (B,), 0 to 1, of the way from an end, of which `first` is told, to the other."""


@runtime_checkable
class Varies(Protocol):
    """A model that draws what is like a given sample."""

    def vary(self, x: Tensor, request: Request, strength: float) -> Tensor:
        """(count, *spec.shape): from x reconstructed (strength 0) to samples that owe it nothing (1)."""


@runtime_checkable
class Imputes(Protocol):
    """A model that draws what is missing of a given sample."""

    def impute(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        """(count, *spec.shape): x with new values where `missing` (booleans, of the shape of x) says so."""


@runtime_checkable
class CompletesRows(Imputes, Protocol):
    """A model of rows that draws them by what is known of some columns."""

    def complete(self, x: Tensor, missing: Tensor, request: Request) -> Tensor:
        """(count, *spec.shape), as `impute` does, but what is drawn may lack values as rows of the data do."""


@runtime_checkable
class Steps(Protocol):
    """A model whose samples come about in steps."""

    def grid(self, sampling: SamplingConfig, fraction: float = 1.0) -> Sequence[float]:
        """The levels of noise that a sample passes through, where only that last part of the way is gone."""


@runtime_checkable
class Streams(Protocol):
    """A model whose samples come about id after id."""

    def stream(self, request: Request) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The next ids (count,) of all samples, and with sampling.log_probs ln p (count,) of each."""


@runtime_checkable
class TakesGuide(Protocol):
    """A model that can be led away from what a weaker one would do."""

    def take_guide(self, weaker: Model) -> None:
        """Raises ConfigError for a model of other data."""


@runtime_checkable
class MeasuresLikelihood(Protocol):
    """A model that finds log p(x) by following x to noise."""

    def evaluate_likelihood(self, batch: Batch, steps: int) -> Terms:
        """Held-out terms that average by weight."""


@runtime_checkable
class BoundsLikelihood(Protocol):
    """A model with a bound on log p(x) that rises to it with the samples drawn for it."""

    def evaluate_bound(self, batch: Batch, samples: int) -> Terms:
        """Held-out terms that average by weight; their names say the unit and how many samples."""


@runtime_checkable
class FirstStage(Protocol):
    """A model whose latents another model can be trained on; it encodes and reconstructs."""

    def to_latent(self, x: Tensor) -> Tensor: ...

    def from_latent(self, latent: Tensor) -> Tensor: ...

    def latent_spec(self) -> Spec: ...


@runtime_checkable
class SpreadsLatents(Protocol):
    """A first stage whose latents are Gaussians."""

    def to_latents(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`to_latent` of x, and the deviations around it; None for latents that are sure."""
