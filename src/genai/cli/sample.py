"""genai sample [RUN] [KEY=VALUE ...]: draw from a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from json import loads
from pathlib import Path
from typing import Annotated, Literal

import typer

from genai.cli.options import Debug, Json, Quiet, Raw, RunAndSettings, Step, emit, emit_json, run_and_settings
from genai.errors import ConfigError


def _spoken() -> Iterator[str]:
    """Lines from the terminal, or from a pipe."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line.encode(errors="replace").decode()


def sample(
    arguments: RunAndSettings = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--count",
            min=1,
            max=10**7,
            help="How many, per label, prompt and input; default 16, with prompts or inputs 1.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Varies what is drawn.")] = 0,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="L",
            help="A class, by index or name, or COLUMN=VALUE; may be repeated.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="TEXT", help="What to draw; may be repeated.", show_default=False),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="The same from a file, one a line.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Default: RUN/samples/<date-time>.", show_default=False),
    ] = None,
    step: Step = "auto",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, metavar="B", help="Drawn at once.", show_default=False)
    ] = None,
    raw: Raw = False,
    format: Annotated[
        Literal["files", "npz"], typer.Option("--format", help="Single files, or one samples.npz.")
    ] = "files",
    task: Annotated[
        Literal["generate", "interpolate", "reconstruct", "encode", "vary", "impute", "traverse", "predict"] | None,
        typer.Option(
            "--task",
            help="Or a way through N samples or inputs, as strips and a GIF (sampling.frames=8, sampling.path=linear); "
            "or what becomes of inputs: themselves again, their latents, samples like them, what is missing of them, "
            "or the first led along the axes of its latents; or what a discriminative model says of them.",
            show_default=False,
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="PATH", help="Default: the run's held-out data.", show_default=False),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask", metavar="FILE", help="Missing for impute: a picture, white there, or .npy.", show_default=False
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            min=0,
            max=1,
            metavar="S",
            help="How far vary goes: 0 not at all, 1 all the way; default 0.5.",
            show_default=False,
        ),
    ] = None,
    append_to: Annotated[
        Path | None,
        typer.Option(
            "--append-to",
            metavar="PATH",
            help="Write this training set (folders of classes, a .csv) with samples of each class beside its own.",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, max=10**6, metavar="N", help="So many.", show_default=False)
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="A conversation, a line each; an end of input (Ctrl-D) ends it.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw from a trained model. The last line of stdout is the folder of the samples."""
    from genai import api
    from genai.console import Console
    from genai.data.prompts import read_prompts

    run, settings = run_and_settings(arguments)
    if chat:
        flags = {
            "-n": count, "--label": label or None, "--prompt": prompt or None, "--prompts": prompts, "--out": out,
            "--batch-size": batch_size, "--task": task, "--input": input, "--mask": mask, "--strength": strength,
            "--append-to": append_to, "--per-class": per_class, "--json": json or None,
            "--format": None if format == "files" else format,
        }  # fmt: skip
        for flag, value in flags.items():
            if value is not None:
                raise ConfigError(f"{flag} says nothing to a conversation", fix="leave it out")
        for answer in api.chat(
            run, *settings, said=_spoken(), seed=seed, step=step, raw=raw, console=Console(quiet=quiet)
        ):
            emit(answer)
        return
    typed = [text.encode(errors="replace").decode() for text in prompt or ()]  # what is no UTF-8 cannot be written down
    texts = [*typed, *(() if prompts is None else read_prompts(prompts))]
    folder = api.sample(
        run,
        *settings,
        count=count,
        seed=seed,
        labels=label or None,
        prompts=texts or None,
        out=out,
        step=step,
        batch_size=batch_size,
        raw=raw,
        format=format,
        task=task,
        input=input,
        mask=mask,
        strength=strength,
        append_to=append_to,
        per_class=per_class,
        console=Console(quiet=quiet),
    )
    if json:
        emit_json(loads((folder / "samples.json").read_text(encoding="utf-8")) | {"folder": str(folder)})
    else:
        emit(str(folder))
