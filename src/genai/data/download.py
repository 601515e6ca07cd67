"""Files that are fetched once, from the first mirror that has the right bytes, into one folder for all runs.

A file under its final name is complete and has its stated sha256: what comes in goes to NAME.part, from which the next
attempt goes on, and is renamed when its hash is right. One process writes at a time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import hashlib
import http.client
import os
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from genai.console import Console
from genai.data.cache import data_folder
from genai.documents import sync_folder
from genai.errors import ConfigError, DataError, OutputError

TIMEOUT_SECONDS = 20.0  # to connect, and without a byte
PAUSES_SECONDS = (1.0, 3.0)  # before each further round over the mirrors
_MOST_CONNECTIONS = 200  # to one mirror for one file: each but the last has brought it further
_BLOCK_BYTES = 1 << 18
_PASSING = frozenset({408, 425, 429})  # besides 5xx: what a server may answer now and not later


@dataclass(frozen=True)
class RemoteFile:
    """A file as it is published. `unpacked_sha256` is of what a .gz holds: packed again or unpacked it is as good."""

    name: str
    num_bytes: int
    sha256: str
    unpacked_sha256: str = ""


class _Failed(Exception):
    """A mirror did not give the file; `final`: and will not."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def verified(folder: Path, file: RemoteFile) -> Path | None:
    """Where the file lies in the folder with the right content, unpacked or as it is published; None if nowhere.

    Hashed at every start rather than remembered: the 170 MB of the largest set take 0.13 s (with the processor's SHA
    instructions) where unpacking them takes 1.1 s, and what a disk or a person has changed is found.
    """
    packed = folder / file.name
    for path in (packed.with_suffix(""), packed) if file.unpacked_sha256 else (packed,):
        with contextlib.suppress(OSError, EOFError, zlib.error):  # missing, unreadable or damaged
            if path.is_file() and _is_right(path, file):
                return path
    return None


def fetch(name: str, files: Sequence[RemoteFile], mirrors: Sequence[str], console: Console | None = None) -> list[Path]:
    """The paths of a set's files below `data_folder()`/`name`. What is not there is downloaded from MIRROR/FILE, first
    from `$GENAI_MIRROR`/`name`.

    Raises DataError where no mirror has the right bytes, OutputError where the folder cannot be written, ConfigError
    for a `$GENAI_MIRROR` that is no address.
    """
    folder, console = data_folder() / name, console or Console(quiet=True)
    found = [verified(folder, file) for file in files]
    if None in found:
        bases = [*_own_mirror(name), *mirrors]
        with _alone(folder, name, console):
            found = [verified(folder, file) for file in files]
            missing = [file for file, path in zip(files, found, strict=True) if path is None]
            if missing:
                size = f"{sum(file.num_bytes for file in missing) / 1e6:.1f} MB"
                console.note(f"data={name}: downloading {size} from {_host(bases[0])} to {folder}")
            for number, file in enumerate(missing):
                if (folder / file.name).exists():
                    console.warn(f"{folder / file.name} is not the published file, fetching that")
                try:
                    _download(file, [base.rstrip("/") + "/" + file.name for base in bases], folder, console)
                except DataError as error:
                    names = [left.name for left in missing[number:]]
                    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
                    fix = (
                        f"put {listed} into that folder, type data.path=FOLDER, or export GENAI_MIRROR=URL of a mirror"
                    )
                    raise DataError(f"data={name} cannot be downloaded: {error.what}", path=folder, fix=fix) from error
    return [path or folder / file.name for path, file in zip(found, files, strict=True)]


def _is_right(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size == file.num_bytes and _sha256(path) == file.sha256:
        return True
    if not file.unpacked_sha256:
        return False
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.unpacked_sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_mirror(name: str) -> list[str]:
    given = os.environ.get("GENAI_MIRROR", "")
    if not given:
        return []
    if not given.startswith(("http://", "https://")) or not _host(given):
        raise ConfigError(f"GENAI_MIRROR is '{given}', no address", fix="type export GENAI_MIRROR=https://HOST/FOLDER")
    return [f"{given.rstrip('/')}/{name}"]


def _host(url: str) -> str:
    """What of an address is told: it may hold a password."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@contextlib.contextmanager
def _alone(folder: Path, name: str, console: Console) -> Iterator[None]:
    """One process at a time; the system frees the lock of one that dies. Raises OutputError."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.note(f"data={name}: another process downloads it, waiting")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # A file system without locks: two at once may spoil the part, which the hash then shows.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "free some space or make it writable, or type export GENAI_DATA=FOLDER"
        raise OutputError(f"cannot write here: {_reason(error)}", path=folder, fix=fix) from error


def _download(file: RemoteFile, urls: Sequence[str], folder: Path, console: Console) -> None:
    """Raises DataError with what each mirror said."""
    part, left = folder / f"{file.name}.part", list(urls)
    said: dict[str, str] = {}
    for pause in (0.0, *PAUSES_SECONDS):
        if not left:
            break
        time.sleep(pause)
        for url in tuple(left):
            try:
                with console.transfer(file.name, file.num_bytes) as show:
                    _fill(part, file, url, show)
                with _writing(folder):
                    with part.open("rb") as written:
                        os.fsync(written.fileno())
                    os.replace(part, folder / file.name)
                    sync_folder(folder)
                return
            except _Failed as failure:
                if said.get(_host(url)) != str(failure):
                    said[_host(url)] = str(failure)
                    console.note(f"{file.name}: {_host(url)}: {failure}")
                if failure.final:
                    left.remove(url)
    told = "; ".join(f"{host}: {reason}" for host, reason in said.items())
    raise DataError(f"{file.name}: {told}")


def _fill(part: Path, file: RemoteFile, url: str, show: Callable[[int], None]) -> None:
    """Brings the part to the right bytes, over as many connections as bring it further. Raises _Failed."""
    only_from_here = _size(part) == 0
    for _ in range(_MOST_CONNECTIONS):
        begin = _size(part)
        try:
            if begin > file.num_bytes:
                with _writing(part.parent):
                    part.unlink()
            if begin != file.num_bytes:
                _receive(part, file, url, show)
        except _Failed as failure:
            if failure.final or _size(part) <= begin:
                raise
            continue
        if _sha256(part) == file.sha256:
            return
        with _writing(part.parent):
            part.unlink()
        if only_from_here:
            raise _Failed("wrong bytes (sha256 differs)", final=True)
        only_from_here = True  # the bytes of an earlier attempt may be the wrong ones: all once more
    raise _Failed("too many broken connections")


def _receive(part: Path, file: RemoteFile, url: str, show: Callable[[int], None]) -> None:
    """One connection: appends what the part lacks, or writes it anew where the server cannot do that."""
    begin = _size(part)
    headers = {"User-Agent": "genai", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={begin}-"} if begin else {}
    try:
        # An opener of its own: the shared one keeps the proxies of its first call.
        with build_opener().open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
            begin = _first_byte(answer, begin, file)
            with _writing(part.parent):
                out = part.open("ab" if begin else "wb")
            with out:
                show(begin)
                # read1 returns what has come: so a stop shows after TIMEOUT_SECONDS, and all before it is kept.
                while begin < file.num_bytes and (block := answer.read1(min(_BLOCK_BYTES, file.num_bytes - begin))):
                    with _writing(part.parent):
                        out.write(block)
                        out.flush()
                    begin += len(block)
                    show(begin)
    except HTTPError as error:
        error.close()
        if error.code == 416 and begin:  # there is no such byte there: the part is of something else
            with _writing(part.parent):
                part.unlink()
            return _receive(part, file, url, show)
        raise _Failed(
            f"HTTP {error.code} {error.reason}", final=error.code < 500 and error.code not in _PASSING
        ) from error
    except URLError as error:
        # One that could not be reached for so long would only cost that time again.
        final = isinstance(error.reason, TimeoutError | ssl.SSLCertVerificationError)
        raise _Failed(_reason(error.reason), final=final) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Failed(_reason(error), final=isinstance(error, http.client.InvalidURL)) from error
    if begin < file.num_bytes:
        raise _Failed(f"the connection ended after {begin:,} of {file.num_bytes:,} bytes")


def _first_byte(answer: http.client.HTTPResponse, asked: int, file: RemoteFile) -> int:
    """Which byte of the file the answer begins with. Raises _Failed for an answer that is of another file."""
    total = answer.headers.get("Content-Length")
    begin = 0
    if answer.status == 206:
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
        if stated is None or int(stated[1]) != asked:
            raise _Failed("answered with another range than was asked for", final=True)
        begin, total = asked, None if stated[2] == "*" else stated[2]
    if total is not None and total != str(file.num_bytes):
        raise _Failed(f"has {total} bytes under that name, expected {file.num_bytes}", final=True)
    return begin


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {TIMEOUT_SECONDS:g} seconds"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:120] or type(error).__name__
