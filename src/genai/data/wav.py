"""Wav files of whole numbers of 8 to 32 bits or of floats, read with numpy alone
(https://learn.microsoft.com/en-us/windows/win32/api/mmreg/ns-mmreg-waveformatextensible)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import IO

import numpy as np

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0x7FFF_F000  # or more: what programs write that cannot go back to the header
_MOST_CHUNKS = 1000


@dataclass(frozen=True)
class WavHeader:
    """Where the values of a file lie: frames of one value a channel, from the byte `start` on."""

    rate: int
    channels: int
    frames: int
    is_float: bool
    value_bytes: int
    start: int


def read_header(file: IO[bytes]) -> WavHeader | None:
    """The header of a wav file; None for other formats, and for codings that are not read here.

    Raises ValueError for a file that is damaged or cut off.
    """
    magic = file.read(12)
    if magic[:4] != b"RIFF" or magic[8:] != b"WAVE":
        return None
    size = os.fstat(file.fileno()).st_size
    coding: tuple[int, int, int, int] | None = None
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        start = file.tell()
        if name == b"fmt ":
            if length < 16:
                raise ValueError("a damaged header")
            body = file.read(16)
            if len(body) < 16:
                break
            found, channels, rate, _, frame_bytes, _ = struct.unpack("<HHIIHH", body)
            if found == _EXTENSIBLE and length >= 40:
                (found,) = struct.unpack("<8xH", file.read(10))  # the first bytes of the sub-format
            coding = found, channels, rate, frame_bytes
        if name == b"data" and coding is not None:
            held = size - start
            unknown = length >= _UNKNOWN_SIZE
            if not unknown and length > held:
                raise ValueError(f"its header says {length:,} bytes, it has {held:,} (cut off?)")
            return _header(*coding, start, held if unknown else length)
        file.seek(start + length + length % 2)
    raise ValueError("it is cut off before its values begin")


def _header(found: int, channels: int, rate: int, frame_bytes: int, start: int, length: int) -> WavHeader | None:
    if found not in (_PCM, _FLOAT):
        return None
    value_bytes = frame_bytes // max(channels, 1)
    if channels == 0 or frame_bytes != channels * value_bytes:
        raise ValueError(f"{channels} channels in frames of {frame_bytes} bytes")
    if value_bytes not in ((4, 8) if found == _FLOAT else (1, 2, 3, 4)):
        return None
    return WavHeader(rate, channels, length // frame_bytes, found == _FLOAT, value_bytes, start)


def read_frames(file: IO[bytes], header: WavHeader, count: int) -> np.ndarray:
    """(channels, frames) float32, whole numbers as -1 to 1, of the first `count` frames."""
    count = min(count, header.frames)
    file.seek(header.start)
    content = file.read(count * header.channels * header.value_bytes)
    values: np.ndarray
    if header.is_float:
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite, which is told
            values = np.frombuffer(content, f"<f{header.value_bytes}").astype(np.float32)
    elif header.value_bytes == 1:
        values = (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    else:
        # Into the upper bytes of 32 bits, where every width has the same range.
        wide = np.zeros((count * header.channels, 4), np.uint8)
        wide[:, 4 - header.value_bytes :] = np.frombuffer(content, np.uint8).reshape(-1, header.value_bytes)
        values = wide.view("<i4")[:, 0].astype(np.float32) / (1 << 31)
    return values.reshape(-1, header.channels).T
