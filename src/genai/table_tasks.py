"""Rows of a table drawn by what is known of them, tables filled in, and tables with drawn rows added."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genai.columns import Column, layout
from genai.contract import CompletesRows, Imputes, Model, Request, Spec
from genai.data import sniff
from genai.data.kinds import parser_of
from genai.data.records import CsvRows
from genai.data.sheet import MISSING, Cells, Sheet
from genai.data.source import Dataset, Split, modality_of, open_source
from genai.data.table_rows import category_text, codes_of, from_scores, number_texts, stepped
from genai.data.tabular import rows_with_holes
from genai.device import mix
from genai.errors import ConfigError, DataError
from genai.factory import Trained, require
from genai.metrics import tables
from genai.sampler import Drawn, Plan, draw, generated, label_index, plan
from genai.schema import DataConfig, PathText, SamplingConfig, unknown
from genai.table_files import fill_parquet, filled_text, numbers_of, rows_as_texts, write_rows

_MOST_COMPARED = 10_000  # rows
_DRAWS, _MOST_DRAWN = (32, 100), 1_500_000  # of a cell, where nobody says how many; of rows, more than the least
_MOST_AT_ONCE = 1 << 16  # rows that are drawn before they are reduced to texts
Completion = Callable[[Tensor, Tensor, Request], Tensor]  # x, what of it is missing, the request

_LACKS = "fills nothing in, and knows no condition but the target"


def conditioned(trained: Trained, sampling: SamplingConfig, *, seed: int, count: int, labels: Sequence[str]) -> Drawn:
    """`count` rows by each of the labels: a class of the target, or COLUMN=VALUE, or several of these with commas
    between. Raises ConfigError for what no column or no value is."""
    model, spec = trained.model, trained.model.spec
    asked = [_asked(model, label) for label in labels]
    if not any(known for known, _ in asked):  # classes alone: drawn together
        told = plan(spec, seed=seed, count=count, labels=[target for _, target in asked if target is not None])
        told = replace(told, seeds=tuple(_seed_of(one, i // count) for i, one in enumerate(told.seeds)))
        drawn = [batch.float().cpu().numpy() for batch in draw(model, told, trained.runtime, sampling)]
        return Drawn(np.concatenate(drawn), told.labels, spec)
    require(model, CompletesRows, _LACKS)
    assert isinstance(model, CompletesRows)
    values: list[np.ndarray] = []
    drawn_labels: list[int] = []
    for number, (label, (known, target)) in enumerate(zip(labels, asked, strict=True)):
        told = plan(spec, seed=seed, count=count, labels=None if target is None else [target])
        told = replace(told, seeds=tuple(_seed_of(one, number) for one in told.seeds))
        try:
            row = rows_with_holes(_one_row(known, spec.columns), spec.columns)
        except DataError as error:
            what = error.what.replace(" in row 1", "")  # there is no other
            fix = error.fix.partition(", or leave")[0]
            raise ConfigError(f"--label {label}: {what}", fix=fix) from error
        x, missing = (torch.from_numpy(part).expand(count, -1).clone() for part in row)
        for place in layout(spec.columns):  # of the others it is not known either whether they are there
            if place.group is not None and spec.columns[place.column].name not in known:
                missing[:, place.group] = True
        batches = completed(trained, model.complete, x, missing, told, sampling)
        values += [batch.float().cpu().numpy() for batch in batches]
        drawn_labels += told.labels or ()
    names = dict.fromkeys(name for known, _ in asked for name in known)
    cells = {name: [known.get(name) for known, _ in asked for _ in range(count)] for name in names}
    return Drawn(np.concatenate(values), tuple(drawn_labels) or None, spec, known=cells)


def _seed_of(seed: int, label: int) -> int:
    """Rows of several labels are one table: from the same noise they would be alike."""
    return mix(seed, label) if label else seed


def _asked(model: Model, label: str) -> tuple[dict[str, str], int | None]:
    """The values that columns are to have, and the class of the target."""
    spec, found = model.spec, dict[str, str]()
    target = next((column.name for column in spec.columns if column.role == "target"), None)
    if "=" not in label:
        return {}, label_index(spec, label)
    index = None
    for part in re.split(r",(?=[^,=]*=)", label):  # the value of a column may hold commas
        name, _, value = (text.strip() for text in part.partition("="))
        column = next((column for column in spec.columns if column.name == name), None)
        if column is None:
            raise unknown("column", name, [column.name for column in spec.columns])
        if name in found or (name == target and index is not None):
            raise ConfigError(f"--label {label}: '{name}' is given twice", fix="leave one of them out")
        if name == target:
            index = label_index(spec, value)
        elif column.role == "left_out":
            raise ConfigError(f"--label {label}: '{name}' is an identifier, which is not learned", fix="leave it out")
        elif value in MISSING and value not in column.values:
            raise ConfigError(f"--label {label}: '{name}' has no value", fix=f"type {name}=VALUE")
        else:
            _refuse_far(label, column, value)
            found[name] = value
    return found, index


def _refuse_far(label: str, column: Column, value: str) -> None:
    """A rank says no more of a number than that it is the least or the greatest."""
    parse = parser_of(column)
    known = parse(value) if column.is_number else None
    if known is None:
        return
    texts = number_texts(np.array([column.quantiles[0], column.quantiles[-1]]), column)
    near = texts[int(known > column.quantiles[-1])]
    if not column.quantiles[0] <= known <= column.quantiles[-1] and known != parse(near):
        what = f"--label {label}: '{column.name}' lies between {texts[0]} and {texts[1]} in what was learned"
        raise ConfigError(what, fix=f"type {column.name}={near}")


def _one_row(known: Mapping[str, str], columns: Sequence[Column]) -> Sheet:
    cells = {column.name: Cells((known.get(column.name, ""),), np.zeros(1, dtype=np.int32)) for column in columns}
    return Sheet("--label", "--label", cells, np.array([1]))


def completed(
    trained: Trained, by: Completion, x: Tensor, missing: Tensor, told: Plan, sampling: SamplingConfig
) -> Iterator[Tensor]:
    """x (N, D) with new values where `missing`, batch after batch."""
    runtime = trained.runtime

    def complete(rows: Sequence[int], request: Request) -> Tensor:
        return by(x[rows].to(runtime.device, runtime.dtype), missing[rows].to(runtime.device), request)

    return draw(trained.model, told, runtime, sampling, complete)


# -- filled in ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holes:
    """A table with empty cells: its rows, which of their numbers are missing, and the labels that a model is told."""

    path: Path
    sheet: Sheet
    x: Tensor  # (N, D)
    missing: Tensor  # (N, D) booleans
    labels: tuple[int, ...] | None


def read_holes(trained: Trained, path: Path) -> Holes:
    """Raises DataError for what is no table of the columns that were learned, ConfigError for a model that fills
    nothing in."""
    spec = trained.model.spec
    require(trained.model, Imputes, _LACKS)
    if modality_of("path", str(path), as_table=True) != "table":
        raise DataError("the model was trained on a table, this is none", path=path, fix="name a .csv or .parquet")
    opened = open_source(DataConfig(name="path", path=PathText(str(path)), drop=trained.config.data.drop or ()))
    assert isinstance(opened, Sheet)
    x, missing = (torch.from_numpy(part) for part in rows_with_holes(opened, spec.columns))
    if not missing.any():
        raise DataError("no cell of the table is empty", path=path, fix="leave those empty that are to be filled in")
    labels = None
    if spec.label_classes:
        target = spec.cond["label"].columns[0]
        codes = codes_of(opened, target)
        if (codes < 0).any():
            row = opened.rows[int((codes < 0).argmax())]
            what = f"column '{target.name}' is empty in row {row}, which the model must be told"
            raise DataError(what, path=path, fix="train with data.target=null, so that it is drawn, too")
        labels = tuple(codes.tolist())
    return Holes(sniff.existing(path), opened, x, missing, labels)


def fill(
    trained: Trained, holes: Holes, sampling: SamplingConfig, *, seed: int, draws: int | None
) -> list[dict[str, list[str]]]:
    """The texts of each column in which cells are empty: one table of means and modes of sampling.draws draws, or so
    many `draws` themselves."""
    model, spec = trained.model, trained.model.spec
    assert isinstance(model, Imputes)
    rows = torch.arange(len(holes.x))[holes.missing.any(1)]
    count = draws or _draws(sampling, len(rows))
    made: list[dict[str, list[str]]] = [{} for _ in range(draws or 1)]
    for part in rows.split(max(1, _MOST_AT_ONCE // count)):
        own = part.repeat(count).tolist()  # all rows once, then again
        seeds = tuple(mix(seed, row, i // len(part)) for i, row in enumerate(own))
        told = Plan(seeds, None if holes.labels is None else tuple(holes.labels[row] for row in own))
        found = completed(trained, model.impute, holes.x[own], holes.missing[own], told, sampling)
        drawn = np.concatenate([x.float().cpu().numpy() for x in found]).reshape(count, len(part), -1)
        for texts, of in zip(made, [drawn] if draws is None else drawn[:, None], strict=True):
            _take_texts(texts, of, part.tolist(), holes, spec.columns)
    return made


def _draws(sampling: SamplingConfig, rows: int) -> int:
    """What K draws have in common is by 1 / (2 K) further off than what all have."""
    return int(np.clip(_MOST_DRAWN // max(1, rows), *_DRAWS)) if sampling.draws == "auto" else sampling.draws


def _take_texts(
    found: dict[str, list[str]], drawn: np.ndarray, rows: Sequence[int], holes: Holes, columns: Sequence[Column]
) -> None:
    """Those of the mean of draws (draws, rows, D), into the columns of which these cells are empty; "" elsewhere."""
    for place in layout(columns):
        column = columns[place.column]
        element = place.group.start if place.number is None and place.group is not None else place.number
        assert element is not None
        empty = holes.missing[rows, element].numpy()
        if not empty.any():
            continue
        if place.number is not None:
            mean = np.mean([from_scores(one[:, place.number], column) for one in drawn], axis=0)
            texts = number_texts(stepped(mean, column), column)
        else:
            shares = drawn[:, :, place.group].mean(0)[:, : len(column.values)]
            codes = _nearest_to_mean(shares, column) if column.numeric else shares.argmax(1)
            texts = [category_text(int(code), column, row) for code, row in zip(codes, drawn[0], strict=True)]
        own = found.setdefault(column.name, [""] * len(holes.x))
        for row, text, gone in zip(rows, texts, empty, strict=True):
            own[row] = text if gone else ""


def _nearest_to_mean(shares: np.ndarray, column: Column) -> np.ndarray:
    """(N,) the category whose number is nearest to the mean by these shares (N, categories)."""
    values = np.array([float(value) for value in column.values])
    mean = shares @ values / shares.sum(1).clip(1e-9)
    return np.abs(values - mean[:, None]).argmin(1)


def write_filled(folder: Path, holes: Holes, texts: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The table with these texts in its empty cells; all else stays as it is, of CSV byte for byte. Raises OSError."""
    if sniff.is_parquet_name(holes.path.name):
        whole = {}
        for key, cells in holes.sheet.columns.items():
            own = [cells.texts[code] for code in cells.codes]
            new = texts.get(key, [""] * len(own))
            whole[key] = [filled or text for filled, text in zip(new, own, strict=True)]
        return [*write_rows(folder, whole, (), name), fill_parquet(folder, holes.path, texts, name)]
    header = list(holes.sheet.columns)
    separator = CsvRows(holes.path, skip=True).separator
    made = filled_text(
        _text_of(holes.path),
        separator,
        lambda row, column: (texts[header[column]][row] or None) if header[column] in texts else None,
    )
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        file.writelines(made)
    return [f"{name}.csv"]


def _text_of(path: Path) -> str:
    """Of a file that may be UTF-16, as spreadsheets save it; a mark at the start of UTF-8 is kept."""
    content = path.read_bytes()
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8")


# -- measured ----------------------------------------------------------------------------------------------------------


def figures(trained: Trained, data: Dataset, sampling: SamplingConfig, *, seed: int) -> dict[str, float]:
    """How close as many drawn rows as training has (10,000 at most) come to those, and whether they repeat them: see
    genai.metrics.tables."""
    output = trained.output
    real = data.train if len(data.train) else data.valid
    assert real is not None
    count = min(len(real), _MOST_COMPARED)
    drawn = generated(trained, sampling, "generate", seed=seed, count=count, labels=None)
    made = _table(drawn.values, drawn.labels, output)
    known = _table_of(real, output, trained)
    found = {
        "column_error": float(np.mean(list(tables.column_errors(known, made).values()))),
        "pair_error": float(np.mean(list(tables.pair_errors(known, made).values()))) if len(known) > 1 else 0.0,
    }
    if real is data.train and data.valid is not None and len(data.valid):
        held_out = _table_of(data.valid, output, trained)
        found["closest_to_training_share"] = tables.closest_share(made, known, held_out)
        found["copies_of_training_share"] = tables.copied_share(made, known)
    return found


def _table_of(split: Split, spec: Spec, trained: Trained) -> tables.Table:
    batch = split.fetch(torch.arange(len(split)))
    labels = batch.cond["label"].tolist() if "label" in batch.cond and spec.label_classes else None
    return _table(trained.decode(batch.x).float().cpu().numpy(), labels, spec)


def _table(values: np.ndarray, labels: Sequence[int] | None, spec: Spec) -> tables.Table:
    """Columns as they are compared: numbers, and texts of categories."""
    found: dict[str, np.ndarray] = {}
    for place in layout(spec.columns):
        column = spec.columns[place.column]
        numbers = numbers_of(values, place, column)
        if place.number is None:
            texts = np.array([*column.values, ""])
            numbers = texts[np.nan_to_num(numbers, nan=len(column.values)).astype(np.int64)]
        found[column.name] = numbers
    if labels is not None:
        names = spec.cond["label"].names
        found[spec.cond["label"].columns[0].name] = np.array([names[label] for label in labels])
    return found


# -- added to ----------------------------------------------------------------------------------------------------------


def write_added(folder: Path, path: Path, drawn: Drawn) -> list[str]:
    """The table at a path with drawn rows below its own. Raises DataError for one of other columns, OSError."""
    table = CsvRows(path, skip=False)
    texts = rows_as_texts(drawn.values, drawn.labels, drawn.spec, drawn.known)
    if lacking := [name for name in texts if name not in table.columns]:
        what = f"no column '{lacking[0]}', which the model learned"
        raise DataError(what, path=path, fix="name the table that it was trained on")
    text = _text_of(path)
    end = "\r\n" if "\r\n" in text else "\n"
    with open(folder / path.name, "w", newline="", encoding="utf-8") as file:
        file.write(text if text.endswith("\n") else text + end)
        writer = csv.writer(file, delimiter=table.separator, lineterminator=end)
        for row in range(len(drawn.values)):
            writer.writerow([texts[name][row] if name in texts else "" for name in table.columns])
    return [path.name]
