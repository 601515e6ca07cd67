"""Rows of a table as numbers, and numbers as rows again.

A number is learned from as it is, in units of its deviation around its mean, where something is predicted from it.
Where it is to be drawn it becomes its normal score, the standard normal value of the same rank, so that its
distribution comes out as it was, whatever its form.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import torch

from genai.columns import Column, layout, ranks
from genai.data.kinds import number, numbers_in, parser_of
from genai.data.sheet import MISSING, MISSING_NUMBERS, Sheet
from genai.errors import DataError

_SHOWN = 8
_PLACES = 15  # behind the point: a double holds no more of a number around one
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stored(NamedTuple):
    """(N, K): all numbers, then for each group which of its numbers is 1; and (N, K) where the table is empty."""

    values: np.ndarray
    empty: np.ndarray


def stored(sheet: Sheet, columns: Sequence[Column], *, scores: bool, holes: bool = False) -> Stored:
    """The rows of a sheet, numbers as normal `scores` or in deviations. Cells may be empty that never are in training
    where they are `holes`.

    Raises DataError for a column that is missing, for a category that training did not see, and for an empty cell.
    """
    numbers, groups, empty_numbers, empty_groups = [], [], [], []
    for place in layout(columns):
        column = columns[place.column]
        if column.is_number:
            values = _numbers_of(sheet, column)
            empty = np.isnan(values)
            if column.missing is None and not holes:
                _refuse_empty(sheet, column, empty)
            known = normal_scores(values, column) if scores else (values - column.mean) / column.deviation
            numbers.append(np.where(empty, 0.0, known))
            empty_numbers.append(empty)
            if column.missing is not None:
                groups.append((empty & (not holes)).astype(np.float64))
                empty_groups.append(np.zeros(len(sheet), dtype=bool))
        else:
            codes = codes_of(sheet, column)
            empty = codes < 0
            if column.missing is None and not holes:
                _refuse_empty(sheet, column, empty)
            groups.append(np.where(empty, 0 if holes else len(column.values), codes).astype(np.float64))
            empty_groups.append(empty)
    rows = [*numbers, *groups]
    values = np.stack(rows, axis=1) if rows else np.zeros((len(sheet), 0))
    empties = [*empty_numbers, *empty_groups]
    return Stored(values.astype(np.float32), np.stack(empties, axis=1) if rows else np.zeros_like(values, dtype=bool))


def _numbers_of(sheet: Sheet, column: Column) -> np.ndarray:
    cells, parse = (
        sheet.require(column.name, f"a header with '{column.name}', which the model learned"),
        parser_of(column),
    )
    odd = cells.first(lambda text: text not in MISSING_NUMBERS and parse(text) is None)
    if odd is not None:
        expected = "a number" if column.kind == "number" else f"a date like {date_text(column.mean, column.form)}"
        what = f"column '{column.name}' holds '{odd[0][:40]}' in row {sheet.rows[odd[1]]}, expected {expected}"
        fix = "correct it, or leave it empty where it is not known" if column.missing is not None else "correct it"
        raise DataError(what, path=sheet.path, fix=fix)
    return numbers_in(cells, parse)


def codes_of(sheet: Sheet, column: Column, *, unseen: bool = False) -> np.ndarray:
    """(N,) numbers of categories, -1 where the cell is empty. Raises DataError for one that training did not see, or
    takes it for an empty one where `unseen` ones may be."""
    cells = sheet.require(column.name, f"a header with '{column.name}', which the model learned")
    known = {text: i for i, text in enumerate(column.values)}
    known |= dict.fromkeys(column.rare, len(column.values) - 1)
    values, marks = [number(text) for text in column.values], MISSING
    if None not in values:
        marks, same = MISSING_NUMBERS, {value: i for i, value in enumerate(values)}  # 2 and 2.0
        known = {text: same[number(text)] for text in cells.texts if number(text) in same} | known
    odd = cells.first(lambda text: text not in known and text not in marks)
    if odd is not None and not unseen:
        held = ", ".join(column.values[:_SHOWN]) + ", ..." * (len(column.values) > _SHOWN)
        what = f"column '{column.name}' holds '{odd[0][:40]}' in row {sheet.rows[odd[1]]}, which training did not see"
        raise DataError(what, path=sheet.path, fix=f"write one of {held}, or leave the row out")
    return cells.codes_in(known)


def _refuse_empty(sheet: Sheet, column: Column, empty: np.ndarray) -> None:
    if empty.any():
        row = sheet.rows[int(empty.argmax())]
        what = f"column '{column.name}' is empty in row {row}, which training never met"
        raise DataError(what, path=sheet.path, fix="fill it in, or leave the row out")


def normal_scores(values: np.ndarray, column: Column) -> np.ndarray:
    """(N,) of values of a column, NaN for NaN: of a value that many rows share, the middle of its ranks."""
    knots = np.array(column.quantiles)
    places = np.array(ranks(len(knots)))
    differ, first, count = np.unique(knots, return_index=True, return_counts=True)
    low, high = places[first], places[first + count - 1]
    # Between two knots the rank rises from the highest of the lower to the lowest of the upper one.
    right = np.searchsorted(differ, values).clip(0, len(differ) - 1)
    left = (right - 1).clip(0)
    exact = differ[right] == values
    span = np.where(right > left, differ[right] - differ[left], 1.0)
    share = ((values - differ[left]) / span).clip(0, 1)
    between = high[left] + share * (low[right] - high[left])
    rank = np.where(exact | (right == left), (low[right] + high[right]) / 2, between)
    edge = _edge(column)
    score = torch.special.ndtri(torch.from_numpy(edge + rank * (1 - 2 * edge))).numpy()
    return np.where(np.isnan(values), math.nan, score)


def from_scores(scores: np.ndarray, column: Column) -> np.ndarray:
    """(N,) values of normal scores, of the column's steps."""
    knots = np.array(column.quantiles)
    rank = torch.special.ndtr(torch.from_numpy(scores.astype(np.float64))).numpy()
    edge = _edge(column)
    rank = ((rank - edge) / (1 - 2 * edge)).clip(0, 1)
    return stepped(np.interp(rank, ranks(len(knots)), knots), column)


def _edge(column: Column) -> float:
    """Rank beyond which a score stands for the least or the greatest value: that of one of so many."""
    return 0.5 / (column.count + 1)


def stepped(values: np.ndarray, column: Column) -> np.ndarray:
    return np.round(values / column.step) * column.step if column.step else values


def texts_of(values: np.ndarray, columns: Sequence[Column]) -> dict[str, list[str]]:
    """Rows (N, D) of normal scores and groups -> the texts of each column, by its name. What is no column of a row
    comes out empty, identifiers count on."""
    found: dict[str, list[str]] = {}
    places = {place.column: place for place in layout(columns)}
    for i, column in enumerate(columns):
        if i not in places:
            count = len(values)
            numbered = column.kind == "identifier"
            found[column.name] = [str(column.last + 1 + row) if numbered else "" for row in range(count)]
            continue
        _, number, group = places[i]
        code = None if group is None else values[:, group].argmax(1)
        if number is not None:
            texts = number_texts(from_scores(values[:, number], column), column)
            missing = column.missing or ""
            if code is not None:
                texts = [missing if gone else text for text, gone in zip(texts, code, strict=True)]
        else:
            assert code is not None
            texts = [category_text(int(c), column, row) for c, row in zip(code, values, strict=True)]
        found[column.name] = texts
    return found


def category_text(code: int, column: Column, row: np.ndarray) -> str:
    """Of the rare ones one by how often each is met, by what else is in the row."""
    if code == len(column.values):
        return column.missing or ""
    if not column.rare or code < len(column.values) - 1:
        return column.values[code]
    bounds = np.cumsum(column.rare_counts if any(column.rare_counts) else [1] * len(column.rare))
    point = zlib.crc32(np.ascontiguousarray(row, dtype=np.float32).tobytes()) / 2**32 * bounds[-1]
    return column.rare[int(np.searchsorted(bounds, point, side="right"))]


def number_texts(values: np.ndarray, column: Column) -> list[str]:
    """As the column writes them."""
    if column.kind == "date":
        return [date_text(value, column.form) for value in values.tolist()]
    if column.places is None:
        return [f"{value:.10g}" for value in values.tolist()]
    least, most = column.places
    if most > _PLACES:  # more than are meant: as many as tell a number from its neighbours
        written = (np.format_float_positional(value + 0.0, most, min_digits=least) for value in values.tolist())
        return [text.removesuffix(".") for text in written]
    texts = [f"{value + 0.0:.{most}f}" for value in values.tolist()]
    texts = [text.removeprefix("-") if float(text) == 0 else text for text in texts]
    return texts if least == most else [_trimmed(text, least) for text in texts]


def _trimmed(text: str, least: int) -> str:
    """Without zeros at the end, beyond the `least` places."""
    digits, _, places = text.partition(".")
    kept = places.rstrip("0").ljust(least, "0")
    return f"{digits}.{kept}" if kept else digits


def date_text(moment: float, form: str) -> str:
    return (_EPOCH + timedelta(seconds=moment)).strftime(form)
