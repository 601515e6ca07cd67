"""One process of a job of several, started by `launch` for a run folder that is prepared and locked: no Hydra here."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from genai.config import Change, read_config
from genai.console import Console
from genai.errors import GenaiError, Interrupted
from genai.launch.local import end_with_launcher
from genai.run import RunFolder
from genai.training import Plan, train_here


def main() -> int:
    told: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    end_with_launcher()
    rank = int(os.environ["RANK"])
    run = RunFolder.read(Path(told["run"]))
    starts = run.info.starts
    plan = Plan(
        read_config(told["config"], path=run.path), told["resumed"], tuple(Change(**item) for item in told["changes"])
    )
    console = Console(quiet=rank > 0 or told["quiet"], log_seconds=plan.config.trainer.log_seconds)
    try:
        train_here(run, plan, console)
    except Interrupted as stop:
        return stop.exit_code
    except GenaiError as error:
        console.stop()
        for line in error.lines():
            print(f"error: {line}" + (f" (process {rank})" if rank else ""), file=sys.stderr)
        if rank == 0 and run.info.starts > starts:
            run.note_error(error)
        return error.exit_code
    finally:
        console.stop()
    return 0


if __name__ == "__main__":
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # At once: threads of libraries that still run can abort a process that is taken down around them, and all is saved.
    os._exit(code)
