"""Labels and captions that `metadata.csv` or `metadata.jsonl` files give to the files at or below their folder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai.errors import DataError

FILES = ("metadata.csv", "metadata.jsonl")  # the first of a folder is read
_FILE_KEYS = ("file_name", "file")
_CAPTION_KEYS = ("text", "caption")
_LABEL_KEYS = ("label",)


@dataclass(frozen=True)
class Row:
    """What one row says of its file; `label` and `caption` are None where the file has no such column."""

    path: Path
    number: int  # as an editor counts
    label: str | None
    caption: str | None


def metadata_files(names: Iterable[str]) -> list[str]:
    """Those of the files of a folder, by path relative to it, that are read as metadata."""
    found: dict[str, str] = {}
    for name in names:
        folder, last = os.path.split(name)
        if last == FILES[0] or (last == FILES[1] and folder not in found):
            found[folder] = name
    return list(found.values())


def read_metadata(root: Path, files: Iterable[str]) -> dict[str, Row]:
    """The row of each file that these name, by its path relative to `root`.

    Raises DataError, with the number of the row, for a row without a file or a label, and for a file named twice.
    """
    rows: dict[str, Row] = {}
    for file in files:
        path = root / file
        found = list(_rows(path))
        # Rows of a jsonl need not have equal keys.
        columns = _columns({key for _, values in found for key in values})
        for number, values in found:
            name_key = next((key for key in _FILE_KEYS if values.get(key) not in (None, "")), None)
            if name_key is None:
                raise DataError(f"row {number} names no file", path=path, fix=f"write it in a column '{_FILE_KEYS[0]}'")
            if None in values:
                raise DataError(f"row {number} has more fields than the header", path=path, fix='quote texts: "a, b"')
            name = os.path.normpath(os.path.join(os.path.dirname(file), str(values[name_key])))
            if "\\" in name and not (root / name).exists():  # as Windows writes a path
                name = os.path.normpath(name.replace("\\", "/"))
            if name in rows:
                raise DataError(f"row {number} names '{name}' again", path=path, fix="remove one of its rows")
            label = _text(values, columns[0], path, number)
            if label == "":
                raise DataError(f"row {number} has no label", path=path, fix="write it in the column 'label'")
            rows[name] = Row(path, number, label, _text(values, columns[1], path, number))
    return rows


def _columns(held: set[str]) -> tuple[str | None, str | None]:
    """The names of the columns, of those that a file has, that hold the label and the caption."""
    label, caption = (next((key for key in keys if key in held), None) for keys in (_LABEL_KEYS, _CAPTION_KEYS))
    return label, caption


def _text(row: dict[str, Any], key: str | None, path: Path, number: int) -> str | None:
    if key is None:
        return None
    value = row.get(key)
    if isinstance(value, str | int | float | None):
        return "" if value is None else str(value).strip()
    kind = "a list" if isinstance(value, list) else "an object"
    raise DataError(f"'{key}' of row {number} is {kind}, expected a text", path=path, fix="give each file one text")


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f"row {number} is no JSON object", path=path, fix='write {"file_name": ...} on each line')
    return row


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by number as an editor counts them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(file, strict=True)
                reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
                if len(reader.fieldnames) == 1 and set(";\t") & set(reader.fieldnames[0]):
                    fix = "divide the columns by commas"
                    raise DataError("the columns are not divided by commas", path=path, fix=fix)
                for row in reader:
                    yield reader.line_num, row
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(line, path, number)
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"the file cannot be read: {reason}", path=path, fix="save it as UTF-8 text") from error
