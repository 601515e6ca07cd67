"""Held-out data -> figures: of a model in training, and of a trained run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from genai.contract import Batch, BoundsLikelihood, MeasuresLikelihood, Model, Spec, Terms
from genai.data.source import Counts, Dataset, Split
from genai.device import Runtime
from genai.errors import DataError
from genai.factory import Trained
from genai.schema import SamplingConfig

_EVALUATION = 1 << 40  # stands for the step where evaluation is seeded: no step of training reaches it


@contextmanager
def evaluating(model: Model) -> Iterator[Model]:
    """The model in evaluation mode, without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(training)


def held_out_terms(
    model: Model,
    split: Split,
    runtime: Runtime,
    batch_size: int,
    seed: int,
    *,
    index: Tensor | None = None,
    stopped: Callable[[], bool] = lambda: False,
    measure: Callable[[Batch], Terms] | None = None,
) -> dict[str, float]:
    """Figures of `measure` (model.evaluate) averaged by weight over a split or its samples of `index`, shared by the
    processes.

    A process for which no part is left evaluates the first one with a weight of zero: all must name the same terms.
    """
    split = split.to(runtime.device)
    parts = (torch.arange(len(split)) if index is None else index).split(batch_size)
    own = list(range(runtime.rank, len(parts), runtime.world))
    totals: dict[str, Tensor] = {}
    weight_sum = torch.zeros((), dtype=runtime.wide, device=runtime.device)
    with evaluating(model):
        for number in own or [0]:
            if totals and stopped():
                break
            ids = parts[number] if split.streams else parts[number].to(runtime.device)
            batch = split.fetch(ids).to(runtime.device, runtime.dtype)
            runtime.seed(seed, _EVALUATION, number)
            with runtime.autocast():
                terms = (measure or model.evaluate)(batch)
            weight = torch.tensor(float(len(batch))) if batch.weight is None else batch.weight
            weight = weight.to(weight_sum) * bool(own)
            weight_sum += weight
            for name, term in terms.items():
                totals[name] = totals.get(name, torch.zeros_like(weight_sum)) + term.to(weight_sum) * weight
    names = sorted(totals)
    runtime.sum([weight_sum, *(totals[name] for name in names)])
    figures = model.conclude({name: totals[name] / weight_sum for name in names})
    return {name: float(figure) for name, figure in figures.items()}


def in_units_of_text(figures: dict[str, float], counts: Counts | None) -> dict[str, float]:
    """With the same in bits of a byte and of a character, which do not depend on what an id is."""
    if counts is None or "loss_nats_per_token" not in figures:
        return figures
    bits = figures["loss_nats_per_token"] * counts.ids / math.log(2)
    return {**figures, "bits_per_byte": bits / counts.num_bytes, "bits_per_char": bits / counts.characters}


def held_out_figures(trained: Trained, data: Dataset, runtime: Runtime, sampling: SamplingConfig) -> dict[str, float]:
    """The model's held-out terms on the data's held-out part, with those of a bound of sampling.importance_samples and
    of a likelihood by sampling.likelihood_steps.

    Raises DataError where that part is missing or no fit.
    """
    split = fitting_split(trained, data)
    classes, found = trained.model.spec.label_classes, data.spec.label_classes
    if classes and found != classes:
        what = f"the model was trained with {classes} classes, the data have {found or 'none'}"
        raise DataError(what, fix="give the data the same classes, as sub-folders or in `labels`")
    if trained.model.spec.prompt_length and not data.spec.prompt_length:
        what = "the model was trained with captions, the data have none"
        raise DataError(what, fix="give them captions, in a metadata.csv or in `captions`")
    model, samples = trained.model, sampling.importance_samples

    def measure(batch: Batch) -> Terms:
        if model.predicts == "target":
            _require_targets(model.spec, batch.x)
        terms = model.evaluate(batch)
        if samples > 1 and isinstance(model, BoundsLikelihood):
            terms |= model.evaluate_bound(batch, samples)
        if sampling.likelihood_steps and isinstance(model, MeasuresLikelihood):
            terms |= model.evaluate_likelihood(batch, sampling.likelihood_steps)
        return terms

    figures = held_out_terms(model, split, runtime, sampling.batch_size, trained.config.seed, measure=measure)
    return in_units_of_text(figures, data.text)


def _require_targets(spec: Spec, targets: Tensor) -> None:
    """Raises DataError where what is predicted is not known of the data: a label below 0, a number that is none."""
    known = targets >= 0 if spec.modality == "label" else targets.isfinite()
    if bool(known.all()):
        return
    if spec.columns:
        what = f"the data have no column {spec.columns[0].name} to compare with, or rows in which it is empty"
        raise DataError(what, fix="put it into the table, and leave out rows without it")
    if spec.modality == "label":
        raise DataError("the data have no labels to compare with", fix="put the files in one sub-folder for each class")


def fitting_split(trained: Trained, data: Dataset) -> Split:
    """The data's held-out part. Raises DataError where there is none, or of another shape than the model learned."""
    if data.valid is None or len(data.valid) == 0:
        raise DataError("the run held out nothing to evaluate on", fix="type --input PATH")
    spec, found = trained.model.spec.seen, data.spec.seen
    if found.form != spec.form:
        what = f"the model was trained on {spec.modality} {spec.shape}, the data are {found.modality}"
        keys = {"audio": "data.sample_rate, data.seconds", "video": "data.frames, data.size"}
        alike, told = spec.modality == found.modality, keys.get(spec.modality, "data.size")
        fix = f"type {told} and data.channels as in training" if alike else "name data of that kind"
        raise DataError(f"{what} {found.shape}", fix=fix)
    return data.valid
