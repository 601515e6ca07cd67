"""Draws from a trained model: one generator per sample, batches of one size, decoded to data units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genai.contract import Batch, Blends, FirstStage, Imputes, Interpolates, Model, Request, Spec, Steps, Varies
from genai.data.mask import read_mask
from genai.data.prompts import NUM_EXAMPLES, clean, prompt_bytes, prompt_ids, prompt_texts
from genai.data.source import Split
from genai.device import Runtime, mix
from genai.errors import ConfigError, NonFiniteError
from genai.factory import Trained, require
from genai.schema import SamplingConfig, unknown
from genai.text_samples import Told, prompts_of, tell

PREVIEW_SEED = 0
_CAPABLE: dict[str, tuple[type, str]] = {
    "reconstruct": (FirstStage, "reconstructs nothing"),
    "encode": (FirstStage, "has no latents"),
    "vary": (Varies, "varies no input"),
    "impute": (Imputes, "imputes nothing"),
}
_LEVELS = {  # lowest and highest
    "image": (0, 255, torch.uint8),
    "video": (0, 255, torch.uint8),
    "audio": (-(1 << 15), (1 << 15) - 1, torch.int16),
}
_DEVIATIONS = 2.5  # of a latent, to each side of a traversal
_PREVIEW_ROWS, _PREVIEW_COLUMNS, _PREVIEW_POINTS, _PREVIEW_INPUTS = 10, 8, 1000, 32
_PREVIEW_CLIPS, _PREVIEW_CLIPS_EACH = 8, 2  # in all, or of each class: one costs as much as all its frames


@dataclass(frozen=True)
class Plan:
    """What is to be drawn: the seed of each sample's own generator, its label where there are classes, and its prompt
    where some are given.

    Sample i without named labels is of class i modulo the number of classes; of named labels and of prompts each (each
    prompt with each label) gets `count` samples, which share their seeds, so that rows of a grid differ in the label or
    the prompt alone. None of this depends on the count.
    """

    seeds: tuple[int, ...]
    labels: tuple[int, ...] | None
    prompts: tuple[str, ...] | None = None
    prompt_length: int = 0  # bytes of a prompt that the model reads; 0: it reads none

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, samples: Sequence[int]) -> Plan:
        """The plan of these of its samples."""
        labels, prompts = self.labels, self.prompts
        return replace(
            self,
            seeds=tuple(self.seeds[i] for i in samples),
            labels=None if labels is None else tuple(labels[i] for i in samples),
            prompts=None if prompts is None else tuple(prompts[i] for i in samples),
        )


def plan(
    spec: Spec, *, seed: int, count: int, labels: Sequence[int] | None = None, prompts: Sequence[str] | None = None
) -> Plan:
    classes = spec.label_classes
    if labels is not None and not classes:
        raise ConfigError("this model was trained without labels", fix="leave --label out")
    num_prompts, num_labels = (1 if given is None else len(given) for given in (prompts, labels))
    seeds = tuple(mix(seed, i) for i in range(count)) * (num_prompts * num_labels)
    each = tuple(i % max(classes, 1) for i in range(count))
    if classes and spec.cond["label"].columns:  # of rows of a table: each as often as in training
        each = tuple(_by_frequency(spec.cond["label"].columns[0].counts, mix(one, 1)) for one in seeds[:count])
    if labels is not None:
        each = tuple(label for label in labels for _ in range(count))
    said = None if prompts is None else tuple(prompt for prompt in prompts for _ in each)
    return Plan(seeds, each * num_prompts if classes else None, said, spec.prompt_length)


def _by_frequency(counts: Sequence[int], seed: int) -> int:
    point = seed / (1 << 64) * sum(counts)
    return next((i for i, end in enumerate(accumulate(counts)) if point < end), 0)


def check_prompts(spec: Spec, prompts: Sequence[str]) -> None:
    """Raises ConfigError for prompts to a model that reads none, and for one that is longer than what it reads."""
    if not spec.prompt_length:
        fix = "leave --prompt out, or train a model that reads prompts on data with captions"
        raise ConfigError("this model was trained without text", fix=fix)
    for prompt in prompts:
        if (excess := len(prompt_bytes(prompt)) - spec.prompt_length) > 0:
            shown = prompt if len(prompt) <= 40 else prompt[:38] + ".."
            what = f"--prompt '{shown}' has {spec.prompt_length + excess} bytes, {spec.prompt_length} fit"
            raise ConfigError(what, fix=f"shorten it by {excess}")


def label_index(spec: Spec, label: str) -> int:
    """A class by its index or its name. Raises ConfigError with the nearest name."""
    classes = spec.label_classes
    if not classes:
        raise ConfigError("this model was trained without labels", fix="leave --label out")
    names = spec.cond["label"].names
    if label in names:
        return names.index(label)
    if label.removeprefix("-").isdecimal():
        if 0 <= int(label) < classes:
            return int(label)
        raise ConfigError(f"--label {label}: there are {classes} classes", fix=f"type a number from 0 to {classes - 1}")
    raise unknown("label", label, names or map(str, range(classes)))


def draw(
    model: Model,
    drawn: Plan,
    runtime: Runtime,
    sampling: SamplingConfig,
    make: Callable[[Sequence[int], Request], Tensor] | None = None,
) -> Iterator[Tensor]:
    """The samples in model units on the device, batch after batch, so that memory does not grow with their number; by
    `make`, told their numbers, in place of model.draw.

    Every batch is of sampling.batch_size: the last one is filled up with copies that are thrown away, so that a sample
    is the same bit for bit whatever else was asked for. Raises ConfigError for a model that predicts: it needs input.
    """
    if model.predicts != "data":
        raise ConfigError("this model predicts a target and needs an input", fix="type genai eval RUN")
    require_draws(model)
    for rows, kept in _batches(len(drawn), sampling.batch_size):
        runtime.seed(drawn.seeds[rows[0]])
        with torch.no_grad(), runtime.autocast():
            request = _request(drawn, rows, runtime, sampling)
            made = model.draw(request) if make is None else make(rows, request)
            yield _widened(made[:kept], runtime)


def levels(model: Model, sampling: SamplingConfig, fraction: float) -> str:
    """The levels of noise that samples pass through on that last part of the way. Raises ConfigError for a model that
    draws them at once."""
    require(model, Steps, "draws its samples in one step")
    assert isinstance(model, Steps)
    return " ".join(f"{level:.4g}" for level in model.grid(sampling, fraction))


def require_draws(model: Model) -> None:
    """Raises ConfigError for a model that makes nothing without an input."""
    if not model.draws:
        fix = "train a model on its latents (data.codec=RUN), or type --task reconstruct"
        raise ConfigError("this model is a first stage, nothing can be drawn from it alone", fix=fix)


def draw_paths(
    model: Model, drawn: Plan, count: int, runtime: Runtime, sampling: SamplingConfig
) -> tuple[Plan, Iterator[Tensor]]:
    """Closed paths through each `count` samples of a plan: sampling.frames from each sample to the next, and from the
    last to the first. The plan of all that is drawn, and batches as by `draw`.

    Raises ConfigError for a model that cannot, and for a path of one sample.
    """
    require(model, Interpolates, "draws nothing between two samples")
    assert isinstance(model, Interpolates)
    require_draws(model)
    first, second = _around(len(drawn), count, sampling.frames)
    starts, ends = drawn.take(first), drawn.take(second)

    def batches() -> Iterator[Tensor]:
        weight = (torch.arange(len(starts)) % sampling.frames / sampling.frames).to(runtime.device, runtime.dtype)
        for rows, kept in _batches(len(starts), sampling.batch_size):
            one, other = (_request(end, rows, runtime, sampling) for end in (starts, ends))
            runtime.seed(starts.seeds[rows[0]])
            with torch.no_grad(), runtime.autocast():
                yield _widened(model.draw_between(one, other, weight[rows])[:kept], runtime)

    return starts, batches()


def _around(total: int, each: int, frames: int) -> tuple[list[int], list[int]]:
    """For every frame of closed paths through each `each` of `total` samples, the samples that it lies between.

    Raises ConfigError for a path of one sample.
    """
    if each < 2:
        raise ConfigError(f"an interpolation of {each} sample leads nowhere", fix="type -n 2 or more")
    first = [i for i in range(total) for _ in range(frames)]
    return first, [i - i % each + (i + 1) % each for i in first]


@dataclass(frozen=True)
class Drawn:
    """What was asked for, in data units, and how it is to be shown."""

    values: np.ndarray
    labels: tuple[int, ...] | None
    spec: Spec  # of the values
    along: tuple[int, int] | None = None  # closed paths: how many samples each leads through, frames between them
    beside: np.ndarray | None = None  # what each was made from
    columns: int | None = None  # of a grid in which place means something
    prompts: tuple[str, ...] | None = None
    titles: tuple[str, ...] | None = None  # what is written beside or below each in an overview
    told: tuple[Told, ...] | None = None  # of text
    known: Mapping[str, Sequence[str | None]] | None = None  # of rows of a table: cells that were given


def generated(
    trained: Trained,
    sampling: SamplingConfig,
    task: Literal["generate", "interpolate"],
    *,
    seed: int,
    count: int,
    labels: Sequence[str] | None,
    prompts: Sequence[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> Drawn:
    """New samples, or paths through some; `say` is told a text as it comes. Raises ConfigError for a label, a prompt or
    a task that the model does not know."""
    model, runtime = trained.model, trained.runtime
    if model.spec.tokenizer:
        if task != "generate":
            raise ConfigError("there is no way between two texts", fix="leave --task out")
        if labels is not None:
            asked = prompts_of(model.spec, labels)
            if prompts is not None:
                raise ConfigError("--label is a prompt by itself", fix=f"type --prompt '{asked[0]}' alone")
            prompts = asked
        told = tell(model, runtime, sampling, seed=seed, count=count, prompts=prompts, say=say)
        values = np.full((len(told), max(len(each.ids) for each in told)), -1)
        for row, each in zip(values, told, strict=True):
            row[: len(each.ids)] = each.ids
        given = None if prompts is None else tuple(each.prompt for each in told)
        return Drawn(values, None, model.spec, prompts=given, told=tuple(told))
    indices = None if labels is None else [label_index(model.spec, label) for label in labels]
    if prompts is not None:
        prompts = [clean(prompt) for prompt in prompts]
        check_prompts(model.spec, prompts)
    drawn = plan(model.spec, seed=seed, count=count, labels=indices, prompts=prompts)
    if prompts is not None and labels is None and "label" in model.may_lack:
        drawn = replace(drawn, labels=None)
    if task == "interpolate":
        drawn, batches = draw_paths(model, drawn, count, runtime, sampling)
        values, along = _decoded(trained, batches), (count, sampling.frames)
        return Drawn(values, drawn.labels, trained.output, along=along, prompts=drawn.prompts)
    titles = drawn.prompts
    if prompts is not None and indices is not None:
        names = model.spec.cond["label"].names
        titles = tuple(f"{prompt}, {names[i]}" for prompt in prompts for i in indices for _ in range(count))
    values = _decoded(trained, draw(model, drawn, runtime, sampling))
    return Drawn(values, drawn.labels, trained.output, prompts=drawn.prompts, titles=titles)


def from_inputs(
    trained: Trained,
    inputs: Batch,
    sampling: SamplingConfig,
    task: Literal["reconstruct", "encode", "vary", "impute"],
    *,
    seed: int,
    strength: float = 0.5,
    missing: Tensor | None = None,
) -> Drawn:
    """What becomes of each input: itself again, its latent, a sample like it by `strength`, or itself with other values
    where some are `missing` (of the shape of a sample). Raises ConfigError for a model that cannot."""
    model, runtime = trained.model, trained.runtime
    require(model, *_CAPABLE[task])
    if task == "vary":
        require_draws(model)
    known = tuple(inputs.cond["label"].tolist()) if "label" in inputs.cond else None
    told = _plan_of(model, inputs, seed=seed)

    def batches() -> Iterator[Tensor]:
        for rows, kept in _batches(len(inputs), sampling.batch_size):
            x = inputs.x[rows].to(runtime.device, runtime.dtype)
            runtime.seed(told.seeds[rows[0]])
            with torch.no_grad(), runtime.autocast():
                if task == "vary":
                    assert isinstance(model, Varies)
                    made = model.vary(x, _request(told, rows, runtime, sampling), strength)
                elif task == "impute":
                    assert isinstance(model, Imputes)
                    assert missing is not None
                    made = model.impute(x, missing.to(x.device).expand_as(x), _request(told, rows, runtime, sampling))
                elif task == "encode":
                    assert isinstance(model, FirstStage)
                    made = model.to_latent(x)
                else:
                    made = reconstructed(model, x, runtime)
                yield _widened(made[:kept], runtime)

    if task == "encode":
        assert isinstance(model, FirstStage)
        latents = np.concatenate([z.cpu().numpy() for z in batches()])
        return Drawn(latents, known, model.latent_spec(), prompts=told.prompts)
    shown = inputs.x if missing is None else inputs.x.masked_fill(missing, 0.0)  # grey
    beside = _decoded(trained, iter(shown.split(sampling.batch_size)))
    return Drawn(_decoded(trained, batches()), known, trained.output, beside=beside, prompts=told.prompts)


def missing(trained: Trained, path: Path) -> Tensor:
    """Booleans of a sample's shape from a file. Raises ConfigError for a model of latents, DataError for no mask."""
    if trained.codec is not None:
        what = "this model draws latents, of which a mask of values says nothing"
        raise ConfigError(what, fix="name a run without data.codec")
    return torch.from_numpy(read_mask(path, trained.output))


def _plan_of(model: Model, inputs: Batch, *, seed: int) -> Plan:
    """A sample for each input, told what is known of that."""
    told = plan(model.spec, seed=seed, count=len(inputs))
    if "label" in inputs.cond and told.labels is not None:
        told = replace(told, labels=tuple(inputs.cond["label"].tolist()))
    elif "label" in model.may_lack:
        told = replace(told, labels=None)
    if "prompt" in inputs.cond and told.prompt_length:
        told = replace(told, prompts=prompt_texts(inputs.cond["prompt"].cpu().numpy()))
    return told


def way_through(trained: Trained, inputs: Batch, sampling: SamplingConfig) -> Drawn:
    """A closed path through the inputs, sampling.frames from each to the next. Raises ConfigError for a model that
    cannot, and for one input."""
    model, runtime, count = trained.model, trained.runtime, len(inputs)
    require(model, Blends, "draws nothing between two inputs")
    assert isinstance(model, Blends)
    first, second = _around(count, count, sampling.frames)
    told, x = _plan_of(model, inputs, seed=0), inputs.x.to(runtime.device, runtime.dtype)
    weight = (torch.arange(len(first)) % sampling.frames / sampling.frames).to(runtime.device, runtime.dtype)

    def batches() -> Iterator[Tensor]:
        ends = []
        for rows, kept in _batches(count, sampling.batch_size):
            with torch.no_grad(), runtime.autocast():
                ends.append(model.end(x[rows], _request(told, rows, runtime, sampling))[:kept])
        end = torch.cat(ends)
        for rows, kept in _batches(len(first), sampling.batch_size):
            one, other = ([numbers[row] for row in rows] for numbers in (first, second))
            here, there = (_request(told, numbers, runtime, sampling) for numbers in (one, other))
            with torch.no_grad(), runtime.autocast():
                yield _widened(model.blend(end[one], end[other], here, there, weight[rows])[:kept], runtime)

    return Drawn(_decoded(trained, batches()), None, trained.output, along=(count, sampling.frames))


def traversal(trained: Trained, inputs: Batch, sampling: SamplingConfig, *, count: int) -> Drawn:
    """The first input led through the latent space along each of its `count` longest principal axes over all inputs,
    two and a half deviations to each side of the mean, a row of sampling.frames each.

    Raises ConfigError for a model without latents, or whose latents are no vectors.
    """
    model, runtime = trained.model, trained.runtime
    require(model, FirstStage, "has no latents")
    assert isinstance(model, FirstStage)
    if len(model.latent_spec().shape) != 1 or model.latent_spec().kind != "real":
        raise ConfigError("the latents of this model are no list of numbers", fix="type --task reconstruct")

    def through(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.no_grad(), runtime.autocast():
            parts = x.to(runtime.device, runtime.dtype).split(sampling.batch_size)
            return _widened(torch.cat([step(part) for part in parts]), runtime)

    z = through(model.to_latent, inputs.x)
    centred = z - z.mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    axes, deviations = axes[:count], lengths[:count] / max(len(z) - 1, 1) ** 0.5
    steps = torch.linspace(-_DEVIATIONS, _DEVIATIONS, sampling.frames, device=z.device, dtype=z.dtype)
    moves = steps * deviations[:, None] - (axes @ centred[0])[:, None]  # from where it is along each axis
    made = through(model.from_latent, (z[0] + moves[..., None] * axes[:, None]).flatten(0, 1))
    return Drawn(_decoded(trained, iter([made])), None, trained.output, columns=sampling.frames)


def _widened(values: Tensor, runtime: Runtime) -> Tensor:
    """Real values in the dtype of the parameters, which autocast leaves in its own; ids as they are."""
    return values.to(runtime.dtype) if values.is_floating_point() else values


def _batches(count: int, batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Positions of each batch, filled up with copies of the last, and how many of them are wanted."""
    for start in range(0, count, batch_size):
        positions = range(start, min(start + batch_size, count))
        yield [*positions, *[positions[-1]] * (batch_size - len(positions))], len(positions)


def _request(drawn: Plan, rows: Sequence[int], runtime: Runtime, sampling: SamplingConfig) -> Request:
    cond = {}
    if drawn.labels is not None:
        cond["label"] = torch.tensor([drawn.labels[i] for i in rows], device=runtime.device)
    if drawn.prompt_length:
        texts = [""] * len(rows) if drawn.prompts is None else [drawn.prompts[i] for i in rows]
        cond["prompt"] = torch.from_numpy(prompt_ids(texts, drawn.prompt_length)).to(runtime.device, torch.int64)
    return Request(
        count=len(rows),
        cond=cond,
        generators=[torch.Generator().manual_seed(drawn.seeds[i]) for i in rows],
        device=runtime.device,
        dtype=runtime.dtype,
        sampling=sampling,
    )


def data_units(x: Tensor, spec: Spec) -> Tensor:
    """Model units -> what the data's files hold, on the CPU: grey levels 0 to 255 as uint8, levels
    of sounds as int16, coordinates as float32."""
    if spec.kind == "token":
        return x.cpu()
    shape = (-1, *[1] * (len(spec.shape) - 1))
    scale, offset = (torch.tensor(v, dtype=torch.float32).view(shape) for v in (spec.scale, spec.offset))
    values = x.float().cpu() * scale + offset
    if spec.modality not in _LEVELS:
        return values
    low, high, dtype = _LEVELS[spec.modality]
    return values.round().clamp(low, high).to(dtype)  # converted unclamped, what is too loud would wrap around


def _decoded(trained: Trained, batches: Iterator[Tensor]) -> np.ndarray:
    """All samples of batches in data units. Raises NonFiniteError for what is no number."""

    def decoded(x: Tensor) -> np.ndarray:
        x = trained.decode(x)
        if not bool(torch.isfinite(x).all()):
            fix = "type a smaller sampling.guidance or sampling.sigma_max, or --step for another checkpoint"
            raise NonFiniteError("samples are not finite", fix=fix)
        return data_units(x, trained.output).numpy()

    return np.concatenate([decoded(x) for x in batches])


def reconstructed(model: Model, x: Tensor, runtime: Runtime) -> Tensor:
    """x (B, ...) in model units, encoded and decoded, on the device."""
    require(model, FirstStage, "reconstructs nothing")
    assert isinstance(model, FirstStage)
    with torch.no_grad(), runtime.autocast():
        return _widened(model.from_latent(model.to_latent(x.to(runtime.device, runtime.dtype))), runtime)


def preview_inputs(split: Split, output: Spec) -> Tensor:
    """The fixed samples that previews reconstruct."""
    most = _PREVIEW_CLIPS if output.modality == "video" else _PREVIEW_INPUTS
    return split.fetch(torch.arange(min(len(split), most))).x


def preview_plan(spec: Spec, output: Spec, prompts: Sequence[tuple[str, int | None]] = ()) -> Plan:
    """The fixed plan of previews: class rows of eight, 64 pictures or sounds, or a cloud of points; of clips two a
    class, or eight. Of a model that reads prompts these, with their labels."""
    if spec.prompt_length and prompts:
        return _plan_of_prompts(spec, output, prompts)
    if output.modality in ("points", "table"):
        return plan(spec, seed=PREVIEW_SEED, count=_PREVIEW_POINTS)
    each, total = _PREVIEW_COLUMNS, _PREVIEW_COLUMNS**2
    if output.modality == "video":
        each, total = _PREVIEW_CLIPS_EACH, _PREVIEW_CLIPS
    if spec.label_classes:
        rows = range(min(spec.label_classes, _PREVIEW_ROWS))
        return plan(spec, seed=PREVIEW_SEED, count=each, labels=rows)
    return plan(spec, seed=PREVIEW_SEED, count=total)


def _plan_of_prompts(spec: Spec, output: Spec, prompts: Sequence[tuple[str, int | None]]) -> Plan:
    total = {"points": _PREVIEW_POINTS, "video": _PREVIEW_CLIPS}.get(output.modality, NUM_EXAMPLES)
    prompts = prompts[:: -(-len(prompts) // total)]
    each = total // len(prompts)
    told = plan(spec, seed=PREVIEW_SEED, count=each, prompts=[text for text, _ in prompts])
    labels = tuple(label for _, label in prompts for _ in range(each) if label is not None)
    return replace(told, labels=labels) if told.labels is not None and len(labels) == len(told) else told
