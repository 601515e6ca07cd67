"""A folder of pictures or of sounds: sub-folders or metadata files give the classes, `train` and `test` folders are the
parts."""

from __future__ import annotations

import os
from pathlib import Path

from genai.data import sniff
from genai.data.listed import Listed, Listing, Medium, WholeFiles, listing_of, refuse_odd_numbers
from genai.data.metadata import Row, metadata_files, read_metadata
from genai.data.parts import TRAIN_NAMES, chosen_parts, left_out_note, other_files_note
from genai.errors import DataError


def list_folder(path: Path, medium: Medium) -> Listed:
    """Of one such file, too. Raises DataError for a folder without them, and for metadata that do not fit them."""
    if path.is_file():
        return Listed(
            listing_of(WholeFiles(path.parent, (path.name,)), [None], [None], root=path, medium=medium), None, []
        )
    samples: list[str] = []
    others: list[str] = []
    for name in sniff.walk(path):
        (samples if medium.is_name(name) else others).append(name)
    if samples and (wrapper := _wrapper(samples, others)):
        listed = list_folder(path / wrapper, medium)
        return listed._replace(notes=[f"all {medium.noun}s are in {wrapper}, which is read", *listed.notes])
    notes: list[str] = []
    rows = _rows_of(path, samples, others, notes, medium)
    train, test, left_out = _parts(path)
    notes += left_out
    if train is None:
        found = _list(path, "", samples, others, rows, medium)
        return Listed(found, None, notes + _merged_note(found) + other_files_note(others, f"no {medium.noun}s"))
    others += [name for name in samples if os.sep not in name]
    found = _list(path, train, samples, others, rows, medium)
    held_out = None if test is None else _list(path, test, samples, others, rows, medium, like=found)
    return Listed(found, held_out, notes + _merged_note(found) + other_files_note(others, f"no {medium.noun}s"))


def _wrapper(samples: list[str], others: list[str]) -> str:
    """The folder inside that holds all samples in folders of its own, as what comes out of an archive does; "" where
    there is none, or where something above it says what the samples are."""
    common = os.path.commonpath([os.path.dirname(name) for name in samples])
    if all(os.path.dirname(name) == common for name in samples):  # it is a class
        common = os.path.dirname(common)
    words = common.split(os.sep)
    train = next((i for i, word in enumerate(words) if word.lower() in TRAIN_NAMES), len(words))
    common = os.sep.join(words[:train])
    above = {os.path.dirname(name) for name in metadata_files(others)}
    return common if not any(common != folder and common.startswith(folder) for folder in above) else ""


def _merged_note(listing: Listing) -> list[str]:
    """What is to be said of folders inside class folders."""
    inner: dict[str, set[str]] = {}
    for name in listing.files.names if isinstance(listing.files, WholeFiles) and listing.names else ():
        words = name.split(os.sep)
        if len(words) > 2 and words[0] in listing.names:
            inner.setdefault(words[0], set()).add(words[1])
    several = sorted(f"{top}/{name}" for top, names in inner.items() if len(names) > 1 for name in names)
    return [f"folders inside a class are that class: {', '.join(several[:4])}"] if several else []


def _parts(path: Path) -> tuple[str | None, str | None, list[str]]:
    """The sub-folders that are the parts of the set, if they are nothing else, and a note."""
    folders = [entry.name for entry in os.scandir(path) if entry.is_dir() and not sniff.is_hidden(entry.name)]
    train, test, left_out = chosen_parts(folders)
    if train is not None and not left_out:
        return train, test, []
    if train is None or test is None:  # what is called "train" among other folders is a class
        return None, None, []
    return train, test, left_out_note(test, left_out)


def _rows_of(path: Path, samples: list[str], others: list[str], notes: list[str], medium: Medium) -> dict[str, Row]:
    """The rows of all metadata files, which are taken off `others`."""
    files = metadata_files(others)
    rows = read_metadata(path, files)
    if files and not rows:
        fix = f"write file_name and label or text of each {medium.noun}, or remove the file"
        raise DataError("the file has no rows", path=path / files[0], fix=fix)
    if any(row.label is not None or row.caption is not None for row in rows.values()):
        others[:] = [name for name in others if name not in files]
    elif rows:
        notes.append(f"no column 'label' or 'text' in {', '.join(files)}: it says nothing of the {medium.noun}s")
        rows = {}
    present = set(samples)
    for name, row in rows.items():
        if name not in present:
            what = f"row {row.number} names '{name}', which is not in the folder"
            raise DataError(what, path=row.path, fix=f"add the {medium.noun}, or remove its row")
    labels = [row.label for row in rows.values()]
    refuse_odd_numbers(labels, [(row.path, f"row {row.number}") for row in rows.values()])
    return rows


def _list(
    path: Path,
    part: str,
    samples: list[str],
    others: list[str],
    rows: dict[str, Row],
    medium: Medium,
    like: Listing | None = None,
) -> Listing:
    """The samples below one sub-folder, or all of them."""
    root, start = path / part, len(part) + len(os.sep) if part else 0
    names = [name for name in samples if not part or name.startswith(part + os.sep)]
    if not names:
        within = [name for name in others if name.startswith(part)]
        found = f"only files like '{within[0]}'" if within else "it is empty"
        raise DataError(f"no {medium.noun} in the folder, {found}", path=root, fix=f"give data.path {sniff.EXPECTED}")
    files = WholeFiles(root, tuple(name[start:] for name in names))
    captions: list[str | None] = [None] * len(names)
    classes: list[str | None] = _classes_by_folder(files, medium, like)
    if rows:
        if unnamed := [name for name in names if name not in rows]:
            file = next(iter(rows.values())).path
            raise DataError(f"no row for '{min(unnamed)}'", path=file, fix=f"add one, or remove the {medium.noun}")
        captions = [rows[name].caption for name in names]
        labels = [rows[name].label for name in names]
        classes = labels if any(label is not None for label in labels) else classes
    return listing_of(files, classes, captions, root=root, like=like, medium=medium)


def _classes_by_folder(files: WholeFiles, medium: Medium, like: Listing | None) -> list[str | None]:
    classes = [name.split(os.sep, 1)[0] if os.sep in name else None for name in files.names]
    names = {name for name in classes if name is not None}
    if like.labels is None if like is not None else len(names) < 2:
        return [None] * len(classes)
    if names and None in classes:
        raise DataError(
            f"{medium.noun}s both in class folders ({min(names)}, ...) and beside them "
            f"({files.names[classes.index(None)]})",
            path=files.root,
            fix="move each into the folder of its class",
        )
    return classes
