"""Going on with a sweep: which of its jobs have been run already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai.errors import GenaiError
from genai.schema import Config, plain

# Settings that do not change what is learned: a job is the same job without them.
_ELSEWHERE = ("run", "device", "threads", "compile", "sampling")


@dataclass(frozen=True)
class Found:
    path: Path
    finished: bool


def done_or_begun(config: Config, root: Path) -> Found | None:
    """The run below `root` with these very settings, a finished one first; None where there is none."""
    from genai.run import RunFolder
    from genai.run_index import all_runs

    wanted = _what_is_learned(plain(config))
    begun: Found | None = None
    for listed in all_runs(root):
        try:
            run = RunFolder.read(listed.path)
            same = _what_is_learned(run.document("config.json")) == wanted
        except GenaiError:
            continue  # a damaged run is done again, in a folder of its own
        if same and run.info.status == "finished":
            return Found(run.path, True)
        if same and run.info.status != "running":
            begun = Found(run.path, False)
    return begun


def _what_is_learned(values: Any) -> str:
    kept = (
        {key: value for key, value in values.items() if key not in _ELSEWHERE} if isinstance(values, dict) else values
    )
    return json.dumps(kept, sort_keys=True)
