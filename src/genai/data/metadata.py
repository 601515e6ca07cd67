"""Labels that a `metadata.csv` or `metadata.jsonl` beside the pictures gives: `file_name` (or `file`) and `label`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genai.errors import DataError

FILES = ("metadata.csv", "metadata.jsonl")
_FILE_KEYS = ("file_name", "file")


def read_labels(root: Path) -> tuple[Path, dict[str, str]] | None:
    """The metadata file and the label of each picture it names, or None where there is no file or it has no labels.

    Raises DataError, with the number of the row, for a row without a file or a label, and for a file named twice.
    """
    path = next((root / name for name in FILES if (root / name).is_file()), None)
    if path is None:
        return None
    labels: dict[str, str] = {}
    for number, row in _rows(path):
        key = next((key for key in _FILE_KEYS if row.get(key) not in (None, "")), None)
        if key is None:
            raise DataError(f"row {number} names no file", path=path, fix=f"write it in a column '{_FILE_KEYS[0]}'")
        if "label" not in row and not labels:
            return None  # captions only
        if row.get("label") in (None, ""):
            raise DataError(f"row {number} has no label", path=path, fix="write it in the column 'label'")
        name = str(Path(str(row[key])))
        if name in labels:
            raise DataError(f"row {number} names '{name}' again", path=path, fix="remove one of its rows")
        labels[name] = str(row["label"])
    return (path, labels) if labels else None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by number as an editor counts them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                reader = csv.DictReader(file, strict=True)
                for row in reader:
                    yield reader.line_num, row
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"row {number} is no object")
                    yield number, row
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"the file cannot be read: {reason}", path=path, fix="save it as UTF-8 text") from error
