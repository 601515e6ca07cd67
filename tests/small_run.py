"""A small run folder and forks, for the tests of runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genai.run import RunFolder
from genai.run_info import Best
from genai.schema import PathText, RunConfig
from small_checkpoint import save


def create(root: Path, model: str = "probe", **changes: Any) -> RunFolder:
    return RunFolder.create(RunConfig(root=PathText(str(root)), **changes), model=model)


def finished(root: Path, name: str | None = None, *, checkpoint: bool = True, **changes: Any) -> RunFolder:
    run = create(root, name=name)
    run.write_document("config.json", {"model": {"name": "probe"}})
    run.write_document("spec.json", {"shape": [3]})
    run.append_metrics({"step": 1, "samples": 8, "seconds": 0.5, "all/loss": 2.0})
    run.append_metrics({"step": 2, "samples": 16, "seconds": 1.0, "all/loss": 1.0})
    if checkpoint:
        saved = save(run.checkpoints, 2, run_id=run.id)
        run.saved(saved.path.name, step=2, samples=16, seconds=1.0, best=Best(2, 0.25, "mse"))
    run.update(**{"status": "finished", "data": "digits", "parameters": 7, "starts": 1} | changes)
    run.close()
    return run


def in_a_fork(action: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        action()
    except BaseException as error:
        os._exit(getattr(error, "exit_code", 77))
    os._exit(0)
