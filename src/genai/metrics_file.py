"""metrics.jsonl: one JSON object a line, in the order of steps, whole again after kills and full disks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genai.documents import FileFacts, open_to_append, unique_keys, write_atomically
from genai.errors import CheckpointError, SecurityError

_MAX_PENDING = 100_000

Record = dict[str, float | None]


class MetricsFile:
    """Each line is written when it is appended, so a kill costs none. Lines a full disk refuses wait in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._pending: list[bytes] = []
        self._size, self._digest = 0, hashlib.sha256()  # of what is in the file

    def append(self, record: Mapping[str, float | None]) -> str | None:
        """Returns what went wrong, if something did."""
        self._pending.append(json.dumps(dict(record), allow_nan=False).encode("utf-8") + b"\n")
        return self._write()

    def sync(self) -> str | None:
        trouble = self._write()
        if trouble is None and self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._descriptor)
        return trouble

    def close(self) -> str | None:
        trouble = self._write()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        return trouble

    def facts(self) -> FileFacts:
        """Of what was written so far, through this object."""
        return FileFacts(self._size, self._digest.hexdigest())

    def require(self, facts: FileFacts | None, *, whole: bool = False) -> None:
        """Raises CheckpointError unless the file begins with what was noted; what came later may follow, unless that
        was the `whole`. Raises SecurityError for a symbolic link."""
        fix = "restore it from a copy of the run"
        if self.path.is_symlink():
            raise SecurityError("a symbolic link where a file was expected", path=self.path, fix="put the file there")
        if not self.path.is_file():
            raise CheckpointError("a file of the run is missing", path=self.path, fix=fix)
        if facts is None:
            return
        begin = self._read()[: None if whole else facts.bytes]
        if len(begin) != facts.bytes or hashlib.sha256(begin).hexdigest() != facts.sha256:
            raise CheckpointError("changed since the run wrote it", path=self.path, fix=fix)

    def read(self) -> list[Record]:
        """All whole lines. Raises CheckpointError for a damaged one; a last one without its end is left out."""
        lines = self._lines()
        records = [_parse(line) for line in lines]
        if None in records:
            raise self._damaged(records.index(None))
        return [record for record in records if record is not None]

    def truncate(self, step: int, *, note: Callable[[FileFacts], None]) -> list[Record]:
        """Drops all after the last line of at most `step`; returns what stays.

        `note` is told what the file will be before it is: what stays is how the file begins, then and now, so a kill
        in between is no damage. Raises as `until` does, and OSError where the file cannot be written.
        """
        self.close()
        self._pending.clear()
        kept = self.until(step)
        content = b"".join(line + b"\n" for line in self._lines()[: len(kept)])
        self._size, self._digest = len(content), hashlib.sha256(content)
        note(self.facts())
        if content != self._read():
            write_atomically(self.path, content)
        return kept

    def until(self, step: int) -> list[Record]:
        """All up to the last line of at most `step`. Raises CheckpointError for a damaged one among them."""
        lines = self._lines()
        records = [_parse(line) for line in lines]
        count = max((i + 1 for i, r in enumerate(records) if r is not None and (r.get("step") or 0) <= step), default=0)
        kept = [record for record in records[:count] if record is not None]
        if len(kept) < count:
            raise self._damaged(records.index(None))
        if any((record.get("step") or 0) > step for record in kept):
            raise CheckpointError("its steps do not rise", path=self.path, fix="restore it from a copy of the run")
        return kept

    def _lines(self) -> list[bytes]:
        self.require(None)
        return self._read().split(b"\n")[:-1]

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", path=self.path) from error

    def _damaged(self, index: int) -> CheckpointError:
        return CheckpointError(f"line {index + 1} is damaged", path=self.path, fix="restore it from a copy of the run")

    def _write(self) -> str | None:
        if not self._pending:
            return None
        whole = b"".join(self._pending)
        content = memoryview(whole)
        try:
            if self._descriptor is None:
                self._descriptor = open_to_append(self.path)
            start = os.fstat(self._descriptor).st_size
            try:
                while len(content):
                    content = content[os.write(self._descriptor, content) :]
            except OSError:
                os.ftruncate(self._descriptor, start)  # no half line, after which the next would be damaged
                raise
        except OSError as error:
            del self._pending[:-_MAX_PENDING]
            return f"cannot write {self.path}: {error.strerror}; training goes on"
        self._pending.clear()
        self._size += len(whole)
        self._digest.update(whole)
        return None


def _parse(line: bytes) -> Record | None:
    """The record of a line; None where it is damaged."""
    try:
        record: Any = json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    good = all(value is None or type(value) in (int, float) for value in record.values())
    return record if good else None
