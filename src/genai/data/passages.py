"""Texts of which something is predicted: a column of them, or two, beside one of classes or of numbers. Where only the
answer is asked for there may be texts alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genai.columns import Column
from genai.contract import Spec
from genai.data import sniff
from genai.data.documents import clean, columns_of
from genai.data.kinds import kind_of
from genai.data.passage_rows import PassageRows, encoded
from genai.data.records import CsvRows, JsonLines, Records, TableRows, text_column
from genai.data.sheet import Cells, Sheet, read_csv, read_tables
from genai.data.source import Dataset, SeenBy
from genai.data.tables import Tables
from genai.data.tabular import refuse_one_value, spec_of_target, split_rows, targets_in, told_target, with_target
from genai.data.text_files import read_text
from genai.data.tokens import Tokenizer, make_tokenizer, read_tokenizer
from genai.errors import ConfigError, DataError, counted
from genai.schema import DataConfig

_LONGEST = 4096  # ids of a text that are read, where nobody says otherwise
_VOCAB = 4096
_BESIDE = " | "  # between the texts of a sample, where they are shown


@dataclass(frozen=True)
class Passages:
    """A table of which these columns are texts; none where each row is to be cut into them."""

    sheet: Sheet
    fields: tuple[str, ...] = ()


def open_passages(path: Path, config: DataConfig, name: str) -> Passages:
    """Of .csv, .tsv, .jsonl, or of texts alone, one a line. Raises DataError for columns that are not there."""
    kind, skip = sniff.kind_of(path), config.on_bad == "skip"
    if kind == "text":
        return passages_of_lines("".join(read_text(path)).splitlines(), path, name)
    if kind == "csv":
        return Passages(sheet := read_csv(path, name, skip=skip), _fields(CsvRows(path, skip=skip), sheet, config))
    records = JsonLines(path, skip=skip)
    sheet = _read_records(records, config, name)
    return Passages(sheet, _fields(records, sheet, config))


def passages_of_tables(tables: Tables, config: DataConfig, name: str) -> Passages:
    """Of parquet files or a hub set."""
    import pyarrow as pa

    trains, tests, _, notes = tables
    asked = {*columns_of(config.field), config.target}
    records = TableRows(trains)
    wanted = (
        [text_column(records, field=None, given=[str(config.target)], first_of_several=False)] if len(asked) < 2 else []
    )
    chosen = [field for field in trains[0].schema if field.name in asked or field.name in wanted]
    parts = [replace(table, schema=pa.schema(chosen)) for table in (*trains, *tests)]
    sheet = replace(read_tables(parts, name), held_out=tables.held_out, notes=tuple(notes))
    return Passages(sheet, _fields(records, sheet, config))


def passages_of_lines(lines: Sequence[str], path: Path | str, name: str) -> Passages:
    rows = [number for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError("the file holds no text", path=path, fix="write one a line")
    return Passages(Sheet(name, path, {"text": Cells.of(lines[row - 1].strip() for row in rows)}, np.array(rows)))


def _fields(records: Records, sheet: Sheet, config: DataConfig) -> tuple[str, ...]:
    given = columns_of(config.field)
    for field in given:
        sheet.require(field, "data.field=COLUMN")
    if given:
        return given
    return (text_column(records, field=None, given=[str(config.target)], first_of_several=False),)


def _read_records(records: JsonLines, config: DataConfig, name: str) -> Sheet:
    """The keys of objects as columns."""
    texts: dict[str, list[str]] = {column: [] for column in records.columns}
    numbers = []
    with records.opened(records.columns) as opened:
        for number in range(opened.size):
            try:
                record = opened.read(number)
            except DataError:
                if config.on_bad == "skip":
                    continue
                raise
            numbers.append(number + 1)
            for column, held in texts.items():
                held.append(_plain(record.get(column)))
    if not numbers:
        raise DataError("the file holds no records", path=records.path, fix="write one object a line")
    columns = {column: Cells.of(held) for column, held in texts.items()}
    return Sheet(name, records.path, columns, np.array(numbers))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).strip()


def build(
    passages: Passages, config: DataConfig, *, predicts: str, seen_by: SeenBy | None = None, tokenizer: str = ""
) -> Dataset:
    """Split, described and brought to ids. Raises DataError for empty texts, and for targets of which nothing can be
    learned."""
    if predicts != "target":
        what = f"data.target={config.target} is what is predicted of a text, this model predicts nothing"
        raise ConfigError(what, fix=f"type data.target=null data.given=[{config.target}] to have texts written by it")
    sheet, fields = _whole(passages, config, 1 if seen_by is None else _num_fields(seen_by.units.seen))
    assert config.target is not None
    if seen_by is None:
        sheet.require(config.target, "data.target=COLUMN")
    if seen_by is None or (config.target in sheet.columns and config.on_bad == "skip"):
        sheet = with_target(sheet, config)
    train_ids, valid_ids = split_rows(sheet, config)
    if seen_by is not None and seen_by.hold_out_all:
        train_ids, valid_ids = np.arange(0), np.arange(len(sheet))
    if seen_by is None:
        target = kind_of(
            config.target, sheet, train_ids, role="target", as_category=config.target in (config.categories or ())
        )
        refuse_one_value(sheet, target)
    else:
        target = seen_by.units.columns[0]
    texts = list(zip(*(_texts_in(sheet.columns[field]) for field in fields), strict=True))
    made, longest = _reader(texts, train_ids, config, seen_by, tokenizer)
    spec = _spec(target, made, longest, len(fields))
    notes = [*sheet.notes, f"texts in {' and '.join(fields)}; {told_target(target)}"]
    targets = torch.from_numpy(targets_in(sheet, target, unseen=seen_by is not None and seen_by.hold_out_all))
    digest = hashlib.sha256(repr(spec).encode())
    cut = 0

    def split(ids: np.ndarray) -> PassageRows:
        nonlocal cut
        numbers, ends, longer = encoded([texts[i] for i in ids], made, fields=len(fields), longest=longest)
        own, cut = targets[torch.from_numpy(ids)], cut + longer
        for part in (numbers, ends, own):
            digest.update(part.numpy().tobytes())
        digest.update(b"split")
        return PassageRows(
            numbers, ends, own, longest=longest, mark=made.end, text_of=lambda i: _BESIDE.join(texts[ids[i]])
        )

    train = split(train_ids)
    valid = split(valid_ids) if len(valid_ids) else None
    if cut:
        notes.append(f"{cut:,} texts are longer than data.context={longest:,} {made.unit}s: their beginning is read")
    spec = replace(spec, num_samples=len(train_ids))
    return Dataset(sheet.name, spec, train, valid, digest.hexdigest(), tuple(notes))


def _num_fields(spec: Spec) -> int:
    return spec.shape[0] if len(spec.shape) > 1 else 1


def _whole(passages: Passages, config: DataConfig, num_fields: int) -> tuple[Sheet, tuple[str, ...]]:
    """The rows that have all their texts. Raises DataError for one that does not, unless it may be left out."""
    sheet, fields = passages.sheet, passages.fields
    if not fields:
        sheet, fields = _divided(sheet, num_fields)
    empty = np.zeros(len(sheet), dtype=bool)
    for field in fields:
        cells = sheet.columns[field]
        blank = cells.where(lambda text: not text)
        if blank.any() and config.on_bad == "error":
            what = f"column '{field}' {sheet.told_of(blank)}"
            raise DataError(what, path=sheet.path, fix="fill it in, or type data.on_bad=skip to leave them out")
        empty |= blank
    if empty.all():
        raise DataError("no row has a text", path=sheet.path, fix="check data.path and data.field")
    if empty.any():
        sheet = sheet.take(np.flatnonzero(~empty))
        sheet = replace(sheet, notes=(*sheet.notes, f"left out: {counted(int(empty.sum()), 'row')} without a text"))
    return sheet, fields


def _divided(sheet: Sheet, num_fields: int) -> tuple[Sheet, tuple[str, ...]]:
    """Lines as the texts of each, which a tab divides. Raises DataError for a line with another number of them."""
    if num_fields == 1:
        return sheet, ("text",)
    rows = [text.split("\t") for text in _texts_in(sheet.columns["text"])]
    for row, number in zip(rows, sheet.rows, strict=True):
        if len(row) != num_fields:
            what = f"line {number} has {len(row)} texts, the model reads {num_fields}"
            raise DataError(what, path=sheet.path, fix="divide them by a tab")
    names = tuple(f"text {i + 1}" for i in range(num_fields))
    held = {
        name: Cells.of(text.strip() for text in column)
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    return replace(sheet, columns=held), names


def _texts_in(cells: Cells) -> list[str]:
    """Of each row, as ids are made of them."""
    texts = [clean(text) for text in cells.texts]
    return [texts[code] for code in cells.codes.tolist()]


def _reader(
    texts: Sequence[Sequence[str]],
    train_ids: np.ndarray,
    config: DataConfig,
    seen_by: SeenBy | None,
    tokenizer: str,
) -> tuple[Tokenizer, int]:
    """What makes ids of texts, and how many of a text are read."""
    if seen_by is not None:
        spec = seen_by.units.seen
        return read_tokenizer(spec.tokenizer), spec.shape[-1]
    made = read_tokenizer(tokenizer) if tokenizer else None
    if made is None:
        learned = [text for i in train_ids for text in texts[i]]
        made = make_tokenizer(lambda: learned, config.tokens or "bytes", config.vocab_size or _VOCAB)
    return made, config.context or _LONGEST


def _spec(target: Column, tokenizer: Tokenizer, longest: int, num_fields: int) -> Spec:
    shape = (longest,) if num_fields == 1 else (num_fields, longest)
    given = Spec(
        kind="token",
        shape=shape,
        modality="text",
        vocab=tokenizer.vocab,
        tokenizer=tokenizer.dump(),
        opening=(tokenizer.end,),
    )
    return replace(spec_of_target(target), cond={"input": given})
