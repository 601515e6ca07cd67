"""WebDataset tars: the files of a sample share a name up to its first dot. Indexed once, read in place, never unpacked
(https://github.com/webdataset/webdataset)."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from genai.data import sniff
from genai.data.cache import Index, keep_index, read_index, stamp_of
from genai.data.images import in_threads
from genai.data.listed import Listed, Listing, Spans, listing_of, refuse_odd_numbers
from genai.data.parts import files_of_parts
from genai.errors import DataError, SecurityError

_TEXT_ENDINGS = ("cls", "txt", "json")
_LONGEST_TEXT = 1 << 20  # bytes
_BLOCK = 512
_MOST_ZEROS = 20  # blocks that tools write after the end


@dataclass
class _Sample:
    """What a tar holds under one name."""

    picture: tuple[str, int, int] | None = None  # name, first byte, bytes
    label: str | None = None
    caption: str | None = None
    told: str = ""  # a member that says something of it


def list_tars(path: Path) -> Listed:
    """The samples of one tar, or of a folder of them, of which `train-*` and `test-*` are the parts.

    Raises DataError for a tar that is damaged or compressed, and for a sample without a picture; SecurityError for a
    member whose path leads outside.
    """
    notes: list[str] = []
    trains, tests = files_of_parts(path, sniff.is_tar_name, notes)
    train = _list(trains, path, notes)
    test = _list(tests, path, notes, like=train) if tests else None
    return Listed(train, test, notes)


def _list(tars: Sequence[Path], path: Path, notes: list[str], like: Listing | None = None) -> Listing:
    indices = in_threads(_indexed, tars)
    if not any(index.names for index in indices):
        raise DataError("no picture in the tar" if len(tars) == 1 else "no picture in the tars", path=path)
    files = spans_of(tars, [str(tar) for tar in tars], indices)
    labels = [label for index in indices for label in index.labels]
    captions = [caption for index in indices for caption in index.captions]
    where = [(tar, f"'{name}'") for tar, index in zip(tars, indices, strict=True) for name in index.names]
    refuse_odd_numbers(labels, where)
    folders = {os.path.dirname(name) for name in files.names} - {""}
    if len(folders) > 1 and all(label is None for label in labels):
        shown = ", ".join(sorted(folders)[:3])
        notes.append(f"no labels: folders in a tar ({shown}, ...) are no classes; unpack it, or add .cls files")
    return listing_of(files, labels, captions, root=path, like=like)


def spans_of(holders: Sequence[Path | np.ndarray], titles: Sequence[str], indices: Sequence[Index]) -> Spans:
    """The pictures of these files or buffers, one index for each."""
    return Spans(
        tuple(holders),
        tuple(titles),
        tuple(name for index in indices for name in index.names),
        np.repeat(np.arange(len(indices)), [len(index.names) for index in indices]),
        np.array([offset for index in indices for offset in index.offsets], dtype=np.int64),
        np.array([size for index in indices for size in index.sizes], dtype=np.int64),
    )


def _indexed(path: Path) -> Index:
    """What the tar holds: as kept from the last time, or read now."""
    with sniff.reading(path):
        key, stamp = f"tar {path.resolve()}", stamp_of(path)
    index = read_index(key, stamp)
    if index is None:
        sniff.refuse_packed_tar(path)
        index = _scan(path)
        keep_index(key, stamp, index)
    return index


def _scan(path: Path) -> Index:
    samples: dict[str, _Sample] = {}
    last = ""
    try:
        with sniff.reading(path), tarfile.open(path, "r:") as tar:
            size = path.stat().st_size
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold all headers in memory
                last = member.name
                if member.size < 0:  # where tarfile would step back to this very member (CVE-2025-8194)
                    raise _cut_off(path, last)
                refuse_outside(member.name, path)
                if any(map(sniff.is_hidden, PurePosixPath(member.name).parts)):
                    continue
                if member.islnk():
                    what = f"'{last}' is a hard link to '{member.linkname}', which is not followed"
                    raise DataError(what, path=path, fix="make it again with tar --hard-dereference")
                if not member.isfile():
                    continue
                if member.sparse is not None or member.offset_data + member.size > size:
                    raise _cut_off(path, last)
                _add(samples, tar, member, path)
            _check_end(path, tar.offset, last)
    except tarfile.TarError as error:
        raise DataError(f"a damaged tar after '{last}': {error}", path=path, fix="copy or make it again") from error
    index = Index()
    for sample in samples.values():
        if sample.picture is None and sample.told:
            what = f"'{sample.told}' has no picture beside it"
            raise DataError(what, path=path, fix="add it to the tar under the same name, or leave it out")
        if sample.picture is not None:
            index.add(*sample.picture, sample.label, sample.caption)
    return index


def _add(samples: dict[str, _Sample], tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Adds what a member says to its sample: the picture, the label (.cls), the caption (.txt), or both (.json)."""
    folder, base = os.path.split(member.name)
    name, _, ending = base.lower().partition(".")
    name, kind = f"{folder}/{base[: len(name)]}", f".{ending.rpartition('.')[2]}"
    sample = samples.setdefault(name, _Sample())
    if kind in sniff.PICTURE_SUFFIXES:
        if sample.picture is not None:
            what = f"'{member.name}' is a second picture of its sample, the first is '{sample.picture[0]}'"
            raise DataError(what, path=path, fix="give each sample one picture")
        sample.picture = (member.name, member.offset_data, member.size)
    elif ending in _TEXT_ENDINGS:
        text = _text(tar, member, path)
        sample.told = member.name
        if ending == "cls":
            sample.label = text
        elif ending == "txt":
            sample.caption = text
        else:
            _add_json(sample, text, member, path)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    if member.size > _LONGEST_TEXT:
        raise DataError(f"'{member.name}' has {member.size:,} bytes, which is no label or caption", path=path)
    file = tar.extractfile(member)
    assert file is not None
    try:
        return file.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"'{member.name}' is no UTF-8 text", path=path, fix="save it as UTF-8") from error


def _add_json(sample: _Sample, text: str, member: tarfile.TarInfo, path: Path) -> None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{member.name}' is no JSON: {error}", path=path, fix="make it again") from error
    if not isinstance(values, dict):
        return
    label = values.get("label", values.get("cls"))
    caption = values.get("text", values.get("caption"))
    if sample.label is None and isinstance(label, str | int):
        sample.label = str(label).strip()
    if sample.caption is None and isinstance(caption, str):
        sample.caption = caption.strip()


def refuse_outside(name: str, path: Path) -> None:
    """Raises SecurityError for a member whose name leads out of the tar."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or parts[0][1:2] == ":":
        raise SecurityError(
            f"a member's path leads outside of the tar: '{name}'", path=path, fix="do not use this file"
        )


def _check_end(path: Path, offset: int, last: str) -> None:
    """After the last member a tar has a block of zeros; anything else is a cut, damage or another tar."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK or any(block):
            raise _cut_off(path, last)
        if any(file.read(_MOST_ZEROS * _BLOCK)):
            raise DataError(
                f"goes on after its end, behind '{last}'", path=path, fix="join tars with tar --concatenate"
            )


def _cut_off(path: Path, member: str) -> DataError:
    return DataError(f"the tar is cut off or damaged at '{member}'", path=path, fix="copy or make it again")
