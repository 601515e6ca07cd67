"""A table as it stands in a file: texts in columns, of which each is kept once and its rows by number."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genai.data.records import CsvRows
from genai.data.tables import Table
from genai.errors import DataError, counted, to_list

MOST_COLUMNS = 2000
# That tools write for what is missing. Among numbers, also names that are categories elsewhere.
MISSING = frozenset(["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "?"])
MISSING_NUMBERS = MISSING | {"None", "none", "-", "--", "na", "Nan", "NAN", "."}
_OF_TYPES = re.compile(r"u?int\d+|(halffloat|float|double)|decimal.*|bool|.*string.*|date\d+.*|timestamp.*|null")


@dataclass(frozen=True)
class Cells:
    """A column: its different texts, and for each row the number of its own."""

    texts: tuple[str, ...]
    codes: np.ndarray  # (N,) int32
    type: str = ""  # of parquet

    @staticmethod
    def of(texts: Iterable[str]) -> Cells:
        """Of the text of each row."""
        known: dict[str, int] = {}
        codes = [known.setdefault(text, len(known)) for text in texts]
        return Cells(tuple(known), np.array(codes, dtype=np.int32))

    def where(self, which: Callable[[str], bool]) -> np.ndarray:
        """(N,) booleans: the rows for whose texts `which` holds."""
        found: np.ndarray = np.array([which(text) for text in self.texts], dtype=bool)[self.codes]
        return found

    def first(self, which: Callable[[str], bool]) -> tuple[str, int] | None:
        """The first text for which `which` holds, with its row."""
        rows = np.flatnonzero(self.where(which))
        return (self.texts[self.codes[rows[0]]], int(rows[0])) if len(rows) else None

    def codes_in(self, numbers: Mapping[str, int]) -> np.ndarray:
        """(N,) int64 numbers of the texts, -1 for one that has none."""
        found: np.ndarray = np.array([numbers.get(text, -1) for text in self.texts], dtype=np.int64)[self.codes]
        return found


@dataclass(frozen=True)
class Sheet:
    name: str
    path: Path | str  # as errors name it
    columns: Mapping[str, Cells]
    rows: np.ndarray  # (N,) their numbers in the file, as a spreadsheet counts
    notes: tuple[str, ...] = ()
    held_out: int = 0  # the last of the rows, where the set has a test part of its own

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, kept: np.ndarray) -> Sheet:
        """The rows of these numbers."""
        columns = {name: replace(cells, codes=cells.codes[kept]) for name, cells in self.columns.items()}
        held_out = int((kept >= len(self) - self.held_out).sum())
        return replace(self, columns=columns, rows=self.rows[kept], held_out=held_out)

    def told_of(self, empty: np.ndarray) -> str:
        """In how many of the rows a column is `empty` (N,), and in which first."""
        return f"is empty in {counted(int(empty.sum()), 'row')}, first in row {self.rows[empty.argmax()]}"

    def require(self, name: str, key: str) -> Cells:
        """Raises DataError where there is no such column."""
        if name not in self.columns:
            held = ", ".join(self.columns)
            what = f"no column '{name}', the columns are {held[:120]}{'...' * (len(held) > 120)}"
            raise DataError(what, path=self.path, fix=f"type {key}")
        return self.columns[name]


def read_csv(path: Path, name: str, *, skip: bool) -> Sheet:
    """Raises DataError for what is no table."""
    table = CsvRows(path, skip=skip)
    _check_columns(table.columns, path)
    known: list[dict[str, int]] = [{} for _ in table.columns]
    codes: list[list[int]] = [[] for _ in table.columns]
    rows, lacking = [], 0
    for number, fields in table.all(skip=skip):
        if not fields:
            lacking += 1
            continue
        rows.append(number)
        for text, seen, own in zip(fields, known, codes, strict=True):
            own.append(seen.setdefault(text.strip(), len(seen)))
    if lacking and not rows:
        what = f"{counted(lacking, 'row')}, none of which has as many fields as the header, {len(table.columns)}"
        raise DataError(what, path=path, fix="give the header and the rows the same columns")
    _check_rows(len(rows), path)
    columns = {
        column: Cells(tuple(seen), np.array(own, dtype=np.int32))
        for column, seen, own in zip(table.columns, known, codes, strict=True)
    }
    notes = []
    if lacking:
        notes.append(f"left out: {counted(lacking, 'row')} of another number of fields")
    return Sheet(name, path, columns, np.array(rows), notes=tuple(notes))


def read_tables(tables: Sequence[Table], name: str, *, dropped: Collection[str] = ()) -> Sheet:
    """Of parquet files and of hub sets. Raises DataError for columns whose values are no plain ones; those that are
    `dropped` count as empty."""
    import pyarrow as pa

    first, title = tables[0], tables[0].title
    _check_columns(first.schema.names, title)
    unread = {field.name for field in first.schema if not _OF_TYPES.fullmatch(_plain_type(field.type))}
    for field in first.schema:
        if field.name in unread - set(dropped):
            what = (
                f"column '{field.name}' holds values of type {str(field.type)[:40]}, expected numbers, texts or dates"
            )
            raise DataError(what, path=title, fix=f"type {to_list('data.drop', [field.name])}")
    names = [column for column in first.schema.names if column not in unread]
    batches = [batch for table in tables for batch in table.batches(names)]
    whole = pa.Table.from_batches(batches, schema=batches[0].schema if batches else first.schema)
    _check_rows(len(whole), title)
    empty = Cells(("",), np.zeros(len(whole), dtype=np.int32))
    types = {field.name: _plain_type(field.type) for field in whole.schema}
    columns = {
        column: empty if column in unread else _cells(whole.column(column), types[column])
        for column in first.schema.names
    }
    return Sheet(name, title, columns, np.arange(len(whole)))


def _plain_type(kind: Any) -> str:
    import pyarrow.types as types

    return str(kind.value_type if types.is_dictionary(kind) else kind)


def _cells(column: Any, kind: str) -> Cells:
    import pyarrow as pa

    encoded = column.combine_chunks()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.dictionary_encode()
    texts = ["" if value is None else str(value).strip() for value in _plain(encoded.dictionary).to_pylist()]
    known = {text: number for number, text in enumerate(dict.fromkeys([*texts, ""]))}
    number = np.array([known[text] for text in texts] + [known[""]], dtype=np.int32)
    found = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False).astype(np.int64)
    return Cells(tuple(known), number[found], kind)


def _plain(values: Any) -> Any:
    """Points in time as texts of one form, in UTC where they name a zone; all else as it is."""
    import pyarrow as pa
    import pyarrow.compute as compute

    if not pa.types.is_timestamp(values.type):
        return values
    exact = values.cast(pa.timestamp("us"), safe=False)
    whole = exact.cast(pa.timestamp("s"), safe=False)
    is_whole = compute.all(compute.equal(whole.cast(exact.type), exact)).as_py() is not False
    return compute.strftime(whole if is_whole else exact, format="%Y-%m-%d %H:%M:%S")


def _check_columns(names: Iterable[str], path: Path | str) -> None:
    count = len(names := list(names))
    if count > MOST_COLUMNS:
        what = f"{count:,} columns, at most {MOST_COLUMNS:,} are learned"
        raise DataError(what, path=path, fix="save those that matter, or as an .npz of numbers")
    if unnamed := [place for place, name in enumerate(names, start=1) if not name and place > 1]:
        # A first column without a name is how tools save the numbers of the rows.
        raise DataError(f"column {unnamed[0]} has no name in the header", path=path, fix="name it")


def _check_rows(count: int, path: Path | str) -> None:
    if count == 0:
        raise DataError("the table has no rows below its header", path=path, fix="check data.path")
