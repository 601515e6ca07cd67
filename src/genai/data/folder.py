"""A folder of pictures: sub-folders or a metadata file give the classes, `train` and `test` folders are the parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genai.data import sniff
from genai.data.images import Frame, Look, decode, frame_of, in_threads, look_at
from genai.data.metadata import read_labels
from genai.data.source import RESIDENT_BYTES, Part, Source
from genai.errors import DataError
from genai.schema import DataConfig

_TRAIN_NAMES = frozenset({"train", "training"})
_TEST_NAMES = frozenset({"test", "testing", "valid", "val", "validation"})
_MOST_LOOKED_AT = 5000  # headers read to learn the size and the colours of a set
_MOST_SKIPPED = (8, 0.01)  # files, or this part of them: beyond the larger something else is wrong


@dataclass(frozen=True)
class Listing:
    """The pictures of one part of a folder, by path relative to `root`, and the class of each."""

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray | None  # (N,) int64
    names: tuple[str, ...]  # of the classes; none where there are no labels


class FolderRows:
    """Pictures that are decoded when asked for."""

    def __init__(self, listing: Listing, frame: Frame) -> None:
        self._listing, self._frame = listing, frame
        self.shape: tuple[int, ...] = frame.shape

    def __len__(self) -> int:
        return len(self._listing.files)

    def read(self, index: np.ndarray) -> np.ndarray:
        root, files = self._listing.root, self._listing.files
        return np.stack(in_threads(lambda i: decode(root / files[i], self._frame), index.tolist()))

    def digest(self) -> bytes:
        # Names and sizes: reading a million pictures to hash them would take longer than training on some.
        root, digest = self._listing.root, hashlib.sha256()
        for name in self._listing.files:
            with sniff.reading(root / name):
                size = os.stat(root / name).st_size
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        return digest.digest()


def open_folder(path: Path, config: DataConfig, name: str) -> Source:
    """Raises DataError for a folder without pictures, and for pictures that cannot be read (see data.on_bad)."""
    train, test, notes = list_folder(path)
    frame, said = frame_for(train, config)
    notes += said
    parts = [_read(listing, frame, config, notes) if listing else None for listing in (train, test)]
    assert parts[0] is not None
    classes = len(train.names)
    return Source(name, "image", parts[0], parts[1], classes=classes, names=train.names, notes=tuple(notes))


def list_folder(path: Path) -> tuple[Listing, Listing | None, list[str]]:
    """The training pictures, the held-out ones where the folder has any, and notes on what was left out."""
    notes: list[str] = []
    folders = {e.name.lower(): e.name for e in os.scandir(path) if e.is_dir() and not sniff.is_hidden(e.name)}
    trains, tests = sorted(_TRAIN_NAMES & set(folders)), sorted(_TEST_NAMES & set(folders))
    if len(trains) != 1 or not tests or set(folders) - {*trains, *tests}:
        return _list(path, notes), None, notes
    train = _list(path / folders[trains[0]], notes)
    chosen = next(name for name in ("valid", "val", "validation", "test", "testing") if name in tests)
    if len(tests) > 1:
        left_out = ", ".join(folders[name] for name in tests if name != chosen)
        notes.append(f"held-out data is '{folders[chosen]}'; not used: {left_out}")
    test = _list(path / folders[chosen], notes, like=train)
    return train, test, notes


def frame_for(listing: Listing, config: DataConfig) -> tuple[Frame, list[str]]:
    """What the pictures are brought to. Raises DataError where none has a readable header."""
    return frame_of(_look_at_some(listing), config)


def find_bad(listing: Listing, frame: Frame) -> list[DataError]:
    """The errors of all pictures that cannot be decoded."""
    return [result for result in in_threads(_decoder(listing, frame), listing.files) if isinstance(result, DataError)]


def without(listing: Listing, left_out: set[Path]) -> Listing:
    """The listing without these files, given with their folder."""
    kept = [i for i, name in enumerate(listing.files) if listing.root / name not in left_out]
    labels = None if listing.labels is None else listing.labels[kept]
    return Listing(listing.root, tuple(listing.files[i] for i in kept), labels, listing.names)


def _list(root: Path, notes: list[str], like: Listing | None = None) -> Listing:
    files: list[str] = []
    others: list[str] = []
    for name in sniff.walk(root):
        (files if sniff.is_picture_name(name) else others).append(name)
    if not files:
        found = f"only files like '{others[0]}'" if others else "it is empty"
        raise DataError(f"no picture in the folder, {found}", path=root, fix=f"give data.path {sniff.EXPECTED}")
    given = read_labels(root)
    others = [name for name in others if given is None or name != given[0].name]
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        notes.append(f"{len(others)} files that are no pictures are left out: {shown}")
    classes = _classes_by_folder(files) if given is None else _classes_by_metadata(files, *given)
    names = _in_order(set(classes) - {""})
    if len(names) < 2 and like is None:
        return Listing(root, tuple(files), None, ())
    if "" in classes:
        stray = files[classes.index("")]
        raise DataError(
            f"pictures both in class folders ({names[0]}, ...) and beside them ({stray})",
            path=root,
            fix="move each into the folder of its class",
        )
    if like is not None:
        if like.labels is None:
            return Listing(root, tuple(files), None, ())
        if unknown := set(names) - set(like.names):
            raise DataError(f"class '{min(unknown)}' is not among the training data", path=root, fix="add or remove it")
        names = list(like.names)
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[name] for name in classes], dtype=np.int64)
    return Listing(root, tuple(files), labels, tuple(names))


def _classes_by_folder(files: list[str]) -> list[str]:
    return [name.split(os.sep, 1)[0] if os.sep in name else "" for name in files]


def _classes_by_metadata(files: list[str], path: Path, labels: dict[str, str]) -> list[str]:
    """Raises DataError unless the pictures and the rows are the same."""
    if missing := labels.keys() - set(files):
        raise DataError(
            f"names '{min(missing)}', which is not in the folder", path=path, fix="add it, or remove its row"
        )
    if unnamed := set(files) - labels.keys():
        raise DataError(f"no row for '{min(unnamed)}'", path=path, fix="add one, or remove the picture")
    return [labels[name] for name in files]


def _in_order(names: set[str]) -> list[str]:
    """By name; by value where all are numbers, so that class "10" is number 10."""
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def _look_at_some(listing: Listing) -> list[Look]:
    """Headers of all pictures, or of evenly spaced ones of a large set; those that cannot be read are met later."""
    chosen = np.unique(np.linspace(0, len(listing.files) - 1, _MOST_LOOKED_AT).round().astype(int))

    def look(i: np.integer) -> Look | DataError:
        try:
            return look_at(listing.root / listing.files[i])
        except DataError as error:
            return error

    results = in_threads(look, list(chosen))
    looks = [found for found in results if isinstance(found, Look)]
    if not looks:
        raise next(found for found in results if isinstance(found, DataError))
    return looks


def _read(listing: Listing, frame: Frame, config: DataConfig, notes: list[str]) -> Part:
    """The pictures in memory where they fit, else rows that read them; without bad ones where these are skipped."""
    num_files = len(listing.files)
    if num_files * frame.num_bytes <= RESIDENT_BYTES:
        results = in_threads(_decoder(listing, frame), listing.files)
        bad = {i: result for i, result in enumerate(results) if isinstance(result, DataError)}
        _judge(list(bad.values()), num_files, config, notes)
        x = np.stack([result for result in results if not isinstance(result, DataError)])
        kept = [i for i in range(num_files) if i not in bad]
        return Part(x, None if listing.labels is None else listing.labels[kept])
    if config.on_bad == "skip":  # which samples there are must be known before the first
        errors = find_bad(listing, frame)
        _judge(errors, num_files, config, notes)
        listing = without(listing, {Path(str(error.path)) for error in errors})
    return Part(FolderRows(listing, frame), listing.labels)


def _decoder(listing: Listing, frame: Frame) -> Callable[[str], np.ndarray | DataError]:
    """A decoder that returns its errors, so that all can be told."""

    def decode_one(name: str) -> np.ndarray | DataError:
        try:
            return decode(listing.root / name, frame)
        except DataError as error:
            return error

    return decode_one


def _judge(bad: Sequence[DataError], num_files: int, config: DataConfig, notes: list[str]) -> None:
    """Raises the first error, unless bad files are to be skipped and are few."""
    if not bad:
        return
    limit = max(_MOST_SKIPPED[0], int(num_files * _MOST_SKIPPED[1]))
    if config.on_bad == "error" and len(bad) == 1:
        raise bad[0]
    if config.on_bad == "error" or len(bad) > limit or len(bad) == num_files:
        fix = "see all with `genai data check PATH`"
        fix += "; remove them, or type data.on_bad=skip" if config.on_bad == "error" else ""
        raise DataError(f"{len(bad)} of {num_files} files are bad, the first: {bad[0].what}", path=bad[0].path, fix=fix)
    shown = ", ".join(str(error.path) for error in bad[:3]) + (", ..." if len(bad) > 3 else "")
    notes.append(f"{len(bad)} bad pictures are skipped: {shown}")
