"""What is found out once about large files and kept for the next time: where each of their pictures lies, and the ids
of their text."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from genai.errors import DataError, OutputError

_FORMAT = 1


@dataclass
class Index:
    """Pictures inside one file, in its order; `labels` and `captions` are None where a picture has none."""

    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # of the first byte of each
    sizes: list[int] = field(default_factory=list)  # in bytes
    labels: list[str | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)

    def add(self, name: str, offset: int, size: int, label: str | None, caption: str | None) -> None:
        self.names.append(name)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.labels.append(label)
        self.captions.append(caption)


def data_folder() -> Path:
    """`$GENAI_DATA`, else `$XDG_CACHE_HOME/genai` or `~/.cache/genai`; it need not exist. Raises DataError without a
    home folder."""
    try:
        if given := os.environ.get("GENAI_DATA"):
            return Path(given).expanduser().absolute()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "")
        return (cache if cache.is_absolute() else Path.home() / ".cache") / "genai"
    except RuntimeError as error:
        raise DataError("there is no home folder to keep data in", fix="type export GENAI_DATA=FOLDER") from error


def stamp_of(path: Path) -> str:
    """Changes when the file does, as far as its size and its time tell. Raises OSError."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def blob_path(key: str) -> Path:
    """Where the pictures that are unpacked from what `key` names lie, or the ids of its text."""
    return data_folder() / "index" / f"{_short(key)}.pictures"


def read_index(key: str, stamp: str) -> Index | None:
    """The index kept for what `key` names; None where there is none, it is damaged, or it was made of another state."""
    kept = read_kept(key, stamp)
    try:
        return None if kept is None else Index(**kept)
    except TypeError:
        return None


def keep_index(key: str, stamp: str, index: Index) -> None:
    keep(key, stamp, asdict(index))


def read_kept(key: str, stamp: str) -> dict[str, Any] | None:
    """What is kept for `key`; None where there is nothing, it is damaged, or it was made of another state."""
    try:
        digest, _, content = _path(key).read_text(encoding="utf-8").partition("\n")
        if hashlib.sha256(content.encode()).hexdigest() != digest:
            return None
        values = json.loads(content)
        kept = values["index"] if (values["format"], values["stamp"]) == (_FORMAT, stamp) else None
        return kept if isinstance(kept, dict) else None
    except (OSError, ValueError, KeyError, TypeError, DataError):  # the last: no home folder
        return None


def keep(key: str, stamp: str, values: dict[str, Any]) -> None:
    """Keeps it if the folder can be written; if not, it is only made again next time."""
    content = json.dumps({"format": _FORMAT, "stamp": stamp, "index": values}, ensure_ascii=True)
    with contextlib.suppress(OSError, DataError), _replacing(_path(key)) as file:
        file.write(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}".encode())


@contextlib.contextmanager
def new_blob(key: str, what: str = "pictures cannot be unpacked") -> Iterator[IO[bytes]]:
    """A file for unpacked pictures or ids, which is there under its name once it is complete. Raises OutputError, which
    says `what` failed."""
    try:
        with _replacing(blob_path(key)) as file:
            yield file
    except OSError as error:
        raise OutputError(
            f"{what}: {error.strerror or error}",
            path=data_folder(),
            fix="make room, or set GENAI_DATA to a folder with room",
        ) from error


def _path(key: str) -> Path:
    return data_folder() / "index" / f"{_short(key)}.json"


def _short(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` in one step: several processes may write the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(name, "xb") as file:
            yield file
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
