"""Tables of mixed types: read, split, described and brought to rows of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genai.columns import Column, groups, layout, width
from genai.contract import Batch, Spec, label_spec, value_spec
from genai.data.held_out import split_ids
from genai.data.kinds import kind_of, marks_in, numbers_in, parser_of
from genai.data.sheet import Sheet, read_csv, read_tables
from genai.data.source import Dataset, SeenBy, refuse_foreign_settings
from genai.data.split import Predicts, Resident, Units
from genai.data.table_rows import codes_of, stored
from genai.data.tables import Tables
from genai.errors import DataError, counted, to_list
from genai.schema import DataConfig

_SHOWN = 12  # columns that a note names


@dataclass(frozen=True)
class TableUnits(Units):
    """How stored rows (B, K) become rows (B, D): of each group of `sizes` one number is 1."""

    sizes: tuple[int, ...] = ()

    def to(self, device: torch.device) -> TableUnits:
        return self

    def batch(self, stored: Tensor, labels: Tensor | None, prompts: Tensor | None, index: Tensor) -> Batch:
        numbers = stored.shape[1] - len(self.sizes)
        codes = stored[:, numbers:].long()
        parts = [stored[:, :numbers], *(F.one_hot(codes[:, i], size) for i, size in enumerate(self.sizes))]
        rows = torch.cat([part.to(stored.dtype) for part in parts], dim=1)
        if labels is not None and self.predicts == "target":
            return Batch(x=labels, cond={"input": rows}, index=index)
        return Batch(x=rows, cond={} if labels is None else {"label": labels}, index=index)


def open_sheet(path: Path, config: DataConfig, name: str) -> Sheet:
    """Raises DataError for what is no table."""
    refuse_foreign_settings(config, "table")
    return read_csv(path, name, skip=config.on_bad == "skip")


def sheet_of_tables(tables: Tables, config: DataConfig, name: str) -> Sheet:
    """Of parquet files and of hub sets. Raises DataError for columns of other values."""
    refuse_foreign_settings(config, "table")
    sheet = read_tables([*tables.trains, *tables.tests], name, dropped=config.drop or ())
    return replace(sheet, held_out=tables.held_out, notes=tuple(tables.notes))


def build(sheet: Sheet, config: DataConfig, *, predicts: Predicts, seen_by: SeenBy | None = None) -> Dataset:
    """Splits a table, finds what its columns are (or takes those that a model learned), and brings it to numbers."""
    if seen_by is not None:
        return _seen(sheet, config, seen_by, predicts)
    if len(sheet) < 2:
        what = "the table has one row, of which nothing can be learned"
        raise DataError(what, path=sheet.path, fix="give data.path a table with more rows")
    sheet = _without(sheet, config)
    if typed := [f"data.{key}" for key in ("items", "min_rating") if getattr(config, key) is not None]:
        what = f"{typed[0]} is of ratings, which have a column user and a column item and are learned by a model that"
        raise DataError(f"{what} predicts", path=sheet.path, fix=f"type {typed[0]}=null, or name the columns so")
    if predicts == "target" and config.target is None:
        held = ", ".join(sheet.columns)
        what = f"which column is predicted is not said, the columns are {held[:120]}{'...' * (len(held) > 120)}"
        raise DataError(
            what,
            path=sheet.path,
            fix="type data.target=COLUMN; where users have items, name the two columns user and item",
        )
    if config.target is not None:
        sheet.require(config.target, "data.target=COLUMN")
        if predicts == "target" or _is_of_classes(sheet, config):
            sheet = with_target(sheet, config)
    train_ids, valid_ids = split_rows(sheet, config)
    columns = _columns(sheet, config, train_ids, predicts)
    target = target_of(columns)
    if predicts == "target" and target is not None:
        refuse_one_value(sheet, target)
    spec = _spec(columns, predicts)
    spec = replace(spec, num_samples=len(train_ids))
    notes = [*sheet.notes, *told(columns)]
    if config.target is not None and predicts == "data" and "label" not in spec.cond:
        notes.append(f"'{config.target}' is a number: samples are not told it, it is drawn with the others")
    return _dataset(sheet, config, spec, predicts, train_ids, valid_ids, notes)


def split_rows(sheet: Sheet, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Those to learn from, and those held out."""
    if sheet.held_out:
        rows = np.arange(len(sheet))
        return rows[: -sheet.held_out], rows[-sheet.held_out :]
    return split_ids(len(sheet), config.valid_fraction, config.split_seed)


def _without(sheet: Sheet, config: DataConfig) -> Sheet:
    dropped = config.drop or ()
    for key, names in (("drop", dropped), ("categories", config.categories or ())):
        for name in names:
            sheet.require(name, f"data.{key}=[COLUMN, ...]")
    left = {name: cells for name, cells in sheet.columns.items() if name not in dropped}
    if not left:
        raise DataError("data.drop leaves no columns", path=sheet.path, fix="leave some of them out of it")
    return replace(sheet, columns=left)


def with_target(sheet: Sheet, config: DataConfig) -> Sheet:
    """Without the rows in which there is nothing to be predicted, where they may be left out."""
    assert config.target is not None
    cells = sheet.columns[config.target]
    marks = marks_in(cells.texts, as_category=config.target in (config.categories or ()))
    empty = cells.where(lambda text: text in marks)
    if not empty.any():
        return sheet
    if empty.all():
        what = f"the target '{config.target}' is empty in every row"
        raise DataError(what, path=sheet.path, fix="type data.target=COLUMN for another")
    if config.on_bad == "error":
        what = f"the target '{config.target}' {sheet.told_of(empty)}"
        raise DataError(what, path=sheet.path, fix="type data.on_bad=skip to learn from the others")
    left = sheet.take(np.flatnonzero(~empty))
    return replace(left, notes=(*left.notes, f"left out: {counted(int(empty.sum()), 'row')} without a target"))


def _is_of_classes(sheet: Sheet, config: DataConfig) -> bool:
    """Whether a model that draws is told the target; it draws a number with the others."""
    assert config.target is not None
    rows, category = np.arange(len(sheet)), config.target in (config.categories or ())
    return kind_of(config.target, sheet, rows, role="target", as_category=category, drawn=True).kind == "category"


def refuse_one_value(sheet: Sheet, target: Column) -> None:
    values = target.values if target.kind == "category" else sorted(set(target.quantiles))
    if len(values) < 2:
        kind = "class" if target.kind == "category" else "number"
        what = f"the target '{target.name}' holds one {kind}, '{str(values[0])[:40]}': there is nothing to tell apart"
        raise DataError(what, path=sheet.path, fix="add rows of another, or type data.target=COLUMN for another")


def _columns(sheet: Sheet, config: DataConfig, train: np.ndarray, predicts: Predicts) -> tuple[Column, ...]:
    drawn = predicts == "data"
    found, texts = [], []
    for name in sheet.columns:
        role: Literal["value", "target"] = "target" if name == config.target else "value"
        category = name in (config.categories or ())
        try:
            column = kind_of(name, sheet, train, role=role, as_category=category, drawn=drawn)
        except DataError as error:
            if error.fix != f"type {to_list('data.drop', [name])}":
                raise
            texts.append((name, error))
            continue
        if role == "target" and predicts == "data" and column.kind != "category":
            column = kind_of(name, sheet, train, as_category=category, drawn=drawn)
        found.append(column)
    if texts:
        raise texts[0][1].with_fix(f"type {to_list('data.drop', [name for name, _ in texts])}")
    if not layout(found):
        raise DataError("no column is left to learn from", path=sheet.path, fix="check data.path and data.drop")
    return tuple(found)


def target_of(columns: Sequence[Column]) -> Column | None:
    return next((column for column in columns if column.role == "target"), None)


def _spec(columns: tuple[Column, ...], predicts: Predicts) -> Spec:
    rows = Spec(kind="real", shape=(width(columns),), modality="table", columns=columns)
    target = target_of(columns)
    if target is None:
        return rows
    if predicts == "data":
        return replace(rows, cond={"label": _label(target)})
    return replace(spec_of_target(target), cond={"input": rows})


def spec_of_target(target: Column) -> Spec:
    """Of what is predicted: a class or a number."""
    return _label(target) if target.kind == "category" else value_spec(target)


def _label(target: Column) -> Spec:
    return replace(label_spec(len(target.values), target.values), columns=(target,))


def _dataset(
    sheet: Sheet,
    config: DataConfig,
    spec: Spec,
    predicts: Predicts,
    train_ids: np.ndarray,
    valid_ids: np.ndarray,
    notes: Sequence[str],
    *,
    unseen: bool = False,
) -> Dataset:
    columns = spec.seen.columns
    rows = stored(sheet, columns, scores=predicts == "data")
    target = target_of(columns)
    labels = None if target is None else targets_in(sheet, target, unseen=unseen)
    digest = hashlib.sha256(repr(spec).encode())
    units = TableUnits(torch.tensor(1.0), torch.tensor(0.0), predicts, groups(columns))

    def split(ids: np.ndarray) -> Resident:
        own = torch.from_numpy(np.ascontiguousarray(rows.values[ids]))
        theirs = None if labels is None else torch.from_numpy(labels[ids])
        for part in (own, theirs):
            digest.update(b"split" if part is None else part.numpy().tobytes())
        return Resident(own, theirs, units, file_of=lambda i: f"row {sheet.rows[ids[i]]}")

    train = split(train_ids)
    valid = split(valid_ids) if len(valid_ids) else None
    return Dataset(sheet.name, spec, train, valid, digest.hexdigest(), tuple(notes))


def targets_in(sheet: Sheet, target: Column, *, unseen: bool = False) -> np.ndarray:
    """(N,) int64 classes, -1 where a cell is empty or, where that may be, `unseen` in training; or float32 numbers
    in units of their deviation around their mean, NaN there. A column that is not there is empty."""
    if target.name not in sheet.columns:
        rows = np.zeros(len(sheet))
        return rows.astype(np.int64) - 1 if target.kind == "category" else (rows + np.nan).astype(np.float32)
    if target.kind == "category":
        return codes_of(sheet, target, unseen=unseen)
    values = numbers_in(sheet.columns[target.name], parser_of(target))
    return ((values - target.mean) / target.deviation).astype(np.float32)


def _seen(sheet: Sheet, config: DataConfig, seen_by: SeenBy, predicts: Predicts) -> Dataset:
    spec = seen_by.units
    columns = spec.seen.columns
    notes = list(sheet.notes)
    known = {column.name for column in columns}
    if unused := [name for name in sheet.columns if name not in known]:
        notes.append(f"columns that the model did not learn are not used: {', '.join(unused[:_SHOWN])}")
    is_told = predicts == "target" or "label" in spec.cond
    if is_told and config.target in sheet.columns and config.on_bad == "skip":
        sheet = with_target(sheet, config)
    train_ids, valid_ids = split_rows(sheet, config)
    if seen_by.hold_out_all:
        train_ids, valid_ids = np.arange(0), np.arange(len(sheet))
    # Of what is to be predicted nothing need be known, but a figure is of what training saw.
    unseen = predicts == "target" and seen_by.hold_out_all
    return _dataset(sheet, config, spec, predicts, train_ids, valid_ids, notes, unseen=unseen)


def rows_with_holes(sheet: Sheet, columns: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    """Of a table that is to be filled in (N, D) rows, and (N, D) booleans where they are empty."""
    found, sizes = stored(sheet, columns, scores=True, holes=True), groups(columns)
    units = TableUnits(torch.tensor(1.0), torch.tensor(0.0), "data", sizes)
    rows = units.batch(torch.from_numpy(found.values), None, None, torch.arange(len(found.values))).x.numpy()
    return rows, np.repeat(found.empty, [1] * (found.empty.shape[1] - len(sizes)) + list(sizes), axis=1)


def told_target(target: Column) -> str:
    what = counted(len(target.values), "class") if target.kind == "category" else "a number"
    return f"target: {target.name}, {what}"


def told(columns: Sequence[Column]) -> list[str]:
    """What the columns were taken for."""
    lines = []
    for words, kind in (("numbers", "number"), ("dates", "date"), ("categories", "category")):
        found = [column for column in columns if column.kind == kind and column.role == "value"]
        names = [f"{c.name} ({len(c.values)})" if c.kind == "category" else c.name for c in found]
        if names:
            more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{words}: {', '.join(names[:_SHOWN])}{more}")
    if (target := target_of(columns)) is not None:
        lines.append(told_target(target))
    if left := [column.name or "a column without a name" for column in columns if column.role == "left_out"]:
        lines.append(f"identifiers, which are not learned: {', '.join(left[:_SHOWN])}")
    if missing := [column.name for column in columns if column.missing is not None]:
        lines.append(f"missing values in: {', '.join(missing[:_SHOWN])}")
    if rare := [f"{column.name} ({len(column.rare)})" for column in columns if column.rare]:
        lines.append(f"rare categories as one: {', '.join(rare[:_SHOWN])}")
    return lines
