"""Samples that can be listed and opened by number, pictures or sounds, wherever they lie: decoded, checked and streamed
alike."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from genai.data import images, sniff, sounds
from genai.data.images import Encoded, in_threads
from genai.data.source import RESIDENT_BYTES, Part, Source
from genai.errors import DataError
from genai.schema import DataConfig

_MOST_LOOKED_AT = 5000  # headers read to learn the size and the colours, or the length and the rate, of a set
_MOST_SKIPPED = (8, 0.01)  # files, or this part of them: beyond the larger something else is wrong


class Frame(Protocol):
    """What every sample of a set is brought to."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_bytes(self) -> int:
        """Of one sample."""


@dataclass(frozen=True)
class Medium:
    """What kind of file holds a sample, and how it is read."""

    noun: str
    modality: Literal["image", "audio"]
    dtype: type[np.generic]  # of the values as they are stored
    is_name: Callable[[str], bool]
    look_at: Callable[[Any], Any]  # a file -> what its header says; raises DataError
    frame_of: Callable[[Sequence[Any], DataConfig], tuple[Any, list[str]]]  # of all that headers said, and notes
    decode: Callable[[Any, Any], np.ndarray]  # (file, frame) -> the sample; raises DataError
    least: Frame  # one that stands in where no header can be read


PICTURES = Medium(
    "picture",
    "image",
    np.uint8,
    sniff.is_picture_name,
    images.look_at,
    images.frame_of,
    images.decode,
    images.Frame(channels=3, height=1, width=1, fits=True),
)
SOUNDS = Medium(
    "sound",
    "audio",
    np.int16,
    sniff.is_sound_name,
    sounds.look_at,
    sounds.frame_of,
    sounds.decode,
    sounds.Frame(channels=1, length=1, rate=8000),
)


class Files(Protocol):
    """Encoded samples by number."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """The file, with the place inside it where it holds several."""

    def open(self, i: int) -> Path | Encoded:
        """Raises DataError."""

    def take(self, kept: np.ndarray) -> Files:
        """Those of these numbers."""

    def digest(self) -> bytes:
        """Changes with what they are, as far as names and sizes tell: to hash millions would take longer than to
        train on some."""


@dataclass(frozen=True)
class WholeFiles:
    """One file for each sample, by path relative to `root`."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return str(self.root / self.names[i])

    def open(self, i: int) -> Path:
        return self.root / self.names[i]

    def take(self, kept: np.ndarray) -> WholeFiles:
        return replace(self, names=tuple(self.names[i] for i in kept))

    def digest(self) -> bytes:
        digest = hashlib.sha256()
        for name in self.names:
            with sniff.reading(self.root / name):
                size = os.stat(self.root / name).st_size
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        return digest.digest()


@dataclass(frozen=True)
class Spans:
    """Bytes inside larger files, or inside buffers in memory. `titles` name these as errors tell them."""

    holders: tuple[Path | np.ndarray, ...]
    titles: tuple[str, ...]
    names: tuple[str, ...]  # of each sample inside its holder
    which: np.ndarray  # (N,) number of the holder
    offsets: np.ndarray  # (N,) int64 bytes
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        return f"{self.titles[self.which[i]]}/{self.names[i]}"

    def open(self, i: int) -> Encoded:
        holder, start, size = self.holders[self.which[i]], int(self.offsets[i]), int(self.sizes[i])
        if isinstance(holder, np.ndarray):
            return Encoded(holder[start : start + size].tobytes(), self.name(i))
        with sniff.reading(holder), holder.open("rb", buffering=0) as file:
            file.seek(start)
            return Encoded(file.read(size), self.name(i))

    def take(self, kept: np.ndarray) -> Spans:
        names = tuple(self.names[i] for i in kept)
        return replace(self, names=names, which=self.which[kept], offsets=self.offsets[kept], sizes=self.sizes[kept])

    def digest(self) -> bytes:
        digest = hashlib.sha256("\0".join(self.names).encode(errors="surrogateescape"))
        for values in (self.which, self.offsets, self.sizes):
            digest.update(values.data)
        return digest.digest()


@dataclass(frozen=True)
class Listing:
    """The samples of one part of a set, with the class and the caption of each."""

    files: Files
    labels: np.ndarray | None  # (N,) int64
    names: tuple[str, ...]  # of the classes; none where there are no labels
    captions: tuple[str, ...] | None = None
    medium: Medium = PICTURES

    def __len__(self) -> int:
        return len(self.files)

    def without(self, left_out: Sequence[int]) -> Listing:
        kept = np.setdiff1d(np.arange(len(self)), np.array(left_out, dtype=np.int64))
        labels = None if self.labels is None else self.labels[kept]
        captions = None if self.captions is None else tuple(self.captions[i] for i in kept)
        return replace(self, files=self.files.take(kept), labels=labels, captions=captions)


class Listed(NamedTuple):
    """A whole set: its training part, its held-out part where it has one, and notes on what was left out."""

    train: Listing
    test: Listing | None
    notes: list[str]


class FileRows:
    """Samples that are decoded when asked for."""

    def __init__(self, files: Files, frame: Frame, medium: Medium) -> None:
        self._files, self._frame, self._medium = files, frame, medium
        self.shape: tuple[int, ...] = frame.shape

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: np.ndarray) -> np.ndarray:
        return np.stack(in_threads(lambda i: self._medium.decode(self._files.open(i), self._frame), index.tolist()))

    def digest(self) -> bytes:
        return self._files.digest()


def open_listed(listed: Listed, config: DataConfig, name: str) -> Source:
    """Raises DataError for files that cannot be read (see data.on_bad)."""
    frame, notes = frame_for(listed, config)
    parts = [
        None if listing is None else _read(listing, frame, config, notes) for listing in (listed.train, listed.test)
    ]
    return source_of(listed, frame, parts, name, notes)


def source_of(listed: Listed, frame: Frame, parts: Sequence[Part | None], name: str, notes: Sequence[str]) -> Source:
    train, test = parts
    assert train is not None
    names = listed.train.names
    return Source(
        name,
        listed.train.medium.modality,
        train,
        test,
        classes=len(names),
        names=names,
        notes=tuple(notes),
        sample_rate=frame.rate if isinstance(frame, sounds.Frame) else 0,
    )


def frame_for(listed: Listed, config: DataConfig) -> tuple[Any, list[str]]:
    """What the samples are brought to, and all that the user should know so far. Raises DataError where none has a
    readable header."""
    frame, said = listed.train.medium.frame_of(_look_at_some(listed.train), config)
    parts = [part for part in (listed.train, listed.test) if part is not None]
    empty = sum(not text for part in parts for text in part.captions or ())
    return frame, [*listed.notes, *([f"{empty} captions are empty"] if empty else []), *said]


def find_bad(listing: Listing, frame: Frame, into: np.ndarray | None = None) -> dict[int, DataError]:
    """The errors of all files that cannot be decoded, by number; the others go `into` an array if there is one."""

    def attempt(i: int) -> DataError | None:
        try:
            made = listing.medium.decode(listing.files.open(i), frame)
        except DataError as error:
            return error
        if into is not None:
            into[i] = made
        return None

    errors = in_threads(attempt, range(len(listing)))
    return {i: error for i, error in enumerate(errors) if error is not None}


def listing_of(
    files: Files,
    classes: Sequence[str | None],
    captions: Sequence[str | None],
    *,
    root: Path | str,
    names: Sequence[str] = (),
    like: Listing | None = None,
    medium: Medium = PICTURES,
) -> Listing:
    """Numbers the classes of samples: by `names` where the set states them, as in `like` for a held-out part, else in
    their order. Fewer than two are none.

    Raises DataError for files of which only some have a class or a caption, and for a class that is not in `like`.
    """
    told = _complete(files, captions, "caption", medium.noun)
    texts = None if told is None else tuple(told)
    given = _complete(files, classes, "label", medium.noun)
    if like is not None:
        names = like.names
    elif not names and given is not None:
        names = _in_order(set(given))
    if given is None or len(names) < 2:
        if like is not None and like.labels is not None:
            raise DataError(
                f"the held-out {medium.noun}s have no labels", path=root, fix="add them, or remove the part"
            )
        return Listing(files, None, (), texts, medium)
    number = {name: i for i, name in enumerate(names)}
    if unknown := set(given) - number.keys():
        raise DataError(f"class '{min(unknown)}' is not among the training data", path=root, fix="add or remove it")
    labels = np.array([number[name] for name in given], dtype=np.int64)
    return Listing(files, labels, tuple(names), texts, medium)


def refuse_odd_numbers(labels: Sequence[str | None], where: Sequence[tuple[object, str]]) -> None:
    """Raises DataError for a label that is no class where all are whole numbers; `where` has (file, row) of each."""
    numbers = [text for text in labels if text is not None]
    if not all(text.removeprefix("-").isdecimal() and len(text) < 20 for text in numbers):
        return
    limit = max(1000, len(numbers))  # far beyond the samples it is no class: as for arrays
    for text, (path, row) in zip(labels, where, strict=True):
        if text is not None and not 0 <= int(text) < limit:
            what = f"label {text} of {row} is out of range, expected 0 to {limit - 1}"
            raise DataError(what, path=path, fix="number the classes from 0")


def _complete(files: Files, values: Sequence[str | None], what: str, noun: str) -> list[str] | None:
    found = [value for value in values if value is not None]
    if not found:
        return None
    if len(found) < len(files):
        i = next(i for i, value in enumerate(values) if value is None)
        raise DataError(f"a {noun} without a {what} among others with one", path=files.name(i), fix="add or remove it")
    return found


def _in_order(names: set[str]) -> list[str]:
    """By name; by value where all are numbers, so that class "10" is number 10."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _look_at_some(listing: Listing) -> list[Any]:
    """Headers of all files, or of evenly spaced ones of a large set; those that cannot be read are met later."""
    files = listing.files
    chosen = np.unique(np.linspace(0, len(files) - 1, _MOST_LOOKED_AT).round().astype(int))

    def look(i: int) -> Any:
        try:
            return listing.medium.look_at(files.open(i))
        except DataError as error:
            return error

    results = in_threads(look, chosen.tolist())
    looks = [found for found in results if not isinstance(found, DataError)]
    if not looks:
        first = next(found for found in results if isinstance(found, DataError))
        if len(files) == 1:
            raise first
        what = f"none of {len(files):,} {listing.medium.noun}s can be read; the first: {first.what}"
        raise DataError(what, path=first.path, fix="mend the files, or check data.path")
    return looks


def _read(listing: Listing, frame: Frame, config: DataConfig, notes: list[str]) -> Part:
    """The samples in memory where they fit, else rows that read them; without bad ones where these are skipped."""
    fits = len(listing) * frame.num_bytes <= RESIDENT_BYTES
    x = np.empty((len(listing), *frame.shape), dtype=listing.medium.dtype) if fits else None
    if fits or config.on_bad == "skip":  # which samples there are must be known before the first
        bad = find_bad(listing, frame, into=x)
        _judge(list(bad.values()), listing, config, notes)
        if bad:
            x = None if x is None else np.delete(x, list(bad), axis=0)
            listing = listing.without(list(bad))
    rows = FileRows(listing.files, frame, listing.medium) if x is None else x
    return Part(rows, listing.labels, listing.captions, listing.files.name)


def can_be_skipped(num_bad: int, num_files: int) -> bool:
    """Whether data.on_bad=skip leaves such a part of a set out."""
    return num_bad <= max(_MOST_SKIPPED[0], int(num_files * _MOST_SKIPPED[1])) and num_bad < num_files


def _judge(bad: Sequence[DataError], listing: Listing, config: DataConfig, notes: list[str]) -> None:
    """Raises the first error, unless bad files are to be skipped and are few."""
    if not bad:
        return
    num_files, noun = len(listing), listing.medium.noun
    few = can_be_skipped(len(bad), num_files)
    if config.on_bad == "error" and len(bad) == 1:
        raise bad[0]
    if config.on_bad == "error" or not few:
        fix = f"see all with: genai data check {shlex.quote(str(config.path or config.name))}; remove them"
        fix += ", or type data.on_bad=skip" if few else ""
        what = f"{len(bad)} of {num_files} files are bad" + ("" if few else ", too many to be skipped")
        raise DataError(f"{what}; the first: {bad[0].what}", path=bad[0].path, fix=fix)
    shown = ", ".join(str(error.path) for error in bad[:3]) + (", ..." if len(bad) > 3 else "")
    what = f"1 bad {noun} is" if len(bad) == 1 else f"{len(bad)} bad {noun}s are"
    notes.append(f"{what} skipped: {shown}")
