"""Pictures in the rows of tables, as parquet files and hub sets have them: the columns are found, the encoded pictures
taken out once, into memory where they are few, else into one file of the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from genai.data.cache import Index, blob_path, keep_index, new_blob, read_index
from genai.data.listed import Listed, Listing, listing_of, refuse_odd_numbers
from genai.data.tar import spans_of
from genai.errors import DataError

HELD_BYTES = 256 << 20  # encoded pictures that are kept in memory; more are unpacked into the cache
ROWS_AT_ONCE = 256
_MOST_TIMES = 20  # that a table may grow when it is unpacked: five captions a picture are usual
_IMAGE_NAMES = ("image", "img", "picture", "photo", "png", "jpg", "jpeg")
_LABEL_NAMES = ("label", "labels", "class", "category", "target", "fine_label", "y")
_CAPTION_NAMES = ("text", "caption", "captions", "prompt", "description")


@dataclass(frozen=True)
class Table:
    """Rows with pictures. `stamp` changes when they do; `batches(columns)` reads them in order."""

    title: str  # as errors name it
    key: str  # what the cache keeps it under
    stamp: str
    schema: Any  # pyarrow.Schema
    num_bytes: int  # of all values
    batches: Callable[[list[str]], Iterator[Any]]  # of pyarrow.RecordBatch


class Tables(NamedTuple):
    trains: Sequence[Table]
    tests: Sequence[Table]
    root: Path | str  # as errors name all of them
    notes: list[str]

    @property
    def held_out(self) -> int:
        """Rows of the test part."""
        return sum(len(batch) for table in self.tests for batch in table.batches([table.schema.names[0]]))


@dataclass(frozen=True)
class Columns:
    """Where the picture, the label and the caption of a row are; `names` of the classes where the table states them."""

    image: str
    label: str | None
    caption: str | None
    names: tuple[str, ...]

    def __str__(self) -> str:
        of_classes = f" ({len(self.names)} classes)" if self.names else ""
        told = [f"pictures in '{self.image}'"]
        told += [f"labels in '{self.label}'{of_classes}"] if self.label else []
        told += [f"captions in '{self.caption}'"] if self.caption else []
        return "columns: " + ", ".join(told)


def list_tables(tables: Tables) -> Listed:
    """Raises DataError where there is no column of pictures, and for rows that do not fit; OutputError where a large
    set cannot be unpacked."""
    trains, tests, root, notes = tables
    columns = find_columns(trains[0])
    for table in (*trains[1:], *tests):
        if (found := find_columns(table)) != columns:
            what = f"other columns than in {trains[0].title}: {found}, there {str(columns).removeprefix('columns: ')}"
            raise DataError(what, path=table.title, fix="give all parts the same columns, or leave this one out")
    notes.append(str(columns))
    if unused := [
        name for name in trains[0].schema.names if name not in (columns.image, columns.label, columns.caption)
    ]:
        notes.append(f"columns that are not used: {', '.join(unused[:8])}")
    hold = sum(table.num_bytes for table in (*trains, *tests)) <= HELD_BYTES
    train = _list(trains, columns, root, hold, notes)
    return Listed(train, _list(tests, columns, root, hold, notes, like=train) if tests else None, notes)


def find_columns(table: Table) -> Columns:
    """By what Hugging Face's library says of them in the schema, else by type and name; the first of several."""
    import pyarrow.types as types

    features = features_of(table.schema)

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(types.is_string(kind) or types.is_large_string(kind))

    def is_label(kind: Any) -> bool:
        return bool(types.is_integer(kind) or types.is_boolean(kind) or is_text(kind))

    def first(fits: Callable[[Any], bool], names: Sequence[str], feature: str, *, named: bool) -> str | None:
        able = [field.name for field in table.schema if fits(field.type)]
        stated = [name for name in able if features.get(name, {}).get("_type") == feature]
        by_name = [name for name in names if name in (stated or able)]
        return next(iter([*by_name, *stated, *([] if named else able)]), None)

    image = first(_is_image, _IMAGE_NAMES, "Image", named=False)
    if image is None:
        held = ", ".join(f"{field.name} ({field.type})" for field in list(table.schema)[:8]) or "none"
        what = f"no column of encoded pictures, the columns are {held}"
        raise DataError(what[:300], path=table.title, fix="save PNG or JPEG bytes in a column 'image'")
    label = first(is_label, _LABEL_NAMES, "ClassLabel", named=True)
    if label is None and (odd := [f for f in table.schema if f.name in _LABEL_NAMES[:2]]):
        what = f"column '{odd[0].name}' holds values of type {odd[0].type}, which are no classes"
        raise DataError(what, path=table.title, fix="save whole numbers or texts without gaps, or rename the column")
    caption = first(is_text, _CAPTION_NAMES, "", named=True)
    names = features.get(label, {}).get("names") if label is not None else None
    return Columns(image, label, caption, tuple(map(str, names)) if isinstance(names, list) else ())


def has_pictures(table: Table) -> bool:
    return any(_is_image(field.type) for field in table.schema)


def is_readable(kind: Any) -> bool:
    """Whether a column holds no encoded files."""
    return not _is_image(kind)


def _is_image(kind: Any) -> bool:
    import pyarrow.types as types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    if types.is_struct(kind):
        return any(field.name == "bytes" and is_bytes(field.type) for field in kind)
    return is_bytes(kind)


def features_of(schema: Any) -> dict[str, Any]:
    """What Hugging Face's library says of the columns; {} where another tool wrote the table."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, dict)} if isinstance(found, dict) else {}


def _list(
    tables: Sequence[Table],
    columns: Columns,
    root: Path | str,
    hold: bool,
    notes: list[str],
    like: Listing | None = None,
) -> Listing:
    indices: list[Index] = []
    holders: list[np.ndarray | Path] = []
    for table in tables:
        holder, index = (_held(table, columns) if hold else None) or _unpacked(table, columns)
        holders.append(holder)
        indices.append(index)
    unpacked = [sum(index.sizes) for index, holder in zip(indices, holders, strict=True) if isinstance(holder, Path)]
    if unpacked:
        megabytes = sum(unpacked) / 1e6
        notes.append(f"{megabytes:,.0f} MB of pictures are unpacked in {blob_path('').parent} to be read in any order")
    files = spans_of(holders, [table.title for table in tables], indices)
    if not len(files):
        raise DataError("no row in the table", path=root, fix="check data.path")
    labels = [label for index in indices for label in index.labels]
    captions = [caption for index in indices for caption in index.captions]
    if not columns.names:
        where = [(table.title, name) for table, index in zip(tables, indices, strict=True) for name in index.names]
        refuse_odd_numbers(labels, where)
    return listing_of(files, labels, captions, root=root, names=columns.names, like=like)


def _held(table: Table, columns: Columns) -> tuple[np.ndarray, Index] | None:
    """None where they are more than the table's size lets expect, as where it keeps equal pictures once."""
    index, content = Index(), bytearray()
    for picture in _take(table, columns, index):
        content += picture
        if len(content) > HELD_BYTES:
            return None
    return np.frombuffer(content, dtype=np.uint8), index


def _unpacked(table: Table, columns: Columns) -> tuple[Path, Index]:
    """The file of the cache that holds the pictures, written now where it is not there yet."""
    key = f"table {table.key} {columns}"
    path, index = blob_path(key), read_index(key, table.stamp)
    if index is None or not path.is_file() or path.stat().st_size != sum(index.sizes):
        index = Index()
        with ExitStack() as opened:
            file: IO[bytes] | None = None
            for picture in _take(table, columns, index):
                # Opened late: what is wrong with the table is told before what is wrong with the folder.
                file = file or opened.enter_context(new_blob(key))
                if file.tell() > _MOST_TIMES * table.num_bytes + HELD_BYTES:
                    what = f"its pictures unpack to more than {_MOST_TIMES} times its size"
                    raise DataError(what, path=table.title, fix="keep each picture once")
                file.write(picture)
        keep_index(key, table.stamp, index)
    return path, index


def _take(table: Table, columns: Columns, index: Index) -> Iterator[bytes]:
    """The encoded pictures in order, each entered into the index when it is asked for."""
    import pyarrow as pa
    import pyarrow.compute as compute

    wanted = [name for name in (columns.image, columns.label, columns.caption) if name is not None]
    row = offset = 0
    try:
        for batch in table.batches(wanted):
            pictures = batch.column(columns.image)
            paths: list[str | None] = [None] * len(pictures)
            if pa.types.is_struct(pictures.type):
                if "path" in [field.name for field in pictures.type]:
                    paths = compute.struct_field(pictures, "path").to_pylist()
                pictures = compute.struct_field(pictures, "bytes")
            labels, captions = (
                [None] * len(pictures) if name is None else batch.column(name).to_pylist()
                for name in (columns.label, columns.caption)
            )
            for picture, path, label, caption in zip(pictures.to_pylist(), paths, labels, captions, strict=True):
                if picture is None and path is not None:
                    what = f"row {row} has no picture, only the path '{os.path.basename(path)}'"
                    raise DataError(what, path=table.title, fix="save the pictures' bytes in the table")
                content = picture or b""  # an empty one is bad like any other that cannot be decoded
                said = None if columns.caption is None else (caption or "").strip()
                index.add(f"row {row}", offset, len(content), _class(label, columns, row, table.title), said)
                row, offset = row + 1, offset + len(content)
                yield content
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"the table cannot be read: {reason}", path=table.title, fix="copy or make it again") from error


def _class(label: Any, columns: Columns, row: int, title: str) -> str | None:
    if label is None:
        return None
    if columns.names and isinstance(label, int):
        if not 0 <= label < len(columns.names):
            what = f"label {label} of row {row} is out of range, expected 0 to {len(columns.names) - 1}"
            raise DataError(what, path=title, fix="number the classes as the table's names do")
        return columns.names[label]
    return str(label).strip()
