"""Which files, folders or splits of a set are its training part and which its held-out part, by their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from genai.data import sniff

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("valid", "val", "validation", "test", "testing")  # the first that a set has is what it holds out
_BEGINS = re.compile(rf"({'|'.join((*TRAIN_NAMES, *TEST_NAMES))})(?![a-z])", re.IGNORECASE)


def chosen_parts(names: Iterable[str]) -> tuple[str | None, str | None, list[str]]:
    """Of the names of a set's parts, in any case: the training part, the held-out part, and those left out."""
    names = sorted(names)
    by_name = {name.lower(): name for name in names}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    test = next((by_name[name] for name in TEST_NAMES if name in by_name), None)
    return train, test, [name for name in names if name not in (train, test)]


def left_out_note(test: str, left_out: Sequence[str]) -> list[str]:
    return [f"held-out data is '{test}'; not used: {', '.join(left_out)}"] if left_out else []


def other_files_note(names: Sequence[str], kind: str) -> list[str]:
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    more = f" ({len(names):,} in all)" * (len(names) > 3)
    return [f"left out as {kind}: {shown}{more}"] if names else []


def files_of_parts(
    path: Path, wanted: Callable[[str], bool], notes: list[str]
) -> tuple[list[Path], list[Path]]:  # training, held out
    """The wanted files at or below a path by part: `train-0001.x`, `test/0001.x`; those without such a name train."""
    if path.is_file():
        return [path], []
    names = list(sniff.walk(path))
    files: dict[str, list[Path]] = {}
    for name in filter(wanted, names):
        files.setdefault(_part_of(name), []).append(path / name)
    others = [name for name in names if not wanted(name) and not name.lower().endswith(".md")]
    notes += other_files_note(others, "no data")
    train, test, left_out = chosen_parts(files)
    if train is None:  # only a test part: a set like any other
        return [file for part in sorted(files) for file in files[part]], []
    if test is None:
        return files[train], []
    notes += left_out_note(test, left_out)
    return files[train], files[test]


def _part_of(name: str) -> str:
    """ "train" or the name of a held-out part: from the file's own name, else from the nearest folder's."""
    for word in reversed(name.split(os.sep)):
        if found := _BEGINS.match(word):
            part = found[1].lower()
            return "train" if part in TRAIN_NAMES else part
    return "train"
