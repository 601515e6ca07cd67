"""The runs below a folder: all of them, the one that a word names, the best of a metric. No torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from genai import documents
from genai.errors import CheckpointError, SecurityError
from genai.run import RUN, RunFolder, look, run_or_checkpoint
from genai.run_info import RunInfo
from genai.schema import HIGHER_IS_BETTER


def find(reference: str | None, root: Path) -> Path:
    """The run or checkpoint folder that `reference` names.

    A path, @last (the default: the newest run with a checkpoint that finished or stopped), @best:METRIC, or a part of a
    name that only one run under `root` has. Raises CheckpointError with what there is.
    """
    if reference is None or reference == "@last":
        ended = [run for run in all_runs(root) if run.info.status in ("finished", "stopped") and run.info.checkpoint]
        if not ended:
            raise CheckpointError(
                "no run with a checkpoint has finished or stopped here",
                path=root,
                fix="name a run, or type genai train MODEL",
            )
        return ended[-1].path
    if reference.startswith("@best:"):
        return _best(reference.removeprefix("@best:"), root)
    path = Path(reference)
    if os.path.lexists(path):
        return run_or_checkpoint(path)
    runs = all_runs(root)
    names = {run.path: f"{run.info.model}/{run.path.relative_to(root).as_posix()}" for run in runs}
    exact = [run.path for run in runs if reference in (run.path.name, run.path.relative_to(root).as_posix())]
    matches = exact or [path for path, name in names.items() if reference.strip("/") in name]
    if len(matches) == 1:
        return matches[0]
    shown = ", ".join(str(path) for path in (matches or [run.path for run in runs if run.info.checkpoint])[-8:])
    if matches:
        raise CheckpointError(f"'{reference}' is part of {len(matches)} names", fix=f"choose one of: {shown}")
    raise CheckpointError(
        f"there is no run '{reference}'", fix=f"choose one of: {shown}" if shown else "name a run folder"
    )


def runs_root() -> Path:
    """Where runs are kept unless told otherwise."""
    return Path(os.environ.get("GENAI_RUNS") or "runs")


def all_runs(root: Path) -> list[RunFolder]:
    """Every run under `root`, oldest first. One whose run.json is damaged counts as failed, with the reason."""
    runs = []
    for folder, children, files in os.walk(root):
        if RUN in files:
            path = Path(folder)
            try:
                runs.append(look(path))
            except (CheckpointError, SecurityError) as error:
                info = RunInfo(
                    id="", status="failed", model=path.parent.name, name=path.name, created="", error=str(error)
                )
                runs.append(RunFolder(path, info))
            children.clear()
        children[:] = sorted(child for child in children if not child.startswith("."))
    return sorted(runs, key=lambda run: run.info.created)


def _best(metric: str, root: Path) -> Path:
    figures = {run.path: value for run in all_runs(root) if (value := _figure(run, metric)) is not None}
    if not figures:
        known = sorted(
            {key.removeprefix("valid/") for run in all_runs(root) for key in run.info.metrics if "valid/" in key}
        )
        raise CheckpointError(
            f"no run measured '{metric}'",
            path=root,
            fix=f"choose one of: {', '.join(known)}" if known else "type genai eval RUN",
        )
    choose = max if metric.rsplit("/", 1)[-1] in HIGHER_IS_BETTER else min
    return choose(figures, key=lambda path: figures[path])


def _figure(run: RunFolder, metric: str) -> float | None:
    """A run's figure for a metric: its best checkpoint's, else what `genai eval` wrote, else the last logged."""
    best = run.info.best
    if best is not None and best.metric in (metric, metric.removeprefix("valid/")):
        return best.value
    for path in sorted((run.path / "eval").glob("*.json")):
        with contextlib.suppress(CheckpointError, SecurityError):
            measured = documents.parse(documents.read_bytes(path), path)
            value = measured.get(metric) if isinstance(measured, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
    return run.info.metrics.get(metric, run.info.metrics.get(f"valid/{metric}"))
