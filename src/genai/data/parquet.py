"""Parquet files, in the layout of Hugging Face's sets or any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genai.data import sniff
from genai.data.cache import stamp_of
from genai.data.parts import files_of_parts
from genai.data.records import TableRows, are_texts
from genai.data.tables import ROWS_AT_ONCE, Table, Tables, has_pictures
from genai.errors import DataError


def tables_of_parquet(path: Path) -> Tables:
    """One file, or a folder of them, of which `train-*` and `test-*` or `validation-*` are the parts.

    Raises DataError for files that are damaged, and where pyarrow is not installed.
    """
    notes: list[str] = []
    trains, tests = files_of_parts(path, sniff.is_parquet_name, notes)
    return Tables([_table(file) for file in trains], [_table(file) for file in tests], path, notes)


def modality_of_parquet(path: Path) -> str:
    """ "image", "text" or "table"."""
    table = tables_of_parquet(path).trains[0]
    if has_pictures(table):
        return "image"
    return "text" if are_texts(TableRows([table])) else "table"


def _table(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        fix = 'pip install "genai-trainer[parquet]"'
        raise DataError("parquet files are read by pyarrow, which is not installed", path=path, fix=fix) from error
    try:
        with sniff.reading(path), parquet.ParquetFile(path) as file:
            schema, about, stamp = file.schema_arrow, file.metadata, stamp_of(path)
            num_bytes = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    except pa.ArrowException as error:
        raise DataError(f"no parquet file that can be read: {str(error)[:120]}", path=path) from error

    def batches(columns: list[str]) -> Iterator[Any]:
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)

    return Table(str(path), f"parquet {path.resolve()}", stamp, schema, num_bytes, batches)
