"""One process of a job of several, started by `launch` in a run folder that is prepared and locked: no Hydra here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from genai.api import train_here
from genai.config import read_config
from genai.console import Console
from genai.errors import GenaiError, Interrupted
from genai.launch.local import end_with_launcher
from genai.run import RunFolder


def main(path: str, resumed: bool) -> int:
    end_with_launcher()
    rank = int(os.environ["RANK"])
    run = RunFolder.read(Path(path))
    config = read_config(run.document("config.json"), path=run.path)
    console = Console(quiet=rank > 0, log_seconds=config.trainer.log_seconds)
    try:
        train_here(run, config, console, resumed=resumed)
    except Interrupted as stop:
        return stop.exit_code
    except GenaiError as error:
        console.stop()
        for line in error.lines():
            print(f"error: {line}" + (f" (process {rank})" if rank else ""), file=sys.stderr)
        return error.exit_code
    finally:
        console.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], "--resume" in sys.argv[2:]))
