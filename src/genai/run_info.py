"""run.json: what is known of a run, typed, and with a checksum of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genai import documents
from genai.documents import FileFacts
from genai.errors import CheckpointError, ConfigErrors
from genai.schema import Natural, NonNegative, plain, read


@dataclass(frozen=True)
class Best:
    step: Natural
    value: float
    metric: str


@dataclass(frozen=True)
class SettingChange:
    """A setting that was changed when the run went on at `step`."""

    key: str
    old: Any
    new: Any
    kind: str
    step: Natural


@dataclass(frozen=True, kw_only=True)
class Split:
    """What was learned from and what was held out."""

    train: Natural  # samples
    held_out: Natural
    valid_fraction: float  # asked for; a set with a test part of its own holds that out
    split_seed: Natural
    sha256: str  # of both parts


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What run.json says."""

    format: Literal[1] = 1
    id: str
    status: Literal["running", "finished", "stopped", "failed"]
    model: str
    data: str = ""
    name: str
    parameters: Natural = 0
    device: str = ""
    dtype: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None
    created: str
    steps: Natural = 0
    samples: Natural = 0
    seconds: NonNegative = 0.0
    checkpoint: str | None = None  # the newest, by its folder's name
    best: Best | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)  # last of each
    split: Split | None = None
    metrics_file: FileFacts | None = None  # metrics.jsonl as far as the newest checkpoint
    starts: Natural = 0  # how often training began: once, and at each resume
    changes: list[SettingChange] = field(default_factory=list)
    error: str | None = None
    documents: dict[str, list[str]] = field(default_factory=dict)  # file -> sha256; two while one is being replaced


def encode_info(info: RunInfo) -> bytes:
    data = plain(info)
    return documents.encode({**data, "sha256": _checksum(data)})


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("utf-8")).hexdigest()


def read_info(file: Path) -> RunInfo:
    """Raises CheckpointError for a file that is damaged or was changed, SecurityError for one that names code."""
    data = documents.parse(documents.read_bytes(file), file)
    fix = "restore it from a copy of the run"
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and version > 1:
        raise CheckpointError(
            f"written in format {version} by a newer genai", path=file, fix="pip install -U genai-trainer"
        )
    if not isinstance(data, dict) or data.pop("sha256", None) != _checksum(data):
        raise CheckpointError("changed since the run wrote it", path=file, fix=fix)
    try:
        info = read(RunInfo, data)
    except ConfigErrors as error:
        raise CheckpointError(f"damaged: {error.mistakes[0].what}", path=file, fix=fix) from error
    if info.checkpoint is not None and not re.fullmatch(r"step_\d{8,18}", info.checkpoint):
        raise CheckpointError(f"it names the checkpoint {info.checkpoint[:60]!r}", path=file, fix=fix)
    return info
