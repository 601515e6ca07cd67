"""What the command line does, as functions: train, resume, sample, evaluate. They import torch late."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genai.checkpoint import steps as checkpoint_steps
from genai.config import change_config, compose_train, compose_verb, differences, read_config
from genai.console import Console
from genai.errors import (
    ConfigError,
    DataError,
    GenaiError,
    Interrupted,
    OutOfMemoryError,
    OutputError,
    Reported,
)
from genai.run import RunFolder, find, remove, write_atomically
from genai.schema import Config, PathText, plain

if TYPE_CHECKING:
    from genai.contract import Model
    from genai.device import Runtime


def train(
    model: str,
    *overrides: str,
    config_dirs: Sequence[Path] = (),
    resume: bool = False,
    console: Console | None = None,
) -> RunFolder:
    """Trains `model` with Hydra overrides ("data=digits", "optim.lr=1e-3") and returns its run folder."""
    return train_config(compose_train(model, overrides, config_dirs), resume=resume, console=console)


def train_config(config: Config, *, resume: bool = False, console: Console | None = None) -> RunFolder:
    """Trains as `config` says, in a new run folder, or with `resume` in run.dir from its newest good checkpoint."""
    console = console or Console(log_seconds=config.trainer.log_seconds)
    if resume and config.run.dir is None:
        raise ConfigError("--resume needs the folder to go on in", fix="type run.dir=FOLDER, or genai resume RUN")
    if resume and (Path(str(config.run.dir)) / "run.json").exists():
        run = RunFolder.reopen(Path(str(config.run.dir)))
        if "config.json" not in run.info.documents:  # killed before it began
            return _train_locked(run, config, console, resumed=False)
        try:
            stored = _stored_config(run)
            config = replace(config, run=stored.run, data=_with_codec(config, stored))
            _record_changes(run, config, differences(stored, config), console)
        except BaseException:
            run.close()
            raise
        return _train_locked(run, config, console, resumed=True)
    run = RunFolder.create(config.run, model=config.model.name)
    return _train_locked(run, config, console, resumed=False)


def resume(reference: str | Path, *overrides: str, console: Console | None = None) -> RunFolder:
    """Goes on with a run, also with changed settings; each change is shown and recorded."""
    run = RunFolder.reopen(find(str(reference), runs_root()))
    try:
        config, changes = change_config(_stored_config(run), overrides)
        console = console or Console(log_seconds=config.trainer.log_seconds)
        _record_changes(run, config, changes, console)
    except BaseException:
        run.close()
        raise
    return _train_locked(run, config, console, resumed=True)


def sample(
    reference: str | Path | None = None,
    *overrides: str,
    count: int | None = None,
    seed: int = 0,
    labels: Sequence[str] | None = None,
    out: str | Path | None = None,
    step: str = "latest",
    batch_size: int | None = None,
    raw: bool = False,
    format: Literal["files", "npz"] = "files",
    console: Console | None = None,
) -> Path:
    """Draws `count` samples (of each label, where labels are named) and returns the folder they are written to."""
    settings = compose_verb("sample", overrides)
    path = find(None if reference is None else str(reference), runs_root())
    folder = _new_folder(Path(out) if out is not None else None, path)
    import numpy as np

    from genai import sampler, writers
    from genai.factory import open_trained

    console = console or Console()
    count = 16 if count is None else count
    began = time.monotonic()
    trained = open_trained(
        path, device=settings.device, dtype=settings.dtype, threads=settings.threads, step=step, raw=raw
    )
    runtime = trained.runtime
    console.note(f"device: {runtime}")
    spec = trained.spec
    indices = None if labels is None else [sampler.label_index(spec, label) for label in labels]
    plan = sampler.plan(spec, seed=seed, count=count, labels=indices)
    with _memory_errors("sampling.batch_size", settings.sampling.batch_size):
        size = batch_size or settings.sampling.batch_size
        batches = [batch.numpy() for batch in sampler.samples(trained, plan, runtime, batch_size=size)]
    values = np.concatenate(batches)
    checkpoint = trained.checkpoint
    texts = {"genai:seed": str(seed), "genai:step": str(checkpoint.step), "genai:checkpoint": checkpoint.sha256}
    if format == "npz":
        writers.write_npz(folder, values, plan.labels, trained.output)
        files = ["samples.npz"]
    else:
        files = writers.write_files(folder, values, plan.labels, trained.output, texts)
    record = {
        "run": path.name,
        "model": trained.config.model.name,
        "step": checkpoint.step,
        "checkpoint_sha256": checkpoint.sha256,
        "seed": seed,
        "count": len(values),
        "options": {
            "count": count,
            "label": None if labels is None else list(labels),
            "batch_size": size,
            "raw": raw,
            "format": format,
            "device": str(runtime.device),
            "dtype": runtime.precision,
            "sampling": plain(settings.sampling),
        },
        "labels": None if plan.labels is None else list(plan.labels),
        "files": files,
        "seconds": round(time.monotonic() - began, 3),
    }
    with writers.output(folder):
        (folder / "samples.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder


def evaluate(
    reference: str | Path | None = None,
    *overrides: str,
    step: str = "latest",
    raw: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Held-out figures of a run; also written to RUN/eval/<name>.json. `data.*` overrides choose other data."""
    settings = compose_verb("eval", overrides)
    path = find(None if reference is None else str(reference), runs_root())
    from genai.evaluation import held_out_figures
    from genai.factory import open_dataset, open_trained

    console = console or Console()
    trained = open_trained(
        path, device=settings.device, dtype=settings.dtype, threads=settings.threads, step=step, raw=raw
    )
    runtime = trained.runtime
    console.note(f"device: {runtime}")
    data = open_dataset(settings.with_data(trained.config), trained.codec)
    with _memory_errors("sampling.batch_size", settings.sampling.batch_size):
        figures = held_out_figures(trained, data, runtime, batch_size=settings.sampling.batch_size)
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
    home = trained.checkpoint.path.parent.parent
    folder = (home if (home / "run.json").is_file() else path) / "eval"
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{data.name}.json", json.dumps(measured, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write the figures: {error.strerror}", path=folder, fix="make it writable") from error
    return measured


def runs_root() -> Path:
    return Path(os.environ.get("GENAI_RUNS") or "runs")


# -- the inside of a training ------------------------------------------------------------------------------------------


def _stored_config(run: RunFolder) -> Config:
    return read_config(run.document("config.json"), path=run.path)


def _with_codec(config: Config, stored: Config) -> Any:
    """The codec of a run that goes on is the one inside it, by whatever path it was named first."""
    return replace(config.data, codec=stored.data.codec) if stored.data.codec is not None else config.data


def _record_changes(run: RunFolder, config: Config, changes: Sequence[Any], console: Console) -> None:
    for change in changes:
        _note(run, console, f"changed {change}")
    if changes:
        run.write_document("config.json", plain(config))
        run.update(changes=[*run.info.changes, *({**plain(change), "step": run.info.steps} for change in changes)])


def _train_locked(run: RunFolder, config: Config, console: Console, *, resumed: bool) -> RunFolder:
    """Trains in a run folder whose lock is held, in this process or in several, and leaves its status behind."""
    try:
        run.update(status="running", error=None)
        if not resumed:
            config = _prepare(run, config)
            run.write_document("config.json", plain(config))
        if config.trainer.devices > 1:
            _train_in_ranks(run, config, resumed)
        else:
            train_here(run, config, console, resumed=resumed)
        run.update(status="finished")
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        run.update(status="stopped" if stopped else "failed", error=None if stopped else " ".join(str(error).split()))
        console.stop()
        run.close()
        if not resumed and _never_began(run, error):
            with suppress(GenaiError):  # the error that is on its way says more
                remove(run.path)
        raise
    console.stop()
    run.close()
    path = shlex.quote(str(run.path))
    console.note(f"done; next: genai sample {path}, genai eval {path}")
    return run


def _never_began(run: RunFolder, error: BaseException) -> bool:
    """Whether a mistake in the settings or the data ended a run before it held anything: then the folder goes, so that
    the mended command finds its place free."""
    mistakes = (ConfigError.exit_code, DataError.exit_code)
    mistaken = isinstance(error, GenaiError) and error.exit_code in mistakes
    return mistaken and run.info.steps == 0 and not checkpoint_steps(run.checkpoints)


def _prepare(run: RunFolder, config: Config) -> Config:
    """The first stage is copied into the run, which then needs its own run no more."""
    if config.data.codec is None:
        return config
    from genai.factory import adopt_codec

    adopt_codec(find(str(config.data.codec), runs_root()), run)
    return replace(config, data=replace(config.data, codec=PathText("codec")))


def _train_in_ranks(run: RunFolder, config: Config, resumed: bool) -> None:
    from genai.launch.local import run_ranks

    command = [sys.executable, "-m", "genai.worker", str(run.path), *(["--resume"] if resumed else [])]
    code = run_ranks(command, config.trainer.devices)
    run.refresh()
    if code in (130, 143):
        fix = f"type genai resume {shlex.quote(str(run.path))}"
        raise Interrupted(f"stopped at step {run.info.steps}, saved", signal=code - 128, fix=fix)
    if code:
        raise Reported(code)


def train_here(run: RunFolder, config: Config, console: Console, *, resumed: bool) -> None:
    """Trains in this process, which may be one of several: only the first writes into the run folder."""
    from genai import checkpoint as checkpoints
    from genai import device
    from genai.checkpoint import load_weights
    from genai.factory import build_model, locate, open_codec, open_dataset
    from genai.trainer import Trainer

    runtime = device.start(
        config.device,
        config.dtype,
        config.compile,
        deterministic=config.deterministic,
        threads=config.threads,
        timeout_seconds=config.trainer.timeout_seconds,
    )
    try:
        if runtime.main:
            run.warn = console.warn
            _note(run, console, f"device: {runtime}")
        codec = open_codec(run.codec, runtime) if config.data.codec is not None else None
        data = open_dataset(config, codec)
        runtime.seed(config.seed)
        model = build_model(config, data.spec)
        runtime.place(model)
        if config.model.init_from is not None and not resumed:
            _, source = locate(find(str(config.model.init_from), runs_root()))
            load_weights(model, source, "ema" if source.has("ema") else "model")
        with _memory_errors("trainer.accumulate", config.trainer.accumulate):
            trainer = Trainer(
                model=model,
                data=data,
                config=config,
                runtime=runtime,
                console=console,
                run=run if runtime.main else None,
                preview=_previewer(run, model, config, runtime, codec) if runtime.main else None,
            )
            newest = checkpoints.newest(run.checkpoints, warn=console.warn if runtime.main else _silent)
            if newest is not None:
                trainer.restore(newest)
            if runtime.main:
                run.truncate_metrics(trainer.state.step)
                _describe(run, model, trainer, console, started=newest is None)
            trainer.fit()
    finally:
        runtime.close()


def _silent(message: str) -> None:
    """A warning that the first process gives already."""


def _note(run: RunFolder, console: Console, text: str) -> None:
    console.note(text)
    run.log(text)


def _describe(run: RunFolder, model: Model, trainer: Any, console: Console, *, started: bool) -> None:
    """Notes what is trained on what, for the reader and in run.json."""
    config, runtime, data = trainer.config, trainer.runtime, trainer.data
    parameters = sum(p.numel() for p in model.parameters())
    held_out = 0 if data.valid is None else len(data.valid)
    shape = "x".join(map(str, data.spec.shape))
    classes = data.spec.label_classes or data.spec.classes or "no"
    counts = f"{len(data.train):,} samples + {held_out:,} held out"
    _note(run, console, f"data: {data.name}, {counts}, {data.spec.modality} {shape}, {classes} classes")
    for text in data.notes:
        _note(run, console, f"data: {text}")
    _note(run, console, f"model: {config.model.name}, {parameters:,} parameters; run: {run.path}")
    if not started:
        _note(run, console, f"resumed from step {trainer.state.step} (verified)")
    run.write_document("spec.json", plain(data.spec))
    run.update(
        data=data.name,
        parameters=parameters,
        device=str(runtime.device),
        dtype=runtime.precision,
        versions={"genai": version("genai-trainer"), "torch": version("torch"), "python": sys.version.split()[0]},
        git=_git_commit(),
        split_fingerprint=data.fingerprint,
    )
    console.start(f"{config.model.name} on {data.name}")


def _previewer(run: RunFolder, model: Model, config: Config, runtime: Runtime, codec: Any) -> Any:
    """Draws the fixed plan of previews into RUN/previews/<step>.png; None for a model that does not draw data."""
    from genai import sampler, writers

    if model.predicts != "data":
        return None
    spec = model.spec
    output = spec if codec is None else codec.decoded(spec)
    plan = sampler.preview_plan(spec, output)

    def preview(averaged: Model, step: int) -> None:
        import numpy as np

        batches = sampler.draw(averaged, plan, runtime, batch_size=min(len(plan), config.sampling.batch_size))
        decoded = [sampler.data_units(x if codec is None else codec.decode(x), output).numpy() for x in batches]
        path = run.previews / f"{step:08d}.png"
        with writers.output(run.previews):
            path.parent.mkdir(exist_ok=True)
        writers.write_overview(path, np.concatenate(decoded), plan.labels, output, {"genai:step": str(step)})

    return preview


def _new_folder(asked: Path | None, path: Path) -> Path:
    """The folder samples go to, made and writable before anything heavy starts. Raises OutputError."""
    home = path if (path / "run.json").is_file() else path.resolve().parent.parent
    if asked is None and not (home / "run.json").is_file():
        raise OutputError("this checkpoint lies in no run folder", path=path, fix="type --out DIR")
    folder = asked if asked is not None else home / "samples" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
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
    return attempt


@contextmanager
def _memory_errors(key: str, value: int) -> Iterator[None]:
    """Running out of memory, wherever it happens, becomes an error that says what to type."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in text:
            raise
        smaller = f"{key}={value * 2}" if key.endswith("accumulate") else f"{key}={max(1, value // 2)}"
        first = text.splitlines()[0] if text else "no memory left"
        raise OutOfMemoryError(f"out of memory: {first}", fix=f"type {smaller}") from error


def _git_commit() -> str | None:
    """The commit of the folder the command runs in, with + when it has changes; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


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
