"""genai eval [RUN] [KEY=VALUE ...]: figures on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genai.cli.options import Debug, Json, Quiet, Raw, RunAndSettings, Step, emit, emit_json, run_and_settings


def evaluate(
    arguments: RunAndSettings = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="PATH", help="Evaluate on this file or folder.", show_default=False),
    ] = None,
    step: Step = "auto",
    raw: Raw = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a trained model on held-out data. Also written to RUN/eval/<data>.json."""
    from genai import api
    from genai.console import Console, table_text

    run, settings = run_and_settings(arguments)
    if input is not None:
        settings.append(f"data.path={input}")
    figures = api.evaluate(run, *settings, step=step, raw=raw, console=Console(quiet=quiet))
    if json:
        emit_json(figures)
    else:
        told = {name: value for name, value in figures.items() if name != "confusion"}
        told |= {name: str(told[name])[:12] for name in ("split", "checkpoint_sha256") if told.get(name)}
        rows = [{"metric": name, "value": value} for name, value in told.items()]
        emit(table_text("", rows))
