"""genai inspect PATH: what is in a checkpoint, without loading it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from genai.cli.options import Debug, Json, Quiet, emit, emit_json


def inspect(
    path: Annotated[str, typer.Argument(help="A run or checkpoint folder, @last, or a .safetensors file.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What is in a checkpoint: tensors, files, hashes. Verified, but not loaded."""
    content = _of_file(Path(path)) if Path(path).is_file() else _of_checkpoint(path)
    emit_json(content) if json else emit(_as_text(content))


def _of_checkpoint(reference: str) -> dict[str, Any]:
    from genai import checkpoint as checkpoints
    from genai.errors import CheckpointError, to_resume
    from genai.run_index import find, runs_root

    folder = find(reference, runs_root())
    if (folder / "run.json").is_file():
        newest = checkpoints.newest(folder / "checkpoints", warn=None)
        if newest is None:
            raise CheckpointError("this run has no checkpoint", path=folder, fix=f"type {to_resume(folder)}")
        checkpoint = newest
    else:
        checkpoint = checkpoints.named(folder)
    manifest = checkpoint.manifest
    names = [name.removesuffix(".safetensors") for name in manifest.files if name.endswith(".safetensors")]
    return {
        "path": str(checkpoint.path),
        "model": manifest.model,
        "step": manifest.step,
        "run_id": manifest.run_id,
        "sha256": checkpoint.sha256,
        "files": {name: {"bytes": facts.bytes, "sha256": facts.sha256} for name, facts in manifest.files.items()},
        "tensors": {name: _tensors(checkpoint.header(name)) for name in names},
    }


def _of_file(path: Path) -> dict[str, Any]:
    from genai.tensorfile import read_header, refuse_pickle

    refuse_pickle(path)
    header = read_header(path)
    return {"path": str(path), "metadata": dict(header.metadata), "tensors": {path.stem: _tensors(header)}}


def _tensors(header: Any) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": entry.dtype, "shape": list(entry.shape)} for name, entry in header.tensors.items()}


def _as_text(content: dict[str, Any]) -> str:
    from genai.console import table_text

    facts = [f"{key}: {content[key]}" for key in ("path", "model", "step", "run_id", "sha256") if key in content]
    parts = ["\n".join(facts)]
    for number, (name, tensors) in enumerate(content["tensors"].items()):
        values = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
        title = f"{name}: {len(tensors)} tensors, {values:,} values"
        if number:  # averages and optimizer states mirror the model
            parts.append(f"{title} (listed by --json)")
            continue
        rows = [
            {"tensor": key, "dtype": tensor["dtype"], "shape": "x".join(map(str, tensor["shape"])) or "scalar"}
            for key, tensor in tensors.items()
        ]
        parts.append(table_text(title, rows))
    if "files" in content:
        rows = [{"file": name, **facts} for name, facts in content["files"].items()]
        parts.append(table_text("", rows))
    return "\n\n".join(parts)
