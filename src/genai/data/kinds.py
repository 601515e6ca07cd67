"""What the columns of a table are, found from their texts: numbers, categories, dates, identifiers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from genai.columns import Column, ranks
from genai.data.sheet import MISSING, MISSING_NUMBERS, Cells, Sheet
from genai.errors import DataError, to_list

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_GROUPED = re.compile(r"[+-]?[\d., '_]*\d")  # as people write numbers for people
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_CODE = re.compile(r"[+-]?0\d+")  # 007 is no 7
_IDENTIFIER = re.compile(r"(?i:(^|[_\s.-])(id|uuid|index|key|编号|序号)$)|(病历|学|证|单|卡|账|工)号$|[a-z](Id|ID)$|^$")
_FORMS = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y-%m",
    "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M",
    "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f", "%Y年%m月%d日",
)  # fmt: skip
_STEPS = 512  # between quantiles
_MOST_CATEGORIES = 100
_FEW, _EACH = 16, 10  # numbers of at most so many values, each met so often on average, are categories
_MOST_CLASSES = 1000
_MOST_PLACES = 9
_UNIQUE = 20  # values that must differ for a column to be one of identifiers


def kind_of(
    name: str,
    sheet: Sheet,
    train: np.ndarray,
    *,
    role: Literal["value", "target"] = "value",
    as_category: bool = False,
    drawn: bool = False,
) -> Column:
    """The column, its figures from the rows of `train`. Where rows are `drawn`, numbers of few values are categories,
    and those that count the rows identifiers.

    Raises DataError for infinite values, for texts among numbers, and for texts that nearly all differ.
    """
    cells = sheet.columns[name]
    counts = np.bincount(cells.codes, minlength=len(cells.texts))
    met = [text for text, count in zip(cells.texts, counts, strict=True) if count]
    if (endless := cells.first(_is_infinite)) is not None:
        what = f"column '{name}' holds '{endless[0]}' in row {sheet.rows[endless[1]]}"
        raise DataError(what, path=sheet.path, fix="write a number, or leave it empty where it is not known")
    if not as_category:
        found = _as_number(name, cells, met, sheet, train) or _as_date(name, cells, met, sheet, train)
        if found is not None:
            whole = found.kind == "number" and (found.step >= 1 or all(_WHOLE.fullmatch(t) for t in met))
            of_all = int(counts[counts > 0].max(initial=0)) == 1 and len(met) == len(sheet) > _UNIQUE
            values = {value for text in met if (value := number(text)) is not None} if found.kind == "number" else set()
            if role == "value" and whole and found.missing is None and of_all:
                has_no_gaps = round((max(values) - min(values)) / (found.step or 1)) + 1 == len(values)
                if _IDENTIFIER.search(name) is not None or (drawn and has_no_gaps):
                    last = round(max(values))
                    return Column(name, "identifier", role="left_out", type=cells.type, last=last)
            few = len(values) <= _FEW and len(sheet) >= _EACH * len(values)
            classes = role == "target" and whole and len(values) <= _FEW
            if not (found.kind == "number" and (classes or (drawn and few and role == "value"))):
                return Column(**{**vars(found), "role": role})
    column = _as_category(name, cells, counts, sheet, train, role, marks_in(met, as_category=as_category))
    return replace(column, numeric=not as_category and all(number(text) is not None for text in column.values))


def marks_in(texts: Iterable[str], *, as_category: bool) -> frozenset[str]:
    """Those that say that nothing is known: among numbers also some that are categories elsewhere."""
    given = [text for text in texts if text not in MISSING_NUMBERS]
    numbers = bool(given) and not as_category and all(number(text) is not None for text in given)
    return MISSING_NUMBERS if numbers else MISSING


def _missing_of(texts: Sequence[str], marks: frozenset[str], counts: np.ndarray, cells: Cells) -> str | None:
    """The mark that is met most often; None where none is."""
    met = [text for text in texts if text in marks]
    place = {text: i for i, text in enumerate(cells.texts)}
    return max(met, key=lambda text: counts[place[text]], default=None)


def numbers_in(cells: Cells, parse: Callable[[str], float | None]) -> np.ndarray:
    """(N,) float64, NaN for what is none."""
    found = [parse(text) for text in cells.texts]
    values = np.array([math.nan if value is None else value for value in found])
    return values[cells.codes] if len(values) else np.zeros(0)


def number(text: str) -> float | None:
    """None for what is none, or too large for one."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def _is_infinite(text: str) -> bool:
    return bool(_INFINITE.fullmatch(text) or (_NUMBER.fullmatch(text) and math.isinf(float(text))))


def seconds(text: str, form: str) -> float | None:
    """Since 1970 of a date as `form` writes it."""
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def parser_of(column: Column) -> Callable[[str], float | None]:
    return number if column.kind == "number" else lambda text: _moment(text, column.form)


def _moment(text: str, form: str) -> float | None:
    """`seconds`, of a date without a time or at midnight whether the form has one or not: other tools write it so."""
    found = seconds(text, form)
    if found is None:
        found = seconds(text.removesuffix(" 00:00:00"), form.partition(" %H")[0])
    return found


def _as_number(name: str, cells: Cells, met: Sequence[str], sheet: Sheet, train: np.ndarray) -> Column | None:
    given = [text for text in met if text not in MISSING_NUMBERS]
    plain = [text for text in given if number(text) is not None]
    if not plain or any(_CODE.fullmatch(text) for text in plain):
        return None
    if len(plain) < len(given):
        if len(plain) <= len(given) / 2:
            return None
        odd = cells.first(lambda text: text not in MISSING_NUMBERS and number(text) is None)
        assert odd is not None
        what = f"column '{name}' holds '{odd[0][:40]}' in row {sheet.rows[odd[1]]}, where most are numbers"
        ways = f"{to_list('data.categories', [name])} or {to_list('data.drop', [name])}"
        fix = f"correct it, empty it where it is not known, or type {ways}"
        raise DataError(what, path=sheet.path, fix=fix)
    most = max(_places(text) for text in plain)
    step, places = 0.0, None
    if not any("e" in text.lower() for text in plain):
        written = [len(text.partition(".")[2]) for text in plain]
        places = (min(written), max(written))
    if most <= _MOST_PLACES and max(abs(float(text)) for text in plain) * 10**most < 2**53:
        units = np.array([round(float(text) * 10**most) for text in plain], dtype=np.int64)
        shared = int(np.gcd.reduce(units - units[0])) or 1
        step = (1 if units[0] % shared else shared) / 10**most  # 1: of multiples, shifted
    return _column_of_values(name, "number", cells, met, MISSING_NUMBERS, train, number, step, places, "")


def _places(text: str) -> int:
    """Behind the point, that say something."""
    digits, _, exponent = text.lower().partition("e")
    return max(0, len(digits.partition(".")[2].rstrip("0")) - int(exponent or 0))


def _as_date(name: str, cells: Cells, met: Sequence[str], sheet: Sheet, train: np.ndarray) -> Column | None:
    given = [text for text in met if text not in MISSING]
    if not given or len(given[0]) > 40:
        return None
    forms = [form for form in _FORMS if seconds(given[0], form) is not None]
    form = next((form for form in forms if all(seconds(text, form) is not None for text in given)), None)
    if form is None:
        return None
    moments = np.array([seconds(text, form) for text in given])
    step = float(np.gcd.reduce((moments * 1000).astype(np.int64)) or 1000) / 1000

    def parse(text: str) -> float | None:
        return seconds(text, form)

    return _column_of_values(name, "date", cells, met, MISSING, train, parse, step, None, form)


def _column_of_values(
    name: str,
    kind: Literal["number", "date"],
    cells: Cells,
    met: Sequence[str],
    marks: frozenset[str],
    train: np.ndarray,
    parse: Callable[[str], float | None],
    step: float,
    places: tuple[int, int] | None,
    form: str,
) -> Column:
    values = numbers_in(cells, parse)
    known = values[train]
    known = known[~np.isnan(known)]
    if not len(known):  # all of them are held out
        known = values[~np.isnan(values)]
    return Column(
        name,
        kind,
        type=cells.type,
        count=len(known),
        quantiles=tuple(map(float, np.quantile(known, ranks(min(_STEPS, max(1, len(known) - 1)) + 1)))),
        mean=float(known.mean()),
        deviation=float(known.std()) if np.ptp(known) > 0 else 1.0,
        step=step,
        places=places,
        form=form,
        missing=_missing_of(met, marks, np.bincount(cells.codes, minlength=len(cells.texts)), cells),
    )


def _as_category(
    name: str,
    cells: Cells,
    counts: np.ndarray,
    sheet: Sheet,
    train: np.ndarray,
    role: Literal["value", "target"],
    marks: frozenset[str],
) -> Column:
    of_training = np.bincount(cells.codes[train], minlength=len(cells.texts))
    texts = [i for i in np.flatnonzero(counts) if cells.texts[i] not in marks]
    missing = _missing_of([cells.texts[i] for i in np.flatnonzero(counts)], marks, counts, cells)
    most = _MOST_CLASSES if role == "target" else _MOST_CATEGORIES
    if not texts:
        what = f"column '{name}' is empty"
        raise DataError(what, path=sheet.path, fix=f"type {to_list('data.drop', [name])}")
    if len(texts) > max(most, len(sheet) / 2) or (len(texts) == len(sheet) > _UNIQUE):
        if role == "value" and _IDENTIFIER.search(name) is not None:
            return Column(name, "identifier", role="left_out", type=cells.type)
        one = cells.texts[texts[0]][:40]
        what = f"column '{name}' holds {len(texts):,} different texts in {len(sheet):,} rows, like '{one}'"
        fix = f"type {to_list('data.drop', [name])}" if role == "value" else "type data.target=COLUMN for another"
        if all(_GROUPED.fullmatch(cells.texts[i]) for i in texts):
            fix = "write numbers as 12345.6, a point before decimals and nothing between thousands"
        raise DataError(what, path=sheet.path, fix=fix)
    if role == "target" and len(texts) > most:
        what = f"column '{name}' holds {len(texts):,} categories, at most {most:,} are told apart"
        raise DataError(what, path=sheet.path, fix="type data.target=COLUMN for another")
    common = sorted(texts, key=lambda i: (-counts[i], cells.texts[i]))
    rare = common[most - 1 :] if len(common) > most else []
    kept = sorted(common[: len(common) - len(rare)], key=lambda i: _order(cells.texts[i]))
    own = [int(of_training[i]) for i in kept] + ([int(of_training[rare].sum())] if rare else [])
    return Column(
        name,
        "category",
        role=role,
        type=cells.type,
        values=(*(cells.texts[i] for i in kept), *(["(rare)"] if rare else [])),
        counts=tuple(own),
        rare=tuple(cells.texts[i] for i in rare),
        rare_counts=tuple(int(of_training[i]) for i in rare),
        missing=missing,
    )


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by size, before texts by letter."""
    value = number(text)
    return (0, value, text) if value is not None else (1, 0.0, text)
