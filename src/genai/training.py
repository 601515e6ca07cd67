"""A training from its settings to its end: the run folder's status, one process or several, signals on the way."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from genai.config import Change, read_config
from genai.console import Console
from genai.errors import (
    CheckpointError,
    ConfigError,
    GenaiError,
    Interrupted,
    PeerLostError,
    Reported,
    counted,
    to_resume,
)
from genai.run import RunFolder
from genai.run_index import find, runs_root
from genai.schema import Config, PathText, SamplingConfig, plain
from genai.signals import interrupting

if TYPE_CHECKING:
    from torch import Tensor

    from genai.contract import Model
    from genai.trainer import Trainer


_FEW_SAMPLES = 50
_MOST_PER_CPU = 4  # processes of one training


@dataclass(frozen=True)
class Plan:
    """What a training is to do: a new run, or one that goes on with these changes of its settings."""

    config: Config
    resumed: bool = False
    changes: tuple[Change, ...] = ()


def go_on(
    run: RunFolder, change: Callable[[Config], tuple[Config, list[Change]]], console: Console | None
) -> RunFolder:
    """Trains on in a run that is open. Nothing in it changes before training has begun."""
    try:
        if run.info.starts == 0:
            fix = f"type genai train {run.info.model} run.dir={shlex.quote(str(run.path))}"
            raise CheckpointError("this run was killed before it began", path=run.path, fix=fix)
        config, changes = change(read_config(run.document("config.json"), path=run.path))
    except BaseException:
        run.close()
        raise
    console = console or Console(log_seconds=config.trainer.log_seconds)
    return train(run, Plan(config, True, tuple(changes)), console)


def train(run: RunFolder, plan: Plan, console: Console) -> RunFolder:
    """Trains in a run folder whose lock is held, in this process or in several, and leaves its status behind."""
    from genai.data.downloaded import prepare

    starts = run.info.starts
    try:
        with interrupting() as received:
            try:
                if not plan.resumed:
                    plan = replace(plan, config=_with_own_codec(run, plan.config))
                prepare(plan.config.data, console)
                if plan.config.trainer.devices > 1:
                    _train_in_ranks(run, plan, console)
                else:
                    train_here(run, plan, console)
                run.update(status="finished")
            except KeyboardInterrupt as error:
                raise _interrupted(run, received[0] if received else signal.SIGINT) from error
    except BaseException as error:
        if run.info.starts > starts:
            run.note_error(error)
            if isinstance(error, GenaiError):
                error.run = run.path
        elif not plan.resumed:
            run.discard()
        raise
    finally:
        console.stop()
        run.close()
    path = shlex.quote(str(run.path))
    console.note(f"done; next: genai sample {path}, genai eval {path}")
    return run


def _interrupted(run: RunFolder, number: int) -> Interrupted:
    if run.info.checkpoint is None:
        return Interrupted("stopped before anything was saved", signal=number)
    fix = f"type {to_resume(run.path)}"
    return Interrupted(f"stopped, saved at step {run.info.steps}", signal=number, fix=fix)


def _with_own_codec(run: RunFolder, config: Config) -> Config:
    """The first stage is copied into the run, which then needs its own run no more."""
    if config.data.codec is None:
        return config
    from genai.factory import adopt_codec

    adopt_codec(find(str(config.data.codec), runs_root()), run, threads=config.threads)
    return replace(config, data=replace(config.data, codec=PathText("codec")))


def _train_in_ranks(run: RunFolder, plan: Plan, console: Console) -> None:
    from genai.launch.local import run_ranks

    told = {
        "run": str(run.path),
        "config": plain(plan.config),
        "resumed": plan.resumed,
        "changes": [plain(change) for change in plan.changes],
        "quiet": console.quiet,
    }
    # -P: the current folder is the user's, and no place to import from.
    command, count = [sys.executable, "-P", "-m", "genai.worker"], plan.config.trainer.devices
    most = _MOST_PER_CPU * (os.cpu_count() or 1)
    if count > most:
        what = f"trainer.devices={count:,}: so many processes would bring this machine to a halt"
        raise ConfigError(what, fix=f"type {most} at most; one for each GPU, or for every few CPUs, is best")
    try:
        ended = run_ranks(command, count, json.dumps(told).encode() + b"\n")
    finally:
        run.refresh()
    if ended.killed_by:
        fix = f"type {to_resume(run.path)}" if run.info.checkpoint else ""
        raise PeerLostError(f"process {ended.rank} of {count} was killed by signal {ended.killed_by}", fix=fix)
    if ended.code > 128:
        raise _interrupted(run, ended.code - 128)
    if ended.code:
        raise Reported(ended.code, run.info.error)


def train_here(run: RunFolder, plan: Plan, console: Console) -> None:
    """Trains in this process, which may be one of several: only the first writes into the run folder."""
    from genai import checkpoint as checkpoints
    from genai import device
    from genai.checkpoint import load_fitting
    from genai.contract import Prepares
    from genai.factory import (
        build_model,
        check_sampling,
        checked_config,
        checked_spec,
        locate,
        open_codec,
        open_dataset,
        require_continuable,
        require_first_stage,
    )
    from genai.trainer import Trainer

    config = plan.config
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
            console.note(f"device: {runtime}")
        smaller = f"trainer.accumulate={2 * config.trainer.accumulate} for smaller steps, or a smaller net.width"
        remedy = f"type {smaller}" + " or data.size" * (config.data.size is not None)
        with device.memory_errors(remedy), device.compile_errors():
            codec = open_codec(run.codec, runtime) if config.data.codec is not None else None
            warn = console.warn if runtime.main else _silent
            newest = checkpoints.newest(run.checkpoints, warn=warn, run_id=run.id)
            source = None
            if config.model.init_from is not None and newest is None:
                _, source = locate(find(str(config.model.init_from), runs_root()))
            before = newest or source
            data = open_dataset(config, codec, tokenizer="" if before is None else checked_spec(before).seen.tokenizer)
            runtime.seed(config.seed)
            model = build_model(config, data.spec)
            sampled_before = SamplingConfig() if newest is None else checked_config(newest).sampling
            check_sampling(model, config.sampling, sampled_before)
            if config.sampling.guide is not None:
                raise ConfigError("sampling.guide is of genai sample alone", fix="give it there, once both are trained")
            data = data.heard_by(model.spec)
            runtime.place(model)
            if source is not None:
                require_continuable(model, config, source, data.spec)
                left = load_fitting(model, source, "ema" if source.has("ema") else "model")
                if left and runtime.main:
                    shown = ", ".join(left[:4]) + ", ..." * (len(left) > 4)
                    console.note(f"model.init_from: {len(left)} tensors do not fit and start anew: {shown}")
            if isinstance(model, Prepares):
                split = data.train.to(runtime.device)
                model.prepare(split.fetch, len(split), config.seed)
            trainer = Trainer(
                model=model,
                data=data,
                config=config,
                runtime=runtime,
                console=console,
                run=run if runtime.main else None,
            )
            if runtime.main:
                trainer.preview = _previewer(run, trainer, codec)
            if newest is not None:
                require_first_stage(checked_spec(newest), data.spec.first_stage, run)
                trainer.restore(newest)
            trainer.check_stop_metric()
            if runtime.main:
                _begin(run, plan, model, trainer, console, started=newest is None)
            trainer.fit()
    finally:
        runtime.close()


def _silent(message: str) -> None:
    """A warning that the first process gives already."""


def _begin(run: RunFolder, plan: Plan, model: Model, trainer: Trainer, console: Console, *, started: bool) -> None:
    """Notes what is trained on what, for the reader and in the run folder, which changes from here on."""
    config, runtime, data = trainer.config, trainer.runtime, trainer.data
    parameters = sum(p.numel() for p in model.parameters())
    held_out = 0 if data.valid is None else len(data.valid)
    seen = data.spec.seen
    shape = "x".join(map(str, seen.shape))
    if data.spec.modality == "text":
        shape = f"in windows of {data.spec.num_predicted} ids"
    elif seen.modality == "text":
        shape = f"of up to {seen.shape[-1]:,} ids"
    classes = f"{data.spec.label_classes or data.spec.classes or 'no'} classes"
    if data.spec.modality == "ratings":
        seen, shape, classes = data.spec, "of users", f"{data.spec.classes:,} items"
    if data.spec.modality == "value":
        classes = "a number"
    if data.spec.prompt_length:
        classes += f", captions of up to {data.spec.prompt_length} bytes"
    changes = [{**plain(change), "step": trainer.state.step} for change in plan.changes]
    run.check_metrics(trainer.state.step)
    run.begin(
        plain(config),
        plain(data.spec),
        changes=[*run.info.changes, *changes],
        data=data.name,
        parameters=parameters,
        device=str(runtime.device),
        dtype=runtime.precision,
        versions={"genai": version("genai-trainer"), "torch": version("torch"), "python": sys.version.split()[0]},
        git=_git_commit(),
        split={
            "train": len(data.train),
            "held_out": held_out,
            "valid_fraction": config.data.valid_fraction,
            "split_seed": config.data.split_seed,
            "sha256": data.fingerprint,
        },
    )
    run.truncate_metrics(trainer.state.step)
    run.log(f"device: {runtime}")
    counts = f"{counted(len(data.train), 'sample')} + {held_out:,} held out"
    lines = [f"changed {change}" for change in plan.changes]
    classes = "" if data.spec.modality == "text" else f", {classes}"
    lines += [f"data: {data.name}, {counts}, {seen.modality} {shape}{classes}"]
    lines += [f"data: {text}" for text in data.notes]
    lines += [f"model: {config.model.name}, {parameters:,} parameters; run: {run.path}"]
    with trainer.runtime.autocast():
        lines += [f"model: {text}" for text in model.notes()]
    if trainer.operations and (ids := data.spec.num_predicted):
        each = trainer.operations / ids
        mfu = "" if trainer.peak else "; MFU n/a: the peak of this device is not known"
        lines += [f"model: {each:,.0f} operations an id in training (6 a weight, 12 a layer, place and width){mfu}"]
    lines += [] if started else [f"resumed from step {trainer.state.step} (verified)"]
    for line in lines:
        console.note(line)
        run.log(line)
    for warning in _few(len(data.train), config.trainer.batch_size):
        console.warn(warning)
        run.log(f"warning: {warning}")
    if trainer.budget.used_up(trainer.state):
        more = f"{to_resume(run.path)} trainer.max_steps={2 * trainer.state.step or 1000}"
        console.warn(f"its budget is used up, nothing is left to train; to go on further: {more}")
    console.start(f"{config.model.name} on {data.name}")


def _few(num_samples: int, batch_size: int | Literal["all"]) -> list[str]:
    """What is to be said of a set that is smaller than trainings need."""
    told, samples = [], counted(num_samples, "sample")
    if batch_size != "all" and batch_size > num_samples:
        told.append(
            f"trainer.batch_size is {batch_size}, there are no more than {samples}: each step takes all of them"
        )
    if num_samples < _FEW_SAMPLES:
        told.append(f"{samples}, which training learns by heart: nothing new can come of so few - add data")
    return told


def _previewer(run: RunFolder, trainer: Trainer, codec: Any) -> Any:
    """Draws the fixed plan of previews into RUN/previews/<step>.png, or fixed held-out samples reconstructed by a model
    that draws nothing itself; None for a model that does not draw data."""
    import numpy as np

    from genai import sampler, writers
    from genai.health import Diversity

    if trainer.model.predicts != "data":
        return None
    spec, config, runtime = trainer.model.spec, trainer.config, trainer.runtime
    if spec.tokenizer:
        return _text_previewer(run, trainer)
    output = spec if codec is None else codec.decoded(spec)

    def in_data_units(batches: Sequence[Tensor]) -> Any:
        decoded = [sampler.data_units(x if codec is None else codec.decode(x), output) for x in batches]
        return np.concatenate([x.numpy() for x in decoded])

    def show(
        step: int, values: Any, labels: Sequence[int] | None, beside: Any = None, titles: Sequence[str] | None = None
    ) -> None:
        path = run.previews / f"{step:08d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            writers.write_overview(path, values, labels, output, {"genai:step": str(step)}, beside, titles=titles)
        except OSError as error:
            run.tell(f"cannot write {run.previews}: {error.strerror or error}; training goes on")

    if not trainer.model.draws:
        x = sampler.preview_inputs(trainer.data.valid or trainer.data.train, output)
        originals = in_data_units([x])

        def preview_again(averaged: Model, step: int) -> dict[str, float]:
            made = sampler.reconstructed(averaged, x, runtime)
            show(step, in_data_units([made]), None, originals)
            return {}

        return preview_again
    plan = sampler.preview_plan(spec, output, trainer.data.prompts)
    sampling = replace(config.sampling, batch_size=min(len(plan), config.sampling.batch_size))
    # Samples of prompts that differ are compared all together, as captions of the data differ.
    diversity = Diversity(trainer.loader.split, None if plan.prompts else plan.labels)

    def preview(averaged: Model, step: int) -> dict[str, float]:
        batches = list(sampler.draw(averaged, plan, runtime, sampling))
        show(step, in_data_units(batches), plan.labels, titles=plan.prompts)
        found = diversity.of(batches)
        return {} if found is None else {"diversity": found}

    return preview


def _text_previewer(run: RunFolder, trainer: Trainer) -> Any:
    """Draws a few samples into RUN/previews/<step>.txt."""
    from genai import text_samples

    def preview(averaged: Model, step: int) -> dict[str, float]:
        told = text_samples.preview(averaged, trainer.runtime, trainer.config.sampling)
        try:
            run.previews.mkdir(exist_ok=True)
            (run.previews / f"{step:08d}.txt").write_text(text_samples.as_text(told), encoding="utf-8")
        except OSError as error:
            run.tell(f"cannot write {run.previews}: {error.strerror or error}; training goes on")
        return {}

    return preview


def _git_commit() -> str | None:
    """The commit of the folder the command runs in, with + when it has changes; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
