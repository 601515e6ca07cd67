"""What the command line does, as functions: train, resume, sample, evaluate. They import torch late."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from genai import training
from genai.checkpoint import MANIFEST
from genai.config import Change, change_config, compose_train, compose_verb, differences
from genai.console import Console
from genai.documents import write_atomically
from genai.errors import ConfigError, DataError, OutputError
from genai.run import RunFolder, has_begun, home
from genai.run_index import find, runs_root
from genai.schema import Config, SamplingConfig, Task
from genai.signals import held_back

if TYPE_CHECKING:
    from genai.factory import Trained
    from genai.samples import Asked

_FORMATS = ("files", "npz")
Reference = str | Path | RunFolder | None  # a run or checkpoint folder, @last, @best:METRIC, part of a name, a run


def train(
    model: str,
    *overrides: str,
    config_dirs: Sequence[Path] = (),
    resume: bool = False,
    console: Console | None = None,
) -> RunFolder:
    """Trains `model` with Hydra overrides ("data=digits", "optim.lr=1e-3") and returns its run folder."""
    _require_texts(model, *overrides)
    return train_config(compose_train(model, overrides, config_dirs), resume=resume, console=console)


def train_config(config: Config, *, resume: bool = False, console: Console | None = None) -> RunFolder:
    """Trains as `config` says, in a new run folder, or with `resume` in run.dir from its newest good checkpoint."""
    console = console or Console(log_seconds=config.trainer.log_seconds)
    if resume and config.run.dir is None:
        raise ConfigError("--resume needs the folder to go on in", fix="type run.dir=FOLDER, or genai resume RUN")
    if resume and has_begun(Path(str(config.run.dir))):
        run = RunFolder.reopen(Path(str(config.run.dir)))
        return training.go_on(run, lambda stored: _asked_again(config, stored), console)
    with held_back():  # until the training answers: a run that never began leaves no folder behind
        run = RunFolder.create(config.run, model=config.model.name)
        return training.train(run, training.Plan(config), console)


def resume(reference: Reference, *overrides: str, console: Console | None = None) -> RunFolder:
    """Goes on with a run, also with changed settings; each change is shown and recorded."""
    _require_texts(*overrides)
    run = RunFolder.reopen(_path_of(reference))
    return training.go_on(run, lambda stored: change_config(stored, overrides), console)


def _asked_again(config: Config, stored: Config) -> tuple[Config, list[Change]]:
    """A whole configuration for a run that exists; its codec is the one inside it, by whatever path it was named."""
    codec = stored.data.codec if stored.data.codec is not None else config.data.codec
    config = replace(config, run=stored.run, data=replace(config.data, codec=codec))
    return config, differences(stored, config)


def sample(
    reference: Reference = None,
    *overrides: str,
    count: int | None = None,
    seed: int = 0,
    labels: Sequence[str | int] | None = None,
    prompts: Sequence[str] | None = None,
    out: str | Path | None = None,
    step: str | int = "auto",
    batch_size: int | None = None,
    raw: bool = False,
    format: Literal["files", "npz"] = "files",
    task: Task | None = None,
    input: str | Path | None = None,
    mask: str | Path | None = None,
    strength: float | None = None,
    append_to: str | Path | None = None,
    per_class: int | None = None,
    console: Console | None = None,
) -> Path:
    """Draws `count` samples (of each label and of each prompt, where some are named; one of a prompt by default) and
    returns the folder they are written to.

    Without a task the model does what it does by itself: "generate", or "reconstruct" where nothing can be drawn. With
    task="interpolate": closed paths through `count` samples, sampling.frames from each to the next, or through the
    first `count` at `input`. With "reconstruct", "encode", "vary" and "impute": what becomes of the first `count` of
    `input` ("encode": of all), by default of the run's held-out data; `strength` says how far those that are varied go
    (0 to 1), `mask` what is missing of those that are imputed (a picture, white there, or an .npy array). With
    "traverse": the first input led along the `count` longest axes of the latents. Of a table the empty cells of `input`
    are imputed, without a mask: by one value each, or by each of `count` draws. With `append_to`: what was trained on,
    and `per_class` drawn samples of each class beside it, as a training set.
    """
    _require_texts(*overrides)
    good = task in (None, *get_args(Task)) and (count is None or (type(count) is int and 0 < count <= 10**7))
    good &= type(seed) is int and 0 <= seed < 2**63 and 0 <= (strength or 0) <= 1 and format in _FORMATS
    good &= per_class is None or (type(per_class) is int and 0 < per_class <= 10**6)
    good &= all(given is None or (isinstance(given, list | tuple) and len(given) > 0) for given in (labels, prompts))
    if not good or not all(isinstance(prompt, str) for prompt in prompts or ()):
        what = f"{count=}, {seed=}, {labels=}, {prompts=}, {format=}, {task=}, {strength=}, {per_class=}"
        fix = "count and per_class from 1, seed from 0, labels and prompts as lists, format 'files' or 'npz', "
        fix += f"strength 0 to 1, task one of {', '.join(get_args(Task))}"
        raise ConfigError(what, fix=fix)
    given = [*overrides, *([] if batch_size is None else [f"sampling.batch_size={batch_size}"])]
    settings = compose_verb("sample", given)
    path = _path_of(reference)
    with _output_folder(None if out is None else _at_home(Path(out)), path) as folder:
        from genai import samples, writers
        from genai.factory import open_trained

        asked = samples.Asked(
            count=count,
            seed=seed,
            labels=None if labels is None else [str(label) for label in labels],
            prompts=prompts,
            raw=raw,
            format=format,
            task=task,
            input=None if input is None else Path(input),
            mask=None if mask is None else Path(mask),
            strength=strength,
            append_to=None if append_to is None else Path(append_to),
            per_class=per_class,
        )
        asked.check()
        writers.refuse_foreign(folder)
        console = console or Console()
        trained = open_trained(
            path, device=settings.device, dtype=settings.dtype, threads=settings.threads, step=str(step), raw=raw
        )
        sampling = settings.sampling_of(trained.config)
        if trained.model.predicts != "data" or task == "predict":
            if trained.model.predicts == "data":
                raise ConfigError("this model predicts nothing, it draws samples", fix="leave out --task predict")
            refused = {
                "--label": labels,
                "--prompt": prompts,
                "--append-to": append_to,
                f"--task {task}": None if task == "predict" else task,
            }
            if trained.spec.seen.tokenizer and input is None:
                del refused["--prompt"]
            if trained.spec.modality == "ratings":
                del refused["--label"]
            for flag, value in refused.items():
                if value is not None:
                    raise ConfigError(f"{flag} says nothing to a model that predicts", fix="leave it out")
            return _predict(trained, folder, asked, sampling, console)
        samples.write(trained, asked, sampling, folder, console)
    return folder


def _predict(trained: Trained, folder: Path, asked: Asked, sampling: SamplingConfig, console: Console) -> Path:
    """Writes predictions.csv for the held-out data of the run, for what is at a path, for named users, or for texts."""
    from genai import predictions, recommendations, writers
    from genai.factory import check_sampling
    from genai.samples import split_of

    began = time.monotonic()
    console.note(f"device: {trained.runtime}")
    check_sampling(trained.model, sampling, trained.config.sampling)
    count, labels = asked.count, asked.labels
    if labels is not None and asked.input is not None:
        raise ConfigError("--label and --input both name users", fix="leave one of them out")
    split = None if labels is not None else split_of(trained, asked.input, console, asked.prompts)
    about: dict[str, Any] = {}
    if trained.spec.modality == "ratings":
        if split is None:
            recommended = recommendations.for_labels(trained, labels or (), count, sampling)
        else:
            recommended = recommendations.for_split(trained, split, count, sampling)
        writers.clear(folder)
        files, number = recommendations.write(folder, recommended, trained.spec), len(recommended)
        recommendations.show(recommended, trained.spec, console)
    else:
        assert split is not None
        found = predictions.answers(trained.model, split, trained.runtime, sampling, count)
        writers.clear(folder)
        files, number = predictions.write(folder, found, split.file_of), len(found)
        about = {"names": list(found.names)}
    record = {
        "run": trained.config.model.name if trained.run is None else trained.run.info.name,
        "model": trained.config.model.name,
        "step": trained.checkpoint.step,
        "checkpoint_sha256": trained.checkpoint.sha256,
        "count": number,
        "options": {
            "count": count,
            "label": labels,
            "task": "predict",
            "input": None if asked.input is None else str(asked.input),
        },
        **about,
        "files": files,
        "seconds": round(time.monotonic() - began, 3),
    }
    writers.write_record(folder, record)
    return folder


def chat(
    reference: Reference = None,
    *overrides: str,
    said: Iterable[str],
    seed: int = 0,
    step: str | int = "auto",
    raw: bool = False,
    console: Console | None = None,
) -> Iterator[str]:
    """The answers of a model of conversations to what is said, one after the other. Raises ConfigError for another
    model."""
    _require_texts(*overrides)
    settings = compose_verb("sample", overrides)
    from genai.factory import check_sampling, open_trained
    from genai.text_samples import Conversation

    console = console or Console()
    trained = open_trained(
        _path_of(reference),
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        step=str(step),
        raw=raw,
    )
    if not trained.model.spec.dialogue:
        fix = "type --prompt TEXT, or train on .jsonl with prompt and response"
        raise ConfigError("this model learned no conversations", fix=fix)
    if given := trained.model.spec.given:
        fix = f"type --prompt '{given[0]}: TEXT'"
        raise ConfigError(f"this model writes texts by their {', '.join(given)}, it has no conversations", fix=fix)
    sampling = settings.sampling_of(trained.config)
    check_sampling(trained.model, sampling, trained.config.sampling)
    conversation = Conversation(trained.model, trained.runtime, sampling, seed=seed)
    for line in said:
        try:
            yield conversation.answer(line)
        except DataError as error:
            console.warn(error.lines()[0])


def evaluate(
    reference: Reference = None,
    *overrides: str,
    step: str | int = "auto",
    raw: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Held-out figures of a run; also written to RUN/eval/<name>.json. `data.*` overrides choose other data."""
    _require_texts(*overrides)
    settings = compose_verb("eval", overrides)
    path = _path_of(reference)
    from genai import predictions, table_tasks
    from genai.data.downloaded import prepare
    from genai.device import memory_errors
    from genai.evaluation import held_out_figures
    from genai.factory import check_sampling, open_evaluation_data, open_trained

    console = console or Console()
    trained = open_trained(
        path, device=settings.device, dtype=settings.dtype, threads=settings.threads, step=str(step), raw=raw
    )
    runtime = trained.runtime
    console.note(f"device: {runtime}")
    config, another = settings.with_data(trained.config)
    prepare(config.data, console)
    data = open_evaluation_data(trained, config, another=another)
    sampling = settings.sampling_of(trained.config)
    check_sampling(trained.model, sampling, trained.config.sampling)
    with memory_errors(f"type sampling.batch_size={max(1, sampling.batch_size // 2)}"):
        figures: dict[str, Any] = held_out_figures(trained, data, runtime, sampling)
        answers = None
        if trained.model.predicts == "data" and trained.model.draws and trained.output.modality == "table":
            figures |= table_tasks.figures(trained, data, sampling, seed=trained.config.seed)
        if trained.model.predicts == "target" and data.valid is not None and trained.spec.modality != "ratings":
            answers = predictions.answers(trained.model, data.valid, runtime, sampling)
            figures |= answers.figures()
    measured: dict[str, Any] = {
        **figures,
        "data": data.name,
        "split": data.fingerprint,
        "num_held_out": len(data.valid) if data.valid is not None else 0,
        "step": trained.checkpoint.step,
        "checkpoint_sha256": trained.checkpoint.sha256,
        "weights": "raw" if raw or not trained.checkpoint.has("ema") else "ema",
        "device": str(runtime.device),
        "dtype": runtime.precision,
    }
    if trained.run is None:
        console.warn("the figures are not kept: this checkpoint lies in no run folder")
        return measured
    folder = trained.run.path / "eval"
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{data.name}.json", json.dumps(measured, indent=2) + "\n")
        if answers is not None:
            what, picture = answers.picture()
            if picture is not None:
                picture.save(folder / f"{data.name}.{what}.png")
    except OSError as error:
        raise OutputError(f"cannot write the figures: {error.strerror}", path=folder, fix="make it writable") from error
    return measured


def _require_texts(*texts: object) -> None:
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise ConfigError(f"{odd[0]!r} is no text", fix="pass the model's name, and settings as 'KEY=VALUE'")


def _path_of(reference: Reference) -> Path:
    if isinstance(reference, RunFolder):
        return reference.path
    if not isinstance(reference, str | Path | None):
        raise ConfigError(f"{reference!r} is no run", fix="pass a path, a name or what train returned")
    return find(None if reference is None else str(reference), runs_root())


def _at_home(path: Path) -> Path:
    """With a leading ~/ read as the home folder, which a shell does not do in --out=~/x."""
    return path.expanduser() if str(path).startswith("~/") and not Path("~").exists() else path


@contextlib.contextmanager
def _output_folder(asked: Path | None, path: Path) -> Iterator[Path]:
    """The folder samples go to, made and writable before anything heavy starts; gone again if it stays empty.

    Raises OutputError.
    """
    run = home(path)
    if asked is None and run is None:
        raise OutputError("this checkpoint lies in no run folder", path=path, fix="type --out DIR")
    if asked is not None and (asked / MANIFEST).exists():
        raise OutputError("a checkpoint holds nothing else", path=asked, fix="type --out DIR for another folder")
    folder = asked if asked is not None else Path(run or path) / "samples" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    attempt = folder
    try:
        number = 1
        while asked is None and attempt.exists():
            number += 1
            attempt = folder.with_name(f"{folder.name}-{number}")
        attempt.mkdir(parents=True, exist_ok=True)
        (attempt / ".writable").touch()
        (attempt / ".writable").unlink()
    except OSError as error:
        raise OutputError(f"cannot write here: {error.strerror}", path=folder, fix="type --out DIR") from error
    try:
        yield attempt
    except BaseException:
        with contextlib.suppress(OSError):  # it is not empty
            attempt.rmdir()
        raise


def doctor() -> list[tuple[str, str, bool]]:
    """Versions, devices, threads, and a short training check of each device against the CPU: (what, found, good)."""
    import torch

    from genai import device

    rows = [(name, version(name), True) for name in ("genai-trainer", "torch", "hydra-core", "typer", "safetensors")]
    rows.insert(0, ("python", sys.version.split()[0], sys.version_info >= (3, 11)))
    rows.append(("CPUs for this process", str(device.available_cpus()), True))
    rows.append(("torch threads", str(torch.get_num_threads()), True))
    for name in device.devices():
        difference = device.training_check(name)
        rows.append(
            (f"device {name}", f"losses of 5 steps differ from the CPU's by {difference:.1e}", difference < 1e-3)
        )
    return rows
