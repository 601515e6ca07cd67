"""The lock of a run folder: one training at a time, freed by the system when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from genai.errors import BusyError

_held: set[int] = set()


def _close_in_child() -> None:
    # A child shares its parent's lock: a data worker that outlives a killed training would keep the folder locked.
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


class Lock:
    """An flock on a file that says who holds it. Raises BusyError where another process does, OSError otherwise."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            self._take(path)
        except BaseException:
            os.close(self._descriptor)
            raise
        _held.add(self._descriptor)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        }
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def _take(self, path: Path) -> None:
        for attempt in range(5):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.02 * (attempt < 4))  # `is_held` may be looking for an instant
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                    return  # a file system without locks: the folder's run.json still refuses a second new run
                raise
        raise BusyError(
            f"another process trains here: {_holder(path)}",
            path=path.parent,
            fix="wait for it, or choose another run.dir",
        )

    def release(self) -> None:
        if self._descriptor in _held:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8")[:1000])
        return f"process {int(found['pid'])} on {str(found['host'])[:60]} since {str(found['start'])[:30]}"
    except (OSError, ValueError, TypeError, KeyError):
        return "it does not say which"
