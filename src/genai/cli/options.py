"""What several verbs share: their flags, telling a run from settings, and printing results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from genai.cli.completion import complete_model, complete_setting

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="See `genai list models`.", autocompletion=complete_model)
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings, as in data=digits optim.lr=1e-3.",
        autocompletion=complete_setting,
        show_default=False,
    ),
]
RunAndSettings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|KEY=VALUE",
        help="A run or checkpoint folder, @last (default), @best:METRIC or part of a name; then settings.",
        show_default=False,
    ),
]
ConfigDirs = Annotated[
    list[Path] | None,
    typer.Option("-C", "--config-dir", metavar="DIR", help="More configs; may be repeated.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", show_default=False)]
Step = Annotated[
    str,
    typer.Option(
        "--step",
        metavar="N",
        help="Which checkpoint: latest, best or a number; auto: the best where trainer.patience ends the run.",
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Weights without their moving average.", show_default=False)]
# Verbs that only read take it too, so that a script may pass it to all.
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and the result.", show_default=False)]
# Read by main(), which prints the error.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]


def run_and_settings(arguments: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """The run among the arguments: the first that is no KEY=VALUE, or that exists as a path."""
    run: str | None = None
    settings = []
    for argument in arguments or ():
        is_run = "=" not in argument or os.path.lexists(argument)
        if is_run and run is None:
            run = argument
        else:
            settings.append(argument)
    return run, settings


def emit(text: str) -> None:
    """Prints a result on stdout. A reader that has left (`| head`) has what it wanted: exit code 0."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence_stdout()
        raise typer.Exit(0) from None


def emit_json(value: Any) -> None:
    """One line, so that the last line of a verb is its whole result."""
    emit(json.dumps(value, ensure_ascii=False, default=str))


def silence_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
