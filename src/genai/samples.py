"""What `genai sample` draws with a trained model: samples, what becomes of inputs, filled tables, training sets with
samples added; the files of each, and the record beside them."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from genai import sampler, table_tasks, text_samples, tunes, writers
from genai.config import compose_verb
from genai.console import Console
from genai.contract import Batch
from genai.data import sniff
from genai.data.downloaded import prepare
from genai.data.passages import build, passages_of_lines
from genai.data.source import SeenBy, Split
from genai.data.text_files import read_text
from genai.device import memory_errors
from genai.errors import ConfigError, DataError, OutputError
from genai.evaluation import fitting_split
from genai.factory import Trained, check_sampling, open_evaluation_data, take_guide
from genai.run_index import find, runs_root
from genai.schema import SamplingConfig, Task, plain

_COUNTS: dict[str, int | None] = {
    "generate": 16,
    "interpolate": 8,
    "reconstruct": 16,
    "encode": None,
    "vary": 16,
    "impute": 16,
    "traverse": 10,
}
_SKIP = re.compile(
    r"(,| -)? ?(or )?type data\.on_bad=skip( to [a-z ]*)?|, or data\.on_bad=skip"
)  # a setting of training
_TRAVERSED = 512  # inputs that the range of each latent is taken from


@dataclass(frozen=True)
class Asked:
    """What the user asked for."""

    count: int | None = None
    seed: int = 0
    labels: Sequence[str] | None = None
    prompts: Sequence[str] | None = None
    raw: bool = False
    format: Literal["files", "npz"] = "files"
    task: Task | None = None
    input: Path | None = None
    mask: Path | None = None
    strength: float | None = None
    append_to: Path | None = None
    per_class: int | None = None

    def check(self) -> None:
        """Raises ConfigError for flags that do not go together."""
        if self.task is not None:
            _check_input(self)
        if self.mask is not None and self.task != "impute":
            raise ConfigError("--mask is of --task impute alone", fix="type --task impute")
        if self.strength is not None and self.task != "vary":
            raise ConfigError("--strength is of --task vary alone", fix="type --task vary, or leave it out")
        if (self.append_to is None) != (self.per_class is None):
            raise ConfigError("--append-to and --per-class go together", fix="type --append-to PATH --per-class N")
        if self.append_to is not None:
            others = (self.count, self.input, self.prompts, None if self.task == "generate" else self.task)
            if any(other is not None for other in others) or self.format == "npz":
                what = "--append-to draws --per-class samples of each class, as files"
                raise ConfigError(what, fix="leave -n, --task, --input, --prompt and --format out")


def _check_input(asked: Asked) -> None:
    task, path = asked.task, asked.input
    takes_input = task not in ("generate", "interpolate") or (task == "interpolate" and path is not None)
    for given, flag, what in ((asked.labels, "--label", "labels"), (asked.prompts, "--prompt", "captions")):
        if takes_input and given is not None:
            raise ConfigError(f"--task {task} takes the {what} of its input", fix=f"leave {flag} out")
    if path is not None and not takes_input:
        fix = "type --task reconstruct, encode, vary, impute, interpolate or traverse"
        raise ConfigError(f"--task {task} takes no input", fix=fix)


def write(trained: Trained, asked: Asked, sampling: SamplingConfig, folder: Path, console: Console) -> None:
    """Draws, and writes files and record into the folder."""
    began = time.monotonic()
    asked = _completed(trained, asked, console)
    runtime, checkpoint = trained.runtime, trained.checkpoint
    console.note(f"device: {runtime}")
    check_sampling(trained.model, sampling, trained.config.sampling)
    beside = None if asked.append_to is None else _training_set(asked.append_to, folder)
    if sampling.guide is not None:
        take_guide(trained, find(sampling.guide, runs_root()))
    if sampling.print_grid:
        fraction = _strength(asked) if asked.task == "vary" else 1.0
        console.note(f"levels of noise: {sampler.levels(trained.model, sampling, fraction)}")
    record: dict[str, Any] = {"labels": None, "names": None, "prompts": None}
    with memory_errors(f"type sampling.batch_size={max(1, sampling.batch_size // 2)}"):
        if asked.task == "impute" and trained.model.spec.modality == "table":
            count, files = _fill(trained, asked, sampling, folder)
        else:
            drawn = _drawn(trained, asked, sampling, console)
            writers.clear(folder)
            files = _written(trained, asked, folder, drawn) if beside is None else _added(folder, beside, drawn)
            count = len(drawn.values)
            if drawn.labels is not None:
                record |= {"labels": list(drawn.labels), "names": list(trained.class_names)}
            record["prompts"] = None if drawn.prompts is None else list(drawn.prompts)
    options = {
        "count": asked.count,
        "label": asked.labels,
        "prompt": asked.prompts,
        "task": asked.task,
        "input": None if asked.input is None else str(asked.input),
        "mask": None if asked.mask is None else str(asked.mask),
        "strength": _strength(asked) if asked.task == "vary" else None,
        "append_to": None if asked.append_to is None else str(asked.append_to),
        "per_class": asked.per_class,
        "raw": asked.raw,
        "format": asked.format,
        "device": str(runtime.device),
        "dtype": runtime.precision,
        "sampling": plain(sampling),
    }
    about = {
        "run": trained.config.model.name if trained.run is None else trained.run.info.name,
        "model": trained.config.model.name,
        "step": checkpoint.step,
        "checkpoint_sha256": checkpoint.sha256,
        "seed": asked.seed,
        "count": count,
        "options": options,
        **record,
        "files": files,
        "seconds": round(time.monotonic() - began, 3),
    }
    writers.write_record(folder, about)
    if (about_tunes := tunes.about(files)) is not None:
        console.note(about_tunes)


def _strength(asked: Asked) -> float:
    return 0.5 if asked.strength is None else asked.strength


def _completed(trained: Trained, asked: Asked, console: Console) -> Asked:
    """With what the model does where no task is named, and how often where no count is. Tells what follows from that
    and may surprise."""
    model = trained.model
    if asked.task is None and asked.input is not None and model.spec.tokenizer:
        asked = replace(asked, prompts=[*(asked.prompts or ()), _text_at(asked.input)], input=None)
    if asked.task is None:
        if not model.draws:
            console.note("a first stage draws nothing by itself: these are held-out samples and their reconstructions")
        asked = replace(asked, task="generate" if model.draws else "reconstruct")
        _check_input(asked)
    if asked.task == "impute" and asked.mask is None and model.spec.modality != "table":
        fix = "type --mask FILE: a picture that is white where values are missing, or an .npy array"
        raise ConfigError("--task impute needs to be told what is missing", fix=fix)
    if asked.task == "impute" and model.spec.modality == "table":
        if asked.mask is not None:
            raise ConfigError("--mask is of pictures, of a table the empty cells are filled in", fix="leave it out")
        if asked.input is None:
            raise ConfigError("--task impute needs a table with empty cells", fix="type --input FILE")
        return asked
    if asked.per_class is not None:
        if not model.spec.label_classes:
            fix = "train with labels: folders of classes, or data.target=COLUMN of a table"
            raise ConfigError("--per-class needs a model that is told a class", fix=fix)
        names = asked.labels or [str(i) for i in range(model.spec.label_classes)]
        return replace(asked, labels=names, count=asked.per_class)
    if asked.prompts and asked.labels is None and model.spec.label_classes and "label" not in model.may_lack:
        console.note("this model is told a class, too: here by turns, from the first on - type --label NAME")
    lacks = model.spec.prompt_length and "prompt" not in model.may_lack
    if lacks and asked.prompts is None and asked.task in ("generate", "interpolate") and asked.input is None:
        console.note("this model is told a text: here an empty one, which it did not learn - type --prompt TEXT")
    if asked.prompts and model.spec.tokenizer:
        longest = text_samples.longest_prompt(model.spec, asked.prompts)
        if longest > model.spec.num_predicted:
            most = model.spec.num_predicted
            console.note(f"a prompt has {longest:,} ids: the last {most:,}, the context, are read")
    if asked.count is None and not _is_each(asked):
        count = 1 if asked.prompts is not None and asked.task == "generate" else _COUNTS[str(asked.task)]
        asked = replace(asked, count=count)
    return asked


def _is_each(asked: Asked) -> bool:
    """Whether the count is of what is drawn for each input."""
    return asked.input is not None and asked.task in ("reconstruct", "vary", "impute")


def _drawn(trained: Trained, asked: Asked, sampling: SamplingConfig, console: Console) -> sampler.Drawn:
    task, count = asked.task, asked.count
    if task == "reconstruct" or task == "encode" or task == "vary" or task == "impute":
        each = (count or 1) if _is_each(asked) else 1
        inputs = _inputs(trained, asked.input, None if _is_each(asked) else count, console, each=each)
        missing = None if asked.mask is None else sampler.missing(trained, asked.mask)
        strength = _strength(asked)
        return sampler.from_inputs(trained, inputs, sampling, task, seed=asked.seed, strength=strength, missing=missing)
    if task == "interpolate" and asked.input is not None:
        return sampler.way_through(trained, _inputs(trained, asked.input, count, console), sampling)
    assert count is not None
    if task == "traverse":
        inputs = _inputs(trained, asked.input, _TRAVERSED, console)
        return sampler.traversal(trained, inputs, sampling, count=count)
    assert task == "generate" or task == "interpolate"
    if task == "generate" and asked.labels is not None and trained.model.spec.modality == "table":
        return table_tasks.conditioned(trained, sampling, seed=asked.seed, count=count, labels=asked.labels)
    with console.telling() as say:
        return sampler.generated(
            trained, sampling, task, seed=asked.seed, count=count, labels=asked.labels, prompts=asked.prompts, say=say
        )


def _written(trained: Trained, asked: Asked, folder: Path, drawn: sampler.Drawn) -> list[str]:
    checkpoint = trained.checkpoint
    texts = {
        "genai:seed": str(asked.seed),
        "genai:step": str(checkpoint.step),
        "genai:checkpoint": checkpoint.sha256,
    }
    return writers.write(
        folder,
        drawn.values,
        drawn.labels,
        drawn.spec,
        texts,
        npz=asked.format == "npz",
        along=drawn.along,
        beside=drawn.beside,
        columns=drawn.columns,
        prompts=drawn.prompts,
        titles=drawn.titles,
        told=drawn.told,
        known=drawn.known,
    )


def _fill(trained: Trained, asked: Asked, sampling: SamplingConfig, folder: Path) -> tuple[int, list[str]]:
    """Fills in the table at the input: how many rows it has, and the files."""
    assert asked.input is not None
    with told_of_input():
        holes = table_tasks.read_holes(trained, asked.input)
    tables = table_tasks.fill(trained, holes, sampling, seed=asked.seed, draws=asked.count)
    writers.clear(folder)
    names = ["samples"] if asked.count is None else [f"{i:05d}" for i in range(len(tables))]
    files = []
    with writers.output(folder):
        for name, texts in zip(names, tables, strict=True):
            files += table_tasks.write_filled(folder, holes, texts, name)
    return len(holes.x), files


def _training_set(path: Path, folder: Path) -> Path:
    """Where it lies. It is written into `folder` under the names that it has: never where one lies already, or it
    itself."""
    with _told("--append-to"):
        path = sniff.existing(path)
    names = [one.name for one in path.iterdir()] if path.is_dir() else [path.name]
    if taken := [name for name in names if (folder / name).exists()]:
        what = "this would be overwritten by the training set with drawn samples"
        raise OutputError(what, path=folder / taken[0], fix="type --out DIR for another folder")
    return path


def _added(folder: Path, path: Path, drawn: sampler.Drawn) -> list[str]:
    """The training set at a path with the drawn samples beside it. Raises DataError for what they do not fit."""
    with _told("--append-to"):
        kind = sniff.kind_of(path)
        if drawn.spec.modality == "table" and kind == "csv":
            with writers.output(folder):
                return table_tasks.write_added(folder, path, drawn)
        if drawn.spec.modality == "image" and kind == "pictures":
            return _add_pictures(folder, path, drawn)
        what = f"drawn are {drawn.spec.modality} samples, here is no such training set"
        raise DataError(what, path=path, fix="name a folder of pictures with a sub-folder for each class, or a .csv")


def _add_pictures(folder: Path, path: Path, drawn: sampler.Drawn) -> list[str]:
    """Copies of the pictures of each class, and drawn ones beside them."""
    names = drawn.spec.cond["label"].names or tuple(map(str, range(drawn.spec.label_classes)))
    assert drawn.labels is not None
    wanted = sorted(set(drawn.labels))
    if lacking := [names[label] for label in wanted if not (path / names[label]).is_dir()]:
        what = f"no sub-folder for the class '{lacking[0]}'"
        raise DataError(what, path=path, fix="name the folder that the model was trained on")
    files = []
    with writers.output(folder):
        for inner in sorted(entry.name for entry in path.iterdir() if entry.is_dir()):
            (folder / inner).mkdir()
            for name in sorted(entry.name for entry in (path / inner).iterdir() if sniff.is_picture_name(entry.name)):
                shutil.copy2(path / inner / name, folder / inner / name)
        counts = dict.fromkeys(wanted, 0)
        for value, label in zip(drawn.values, drawn.labels, strict=True):
            name = f"{names[label]}/generated_{counts[label]:05d}.png"
            writers.save_picture(value, folder / name)
            counts[label] += 1
            files.append(name)
    return files


# -- inputs ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(flag: str) -> Iterator[None]:
    """Errors of data speak of the key that gives a path in training: here it is a flag."""
    try:
        yield
    except DataError as error:
        fix = _SKIP.sub("", error.fix) or "leave it out of the data"
        raise error.with_fix(fix.replace("data.path", flag)) from error.__cause__


def told_of_input() -> contextlib.AbstractContextManager[None]:
    return _told("--input")


def _text_at(path: Path) -> str:
    with told_of_input():
        text = "".join(read_text(sniff.existing(path)))
        if not text.strip():
            raise DataError("the file holds no text", path=path, fix="write into it what is to be gone on from")
        return text


def _inputs(trained: Trained, path: Path | None, count: int | None, console: Console, *, each: int = 1) -> Batch:
    """The first `count` held-out samples of the run, or of the data at a path, `each` times; all of them without a
    count."""
    split = split_of(trained, path, console)
    number = len(split) if count is None else min(count, len(split))
    return split.fetch(torch.arange(number).repeat_interleave(each))


def split_of(trained: Trained, path: Path | None, console: Console, prompts: Sequence[str] | None = None) -> Split:
    """The held-out samples of the run, all of the data at a path, or texts."""
    if prompts is not None:
        return texts_of(prompts, trained)
    with contextlib.nullcontext() if path is None else told_of_input():
        settings = compose_verb("eval", [] if path is None else [f"data.path={path}"])
        config, another = settings.with_data(trained.config)
        prepare(config.data, console)
        data = open_evaluation_data(trained, config, another=another, whole=path is not None)
        for note in data.notes if path is not None else ():
            console.note(f"data: {note}")
        return fitting_split(trained, data)


def texts_of(prompts: Sequence[str], trained: Trained) -> Split:
    """Texts that something is predicted of; pairs of them one after the other, where the model reads pairs."""
    spec = trained.model.spec
    fields = spec.seen.shape[0] if len(spec.seen.shape) > 1 else 1
    if len(prompts) % fields:
        raise ConfigError("this model reads pairs of texts", fix="type --prompt TEXT --prompt TEXT")
    if not all(map(str.strip, prompts)):
        raise ConfigError("a prompt is empty, of which nothing is predicted", fix="type --prompt TEXT")
    lines = [
        "\t".join(" ".join(text.split()) for text in prompts[i : i + fields]) for i in range(0, len(prompts), fields)
    ]
    seen_by = SeenBy(spec, trained.class_names, hold_out_all=True)
    data = build(passages_of_lines(lines, "--prompt", "texts"), trained.config.data, predicts="target", seen_by=seen_by)
    return fitting_split(trained, data)
