"""genai runs list | show | diff | rm: the runs folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genai.cli.options import Debug, Json, Quiet, emit, emit_json

app = typer.Typer(help="List, show, compare and remove runs.", rich_markup_mode=None)

Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="The runs folder; default runs, or $GENAI_RUNS.", show_default=False),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, @last, @best:METRIC or part of a name.")]


@app.command("list")
def list_runs(root: Root = None, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """All runs, oldest first; with --json an array of their run.json objects."""
    from genai.console import table_text
    from genai.run_index import all_runs
    from genai.schema import plain

    # A damaged run is listed as failed: it must not hide the others.
    records = [{"path": str(run.path), **plain(run.info)} for run in all_runs(_root(root))]
    if json:
        emit_json(records)
        return
    names = ("status", "model", "data", "steps", "seconds")
    rows = [
        {
            "run": record["path"],
            **{name: record.get(name) for name in names},
            "best": _best(record),
            "metrics": ", ".join(f"{key} {_number(value)}" for key, value in _held_out(record).items()),
        }
        for record in records
    ]
    emit(table_text("" if rows else "runs", rows))


@app.command()
def show(run: Run, root: Root = None, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """What is known of a run."""
    from genai.console import table_text
    from genai.settings import flat

    record = record_of(_find(run, root))
    emit_json(record) if json else emit(table_text("", [{"what": k, "is": v} for k, v in flat(record).items()]))


@app.command()
def diff(
    first: Run, second: Run, root: Root = None, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Settings and metrics of two runs side by side, where they differ."""
    from genai.console import table_text
    from genai.run import RunFolder
    from genai.settings import flat

    folders = [RunFolder.read(_find(run, root)) for run in (first, second)]
    sides = []
    for folder in folders:
        record = record_of(folder.path)
        measured = {key: record.get(key) for key in ("parameters", "steps", "samples", "seconds", "metrics")}
        settings = folder.document("config.json")
        settings.pop("run", None)
        sides.append(flat({**settings, **measured}))
    keys = [key for key in dict.fromkeys([*sides[0], *sides[1]]) if sides[0].get(key) != sides[1].get(key)]
    names = [folder.path.name for folder in folders]
    if names[0] == names[1]:
        names = [str(folder.path) for folder in folders]
    if json:
        emit_json({key: [side.get(key) for side in sides] for key in keys})
        return
    rows = [{"what": key, **{name: side.get(key) for name, side in zip(names, sides, strict=True)}} for key in keys]
    emit(table_text("" if rows else "differences", rows))


@app.command()
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or parts of their names.")],
    root: Root = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove runs. One that is being trained is refused."""
    from genai.console import Console
    from genai.run import remove

    console = Console(quiet=quiet)
    folders = [_find(run, root) for run in runs]
    for folder in dict.fromkeys(folders):
        remove(folder)
        console.note(f"removed {folder}")


def record_of(path: Path) -> dict[str, Any]:
    """The object of run.json, with the folder as `path`."""
    from genai.run import RunFolder
    from genai.schema import plain

    return {"path": str(path), **plain(RunFolder.read(path).info)}


def _root(root: Path | None) -> Path:
    from genai.run_index import runs_root

    return root if root is not None else runs_root()


def _find(reference: str, root: Path | None) -> Path:
    from genai.run_index import find

    return find(reference, _root(root))


def _best(record: dict[str, Any]) -> str | None:
    best = record.get("best")
    return f"{best['metric']} {_number(best['value'])}" if isinstance(best, dict) else None


def _held_out(record: dict[str, Any]) -> dict[str, Any]:
    metrics = record.get("metrics") or {}
    return {key.removeprefix("valid/"): value for key, value in metrics.items() if key.startswith("valid/")}


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
