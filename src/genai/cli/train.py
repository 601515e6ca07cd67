"""genai train MODEL [KEY=VALUE ...]: one run, or with -m a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genai.cli.options import ConfigDirs, Debug, Json, ModelName, Quiet, Settings, emit, emit_json
from genai.errors import Interrupted

if TYPE_CHECKING:
    from genai.config import Outcome
    from genai.schema import Config


def train(
    model: ModelName,
    overrides: Settings = None,
    multirun: Annotated[
        bool, typer.Option("-m", "--multirun", help="Sweep: every combination of a=1,2 b=x,y.", show_default=False)
    ] = False,
    config_dir: ConfigDirs = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, print the YAML, stop.", show_default=False)
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on in run.dir; in a sweep: skip what is done.", show_default=False),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model. The last line of stdout is the run's folder."""
    from genai import config as configs
    from genai.cli.failures import report
    from genai.console import Console
    from genai.schema import plain
    from genai.search_path import SearchPath

    settings, folders = overrides or [], config_dir or []
    console = Console(quiet=quiet)
    for ignored, winner in SearchPath.of(folders).shadowed():
        console.warn(f"{ignored} is ignored: {winner} has the same name and comes first")
    if dry_run:
        if multirun:
            composed = [_value(job) for job in configs.run_hydra(model, settings, folders, lambda c: c, multirun=True)]
        else:
            composed = [configs.compose_train(model, settings, folders)]
        if json:
            emit_json([plain(config) for config in composed] if multirun else plain(composed[0]))
        else:
            emit("---\n".join(configs.to_yaml(config) for config in composed).rstrip())
        return

    def job(config: Config) -> Job:
        return run_job(config, resume=resume, sweep=multirun, quiet=quiet)

    outcomes = configs.run_hydra(model, settings, folders, job, multirun, failed=report)
    if not multirun:
        emit_json(_value(outcomes[0]).record) if json else emit(str(_value(outcomes[0]).path))
        return
    _finish_sweep(outcomes, console, as_json=json)


class Job:
    """A finished run; as a number, the best value of its metric, for sweepers that optimise."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    def __float__(self) -> float:
        best = self.record.get("best")
        return float(best["value"]) if isinstance(best, dict) else float("nan")


def run_job(config: Config, *, resume: bool, sweep: bool, quiet: bool) -> Job:
    """Trains one configuration; of a sweep that goes on, unless that has been done."""
    from genai import api
    from genai.cli.runs import record_of
    from genai.console import Console

    console = Console(quiet=quiet, log_seconds=config.trainer.log_seconds)
    if resume and sweep and config.run.dir is None:
        from genai.cli.sweep import done_or_begun

        found = done_or_begun(config, Path(config.run.root))
        if found is not None and found.finished:
            console.note(f"done already: {found.path}")
            return Job(found.path, record_of(found.path))
        run = api.train_config(config, console=console) if found is None else api.resume(found.path, console=console)
    else:
        run = api.train_config(config, resume=resume, console=console)
    return Job(run.path, record_of(run.path))


def _value(outcome: Outcome[Any]) -> Any:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _finish_sweep(outcomes: list[Outcome[Job]], console: Any, *, as_json: bool) -> None:
    """The table of all jobs, then the exit code of the first that failed."""
    from genai.cli.failures import exit_code_of
    from genai.console import table_text

    rows: list[dict[str, Any]] = []
    for number, outcome in enumerate(outcomes):
        code = 0 if outcome.error is None else exit_code_of(outcome.error)
        value = None if outcome.value is None else float(outcome.value)
        run = getattr(outcome.error, "run", None) if outcome.value is None else outcome.value.path
        rows.append(
            {
                "job": number,
                "settings": " ".join(outcome.overrides),
                "exit": code,
                "seconds": round(outcome.seconds, 1),
                "best": None if value is None or value != value else value,
                "run": None if run is None else str(run),
            }
        )
    if as_json:
        failed = [{"status": "failed", "error": str(o.error), "exit": row["exit"], "settings": row["settings"]}
                  for o, row in zip(outcomes, rows, strict=True)]  # fmt: skip
        emit_json([told if o.value is None else o.value.record for o, told in zip(outcomes, failed, strict=True)])
    else:
        emit(table_text("", rows))
    codes = [row["exit"] for row in rows if row["exit"]]
    if codes:
        stopped = isinstance(outcomes[-1].error, Interrupted)
        told = [f"{len(codes) - stopped} of {len(rows)} jobs failed"] if len(codes) > stopped else []
        told += ["the sweep was stopped; the same command with --resume does what is left"] if stopped else []
        console.warn("; ".join(told))
        raise typer.Exit(codes[-1] if stopped else codes[0])
