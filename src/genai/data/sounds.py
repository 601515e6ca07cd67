"""Sounds as int16 (C, T): decoded from files or taken from arrays, resampled, mixed, cut and filled alike."""

from __future__ import annotations

import importlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genai.data import wav
from genai.data.source import refuse_foreign_settings
from genai.errors import ConfigError, DataError, GenaiError
from genai.schema import DataConfig

LONGEST_SECONDS = 60.0  # of a set that data.seconds says nothing of
_OUTLIER = 4  # times as long as 19 of 20: no length for all
RATES = (100, 768_000)  # values a second
_MOST_CHANNELS = 64
_ESTIMATE = 0.95  # of the length that an MP3 states, which it holds at least
_ENDLESS = 1 << 40  # frames, which a decoder states where it knows none
_MARGIN = 4096  # frames beyond a cut that resampling looks at
_LEVELS = 1 << 15  # int16 levels from 0 to 1


@dataclass(frozen=True)
class Look:
    """What the header of a sound says."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


@dataclass(frozen=True)
class Frame:
    """What every sound of a set is brought to: `length` values a channel, `rate` of them a second."""

    channels: int
    length: int
    rate: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.channels, self.length

    @property
    def num_bytes(self) -> int:
        return 2 * self.channels * self.length


def look_at(path: Path) -> Look:
    """Rate, channels and length of a sound from its header. Raises DataError for what is none."""
    try:
        return _read(path, 0)[0]
    except GenaiError:
        raise
    except Exception as error:  # headers of damaged files raise nearly everything
        raise _bad_sound(path, error) from error


def decode(path: Path, frame: Frame) -> np.ndarray:
    """(C, T) int16. Raises DataError for what cannot be read."""
    try:
        look, values = _read(path, frame.length, frame.rate)
        return fit(values, look.rate, frame, path)
    except GenaiError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise _bad_sound(path, error) from error


def fit(values: np.ndarray, rate: int, frame: Frame, path: object = None) -> np.ndarray:
    """Values (channels, n) at a rate, int16 or -1 to 1, as int16 (C, T): mixed by their mean or repeated, resampled,
    cut at the end or filled with silence. What is beyond -1 to 1 is clipped, as a player does."""
    if rate == frame.rate:
        values = values[:, : frame.length]
    values = values.astype(np.float32) / (_LEVELS if values.dtype.kind == "i" else 1)
    if not np.isfinite(values).all():
        raise DataError("a sound with values that are not finite", path=path, fix="make it again, or remove it")
    values = values.clip(-1, 1)
    if frame.channels == 1:
        values = values.mean(axis=0, keepdims=True)
    elif len(values) not in (1, frame.channels):
        what = f"a sound of {len(values)} channels, expected 1 or {frame.channels}"
        raise DataError(what, path=path, fix="type data.channels=1")
    if rate != frame.rate:
        values = _library("soxr").resample(values.T, rate, frame.rate).T[:, : frame.length]
    made = np.zeros(frame.shape, np.int16)
    made[:, : values.shape[1]] = np.rint(values * _LEVELS).clip(-_LEVELS, _LEVELS - 1)
    return made


def as_nct(array: np.ndarray, path: Path) -> np.ndarray:
    """Sounds (N, T) or (N, channels, T) of an array as the latter. Raises DataError for what is none."""
    sounds = array[:, None] if array.ndim == 2 else array
    if sounds.ndim != 3 or 0 in sounds.shape or sounds.dtype.str[1:] not in ("i2", "f2", "f4", "f8"):
        what = f"sounds of type {array.dtype} and shape {array.shape}"
        raise DataError(what, path=path, fix="save int16, or numbers from -1 to 1, of shape (N, T) or (N, channels, T)")
    if sounds.shape[1] > _MOST_CHANNELS:
        what = f"sounds of shape {array.shape}, whose second axis is no channels"
        raise DataError(what, path=path, fix="save them as (N, T) or (N, channels, T)")
    return sounds


def prepare(sounds: np.ndarray, frame: Frame, rate: int) -> np.ndarray:
    """(N, channels, n) of an array -> (N, C, T) int16."""
    return np.stack([fit(sound, rate, frame) for sound in sounds])


def frame_of(looks: Sequence[Look], config: DataConfig) -> tuple[Frame, list[str]]:
    """The frame for sounds that look like these, and what the user should know about it.

    Raises ConfigError for settings of other data, for sounds too long to be taken whole unless data.seconds says so,
    and where resampling needs a library that is missing.
    """
    refuse_foreign_settings(config, "audio")
    notes = []
    rates = Counter(look.rate for look in looks)
    rate = config.sample_rate or min(rates, key=lambda found: (-rates[found], found))
    if rates.keys() - {rate}:
        _library("soxr")
        found = f"{min(rates):,}" if len(rates) == 1 else f"{min(rates):,} to {max(rates):,}"
        notes.append(f"sounds at {found} Hz become {rate:,} Hz; data.sample_rate=N for another rate")
    numbers = {look.channels for look in looks}
    alike = max(numbers) if len(numbers) == 1 and max(numbers) <= 2 else 1
    if config.channels is None and numbers != {alike}:
        notes.append(f"sounds of {' and '.join(map(str, sorted(numbers)))} channels are mixed to 1")
    seconds = _longest(looks, config) if config.seconds is None else config.seconds
    length = round(seconds * rate)
    if length == 0:
        raise ConfigError(f"{seconds:g} s at {rate:,} Hz are no value", fix="type a larger data.seconds")
    if config.seconds is None:
        notes.append(f"sounds are {seconds:.3g} s, as long as the longest; data.seconds=N for another length")
    lengths = [round(look.seconds * rate) for look in looks]
    changed = {
        "cut at the end": sum(found > length for found in lengths),
        "filled with silence": sum(found < length for found in lengths),
    }
    if told := " and ".join(f"{count:,} {how}" for how, count in changed.items() if count):
        notes.append(f"of {len(looks):,} sounds, {told}")
    return Frame(config.channels or alike, length, rate), notes


def _longest(looks: Sequence[Look], config: DataConfig) -> float:
    """Seconds of the longest sound. Raises ConfigError where these are no length for all."""
    lengths = sorted(look.seconds for look in looks)
    longest, most = lengths[-1], lengths[min(math.ceil(0.95 * len(lengths)) - 1, len(lengths) - 2)]
    if longest > LONGEST_SECONDS or (len(lengths) > 3 and longest > _OUTLIER * most):
        what = f"the longest sound has {longest:.3g} s, nearly all others at most {most:.3g} s"
        seconds = f"{min(math.ceil(100 * most) / 100, LONGEST_SECONDS):g}"
        raise ConfigError(what, path=config.path, fix=f"type data.seconds={seconds}, or as long as each is to be")
    return longest


def _read(path: Path, length: int, rate: int = 0) -> tuple[Look, np.ndarray]:
    """What the header says, and the frames (channels, n) that `length` values at `rate` are made of."""
    if not path.is_file():  # a pipe of that name would never end
        raise OSError("the link leads nowhere" if path.is_symlink() else "not a file")
    with path.open("rb") as file:
        magic = file.read(4)
        if not magic:
            raise ValueError("it is empty")
        if path.suffix.lower() in (".wav", ".wave") and magic.upper() not in (b"RIFF", b"RIFX", b"RF64"):
            raise ValueError("its content is no wav")
        file.seek(0)
        header = wav.read_header(file)
        if header is not None:
            look = _checked(Look(header.rate, header.channels, header.frames))
            return look, wav.read_frames(file, header, _needed(look, length, rate))
    soundfile = _library("soundfile")
    # By its name: errors of a file object that it reads from would be printed.
    with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as sound:
        look = _checked(Look(sound.samplerate, sound.channels, sound.frames))
        wanted = min(_needed(look, length, rate), look.frames)
        values = sound.read(wanted, dtype="float32", always_2d=True).T
        # The header of an MP3 may only estimate.
        if values.shape[1] < wanted * (_ESTIMATE if sound.format == "MP3" else 1):
            raise ValueError(f"its header says {look.frames:,} values, it has {values.shape[1]:,} (cut off?)")
        return look, values


def _needed(look: Look, length: int, rate: int) -> int:
    return length if rate in (0, look.rate) else math.ceil(length * look.rate / rate) + _MARGIN


def _checked(look: Look) -> Look:
    if look.frames <= 0:
        raise ValueError("it holds no values")
    if look.frames >= _ENDLESS:
        raise ValueError("its header does not say how long it is")
    if not RATES[0] <= look.rate <= RATES[1]:
        raise ValueError(f"its header says {look.rate:,} values a second")
    if not 0 < look.channels <= _MOST_CHANNELS:
        raise ValueError(f"its header says {look.channels:,} channels")
    return look


def _library(name: str) -> Any:
    """Raises ConfigError where it is not installed: no file is to blame."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # the second: its shared library is missing
        does = "sounds are resampled" if name == "soxr" else "sounds other than wav are read"
        raise ConfigError(f"{does} by {name}, which is missing", fix='pip install "genai-trainer[audio]"') from error


def _bad_sound(path: Path, error: BaseException) -> DataError:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    reason = " ".join(reason.split()).rstrip(".")[:120].lower() or type(error).__name__
    return DataError(f"not a readable sound ({reason})", path=path, fix="remove it, or type data.on_bad=skip")
