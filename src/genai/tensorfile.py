"""The safetensors format: written in one pass with its hash, read with every length checked before it is believed.

Own code rather than the library's, so that hashing overlaps writing, modes follow the umask, errors name the file, and
a header can be shown without torch. The tests read and write the same files with the library.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genai.documents import unique_keys
from genai.errors import CheckpointError, SecurityError

if TYPE_CHECKING:
    from torch import Tensor

_MAX_HEADER_BYTES = 16 << 20
_MAX_TENSORS = 100_000
_NAMES = {  # safetensors' name of a dtype -> torch's, and the bytes of one value
    "F64": ("float64", 8), "I64": ("int64", 8), "U64": ("uint64", 8), "C64": ("complex64", 8),
    "F32": ("float32", 4), "I32": ("int32", 4), "U32": ("uint32", 4),
    "F16": ("float16", 2), "BF16": ("bfloat16", 2), "I16": ("int16", 2), "U16": ("uint16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip
_CODES = {torch_name: code for code, (torch_name, _) in _NAMES.items()}
PICKLE_SUFFIXES = frozenset((".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".joblib", ".metadata"))


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: dtype by safetensors' name, and where its bytes lie from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    start: int  # where the header ends


def read_header(path: Path) -> Header:
    """The checked header of a file. Raises CheckpointError, and SecurityError for a pickle under another name."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(9)
            length = int.from_bytes(head[:8], "little")
            if len(head) < 9 or head[8:] != b"{" or length > size - 8:
                _refuse_pickle(path, head)
                raise _damaged(path, "this is no safetensors file")
            if length > _MAX_HEADER_BYTES:
                raise _damaged(path, f"its header claims {length:,} bytes, at most {_MAX_HEADER_BYTES:,} are read")
            text = head[8:] + file.read(length - 1)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=path) from error
    try:
        plain = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
        metadata = plain.pop("__metadata__", {})
        if not all(isinstance(v, str) for v in metadata.values()) or len(plain) > _MAX_TENSORS:
            raise ValueError("its metadata is no text, or its tensors are too many")
        entries = {name: _entry(fields) for name, fields in plain.items()}
        _check_layout(entries, size - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header is damaged: {error}") from error
    return Header(entries, metadata, 8 + length)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU, each with memory of its own."""
    import torch

    header = read_header(path)
    flat = {
        name: torch.empty(math.prod(entry.shape), dtype=getattr(torch, _NAMES[entry.dtype][0]))
        for name, entry in header.tensors.items()
    }
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path=path) from error

    def fill(name: str) -> None:
        view = flat[name].view(torch.uint8).numpy().data
        at = header.start + header.tensors[name].begin
        while len(view):
            if not (count := os.preadv(descriptor, [view], at)):
                raise _damaged(path, "it ends early")
            view, at = view[count:], at + count

    # Most of the time goes into the first touch of fresh memory, which threads share.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            deque(pool.map(fill, flat), maxlen=0)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", path=path) from error
        finally:
            pool.shutdown()
            os.close(descriptor)
    return {name: flat[name].reshape(entry.shape) for name, entry in header.tensors.items()}


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The parts of a safetensors file. Tensors on the CPU are not copied; others are, one at a time."""
    # Wide types first, as the library does: then every tensor is aligned for its dtype.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, tensor in ordered:
        code = _CODES.get(str(tensor.dtype).removeprefix("torch."))
        if code is None:
            raise TypeError(f"tensor '{name}' is {tensor.dtype}, which no checkpoint holds")
        end = begin + tensor.numel() * tensor.element_size()
        fields[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(fields, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        if tensor.numel():
            yield _bytes_of(tensor)


def write(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """A new file of `parts`, synced to disk: its bytes and sha256. The mode follows the umask. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        # Hashing beside writing costs a second core nothing; few parts wait, so memory stays bounded.
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[None]] = deque()
            for part in parts:
                waiting.append(pool.submit(digest.update, part))
                _write_all(descriptor, memoryview(part))
                size += len(part)
                if len(waiting) > 4:
                    waiting.popleft().result()
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def hash_file(path: Path) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_pickle(path: Path) -> None:
    """SecurityError where a file's name or first bytes say that it is a pickle."""
    if path.suffix in PICKLE_SUFFIXES:
        raise _pickle(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return
    if head[8:] != b"{":
        _refuse_pickle(path, head)


def _refuse_pickle(path: Path, head: bytes) -> None:
    # Protocols 2 to 5, torch's zip files, and the text protocols' usual openings.
    if re.match(rb"\x80[\x02-\x05]|PK\x03\x04|[(c\]}][\w\n.(]", head):
        raise _pickle(path)


def _pickle(path: Path) -> SecurityError:
    return SecurityError(
        "pickle checkpoints are not loaded: they can run code", path=path, fix="convert it to safetensors"
    )


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(what, path=path, fix="use another checkpoint of the run")


def _entry(fields: Mapping[str, Any]) -> Entry:
    if set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("a tensor's fields are not dtype, shape, data_offsets")
    dtype, shape, (begin, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    if dtype not in _NAMES:
        raise ValueError(f"unknown dtype {str(dtype)[:20]!r}")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in (*shape, begin, end)) or len(shape) > 64:
        raise ValueError("a shape or offset is no natural number")
    if math.prod(shape) * _NAMES[dtype][1] != end - begin:
        raise ValueError("a shape does not fit its bytes")
    return Entry(dtype, shape, begin, end)


def _check_layout(entries: Mapping[str, Entry], size: int) -> None:
    """The tensors cover the data without gap or overlap. Raises ValueError."""
    at = 0
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != at:
            raise ValueError("tensors overlap or leave a gap")
        at = entry.end
    if at != size:
        raise ValueError(f"tensors end at byte {at:,} of {size:,}")


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_all(descriptor: int, view: memoryview) -> None:
    while len(view):
        view = view[os.write(descriptor, view) :]
