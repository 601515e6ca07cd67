"""JSON documents of runs and checkpoints: read as plain data that can name nothing to execute, written atomically."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai.errors import CheckpointError, ConfigError, NonFiniteError, SecurityError
from genai.schema import Natural

MAX_BYTES = 64 << 20
_MAX_DEPTH = 64
_CODE_KEYS = frozenset(("_target_", "_args_", "_partial_", "_recursive_", "_convert_"))  # obeyed by instantiate


@dataclass(frozen=True)
class FileFacts:
    """By which a change of a file is found."""

    bytes: Natural
    sha256: str


def read_bytes(path: Path) -> bytes:
    """The bytes of a small regular file. Raises CheckpointError, and SecurityError for a symbolic link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CheckpointError("a file is missing", path=path, fix="restore it from a copy of the run") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SecurityError(
                "a symbolic link where a file was expected", path=path, fix="put the file itself there"
            ) from error
        raise CheckpointError(f"cannot be read: {error.strerror}", path=path) from error
    try:
        with open(descriptor, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=path) from error
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"larger than {MAX_BYTES >> 20} MiB, which no document of a run is", path=path)
    return content


def parse(content: bytes, path: Path) -> Any:
    """Plain data from JSON. Raises CheckpointError for damage, SecurityError for what could run or reveal something."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_no_constant)
        _refuse(value, "", lambda what: SecurityError(what, path=path, fix="use only runs that genai itself wrote"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"not readable as JSON: {error}", path=path, fix="restore it from a copy of the run"
        ) from error
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ; ValueError otherwise."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key appears twice")
    return made


def encode(value: Any) -> bytes:
    """JSON of plain data. Raises NonFiniteError or ConfigError for what `parse` would refuse to read back."""
    _refuse(value, "", lambda what: ConfigError(f"{what}: no run can keep this", fix="choose another text"))
    # No newline at the end: without the last byte it would still be JSON, and truncation must show.
    try:
        return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"{error.object[error.start : error.end]!r} is no UTF-8 text, and no run can keep it"
        raise ConfigError(what, fix="choose another name, or type export LC_ALL=C.UTF-8 first") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces `path` such that after a crash it holds the old content or the new, complete. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def open_to_append(path: Path) -> int:
    """A descriptor, but never through a link: a copied run must not write into a file elsewhere. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def sync_folder(path: Path) -> None:
    """Makes renames inside a folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot, and need not
            raise
    finally:
        os.close(descriptor)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _refuse(value: Any, at: str, error: Callable[[str], Exception], depth: int = 0) -> None:
    where = at[:80] or "the document"
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _CODE_KEYS:
                raise error(f"'{where}' holds the key {key}, which names code")
            if "${" in key:
                raise error(f"'{where}' holds an interpolation in a key")
            _refuse(item, f"{at}.{key}" if at else key, error, depth + 1)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _refuse(item, f"{at}[{i}]", error, depth + 1)
    elif isinstance(value, str):
        if "${" in value:
            raise error(f"'{where}' holds an interpolation, ${{...}}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(f"'{where}' is {value}, and no run can keep that")
