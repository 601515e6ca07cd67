"""A table of the items of ratings: what they are called, and what is known of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from genai.contract import Spec
from genai.data import sniff
from genai.data.kinds import number
from genai.data.records import item_column, named
from genai.data.sheet import MISSING, Cells, Sheet, read_csv, read_tables
from genai.errors import DataError, counted

_TITLES = ("title", "movietitle", "itemname", "productname", "name", "标题", "名称", "片名", "书名")
_BINS, _FEW_NUMBERS = 8, 12  # that a column of more different numbers is cut into
_MOST_WORDS = 500  # of a column
_SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class Catalogue:
    path: Path
    names: tuple[str, ...]
    titles: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]  # of each item, `column=value`

    def describe(self, spec: Spec, notes: list[str]) -> Spec:
        """The spec of ratings with what is known of its items; of words those that two items share at least."""
        place = {name: i for i, name in enumerate(self.names)}
        met = Counter(word for words in self.words for word in words)
        kept = {word: i for i, word in enumerate(sorted(word for word, count in met.items() if count > 1))}
        rows = [place.get(name) for name in spec.names]
        if missing := [name for name, row in zip(spec.names, rows, strict=True) if row is None]:
            notes.append(f"{counted(len(missing), 'item')} not in the table of items, as '{missing[0]}'")
        titles = tuple("" if row is None else self.titles[row] for row in rows)
        own = [() if row is None else self.words[row] for row in rows]
        features = tuple(tuple(kept[word] for word in words if word in kept) for words in own)
        columns = sorted({word.split("=")[0] for word in kept})
        notes.append(f"known of items: {len(kept):,} values of {', '.join(columns) or 'no column'}")
        return replace(spec, titles=titles if any(titles) else (), features=features if kept else ())


def read_catalogue(path: str, *, skip: bool) -> Catalogue:
    """Raises DataError for what is no table, and for one without a column of items."""
    try:
        sheet = _open(sniff.existing(path), skip)
    except DataError as error:
        raise error.with_fix(error.fix.replace("data.path", "data.items")) from error.__cause__
    columns = list(sheet.columns)
    key = item_column(columns) or named(columns, ("id",))
    if key is None:
        what = f"no column of items, the columns are {', '.join(columns)[:120]}"
        raise DataError(what, path=path, fix="call the one with their ids item")
    ids = sheet.columns[key]
    names = [ids.texts[code] for code in ids.codes]
    if blank := [int(sheet.rows[i]) for i, name in enumerate(names) if name in MISSING]:
        raise DataError(f"column '{key}' is empty in row {blank[0]}", path=path, fix="fill it in")
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"the item '{twice}' has two rows", path=path, fix="leave one of them out")
    title = named(columns, _TITLES)
    titles = [""] * len(names) if title is None else _texts(sheet.columns[title])
    if odd := [name for name in (*names, *titles) if "${" in name]:
        raise DataError(f"the item {odd[0][:40]!a} holds an interpolation", path=path, fix="give it another name")
    words: list[list[str]] = [[] for _ in names]
    for name in columns:
        if name not in (key, title):
            for own, found in zip(words, _words(name.split(":")[0], sheet.columns[name]), strict=True):
                own += found
    return Catalogue(Path(path), tuple(names), tuple(titles), tuple(map(tuple, words)))


def _open(path: Path, skip: bool) -> Sheet:
    kind = sniff.kind_of(path)
    if kind == "parquet":
        from genai.data.parquet import tables_of_parquet

        return read_tables(tables_of_parquet(path).trains, path.name)
    if kind != "csv":
        raise DataError("the items are no table", path=path, fix="give data.items a .csv or .parquet")
    return read_csv(path, path.name, skip=skip)


def _texts(cells: Cells) -> list[str]:
    return ["" if (text := cells.texts[code]) in MISSING else text for code in cells.codes]


def _words(name: str, cells: Cells) -> list[list[str]]:
    """Of each row: its number by the eighth it lies in, where a column has many, else the parts of its text."""
    texts = _texts(cells)
    there = [text for text in texts if text]
    if all(number(text) is not None for text in there) and len(set(there)) > _FEW_NUMBERS:
        edges = np.quantile(list(map(float, there)), np.arange(1, _BINS) / _BINS)
        return [[f"{name}={int(np.searchsorted(edges, float(text)))}"] if text else [] for text in texts]
    sign = next((sign for sign in _SEPARATORS if any(sign in text for text in there)), None)
    parts = [[f"{name}={part.strip().casefold()}" for part in text.split(sign) if part.strip()] for text in texts]
    usual = {word for word, _ in Counter(word for row in parts for word in set(row)).most_common(_MOST_WORDS)}
    return [sorted(set(row) & usual) for row in parts]
