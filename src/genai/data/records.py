"""Records by number, as .jsonl, .csv and tables of other tools have them: a value for each of some columns. Of a file
the places of its lines are kept, not the lines, so that it may be larger than memory. Standard library only: configs
are composed with it."""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate, islice, takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from genai.data.text_files import decoded, open_lines
from genai.errors import DataError

if TYPE_CHECKING:
    from genai.data.tables import Table

T = TypeVar("T")
Record = dict[str, Any]

_LOOKED_AT = 100  # records that say what the columns hold
_LONGEST_FIELD = 1 << 30  # characters: a book may be a field
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
# That common sets give to the column of their text, ours first.
_TEXT_NAMES = (
    "text", "content", "review", "sentence", "document", "article", "story", "poem", "body", "comment", "tweet",
    "文本", "内容", "评论", "正文",
)  # fmt: skip


# That common sets give to the columns of ratings, without blanks and hyphens.
_USERS = (
    "userid", "user", "uid", "username", "customerid", "customer", "memberid", "member", "visitorid", "reviewerid",
    "用户id", "用户编号", "用户", "用户名",
)  # fmt: skip
_ITEMS = (
    "itemid", "item", "iid", "movieid", "movie", "productid", "product", "bookid", "book", "isbn", "asin", "songid",
    "song", "trackid", "track", "artistid", "artist", "商品id", "商品编号", "商品", "物品id", "物品", "电影id", "电影",
)  # fmt: skip
_RATINGS = ("rating", "score", "stars", "评分")
_LETTER = re.compile(r"[^\W\d_]")
_WITHOUT = str.maketrans("", "", " _-")


class RatingColumns(NamedTuple):
    user: str
    item: str
    rating: str | None


class Opened(NamedTuple):
    size: int
    read: Callable[[int], Record]  # by number; raises DataError for one that cannot be used


class Records(Protocol):
    @property
    def path(self) -> Path | str:
        """As errors name them."""

    @property
    def first(self) -> Sequence[Record]:
        """A few."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of these, at least."""

    def name(self, number: int) -> str: ...

    def opened(self, columns: Sequence[str]) -> AbstractContextManager[Opened]:
        """To be read by number; no other columns than these are needed."""


class JsonLines:
    """An object on each line that is not blank."""

    def __init__(self, path: Path, *, skip: bool) -> None:
        self.path = path
        self._starts: array[int] | None = None
        with open_lines(path) as file:
            lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            self.first = _good(lambda some: self._object(some[1], some[0]), islice(lines, _LOOKED_AT), skip)
        self.columns = tuple(dict.fromkeys(key for record in self.first for key in record))

    def name(self, number: int) -> str:
        return f"record {number + 1}"

    @contextmanager
    def opened(self, columns: Sequence[str]) -> Iterator[Opened]:
        with open_lines(self.path) as file:
            starts = self._starts = self._starts or _starts_of_lines(file)

            def read(number: int) -> Record:
                file.seek(starts[number])
                return self._object(file.readline(), number, starts[number])

            yield Opened(len(starts), read)

    def _object(self, line: bytes, number: int, start: int | None = None) -> Record:
        """Of the line of that number, or at that place."""
        try:
            found = json.loads(decoded(line, self.path))
        except (ValueError, RecursionError) as error:
            what = f"line {self._line(number, start)} is no JSON"
            raise DataError(what, path=self.path, fix="write one object a line") from error
        if not isinstance(found, dict):
            what = f"line {self._line(number, start)} is no JSON object"
            raise DataError(what, path=self.path, fix="write one object a line")
        return found

    def _line(self, number: int, start: int | None) -> int:
        if start is None:
            return number
        with open_lines(self.path) as file:
            ends = accumulate(map(len, file), initial=file.tell())
            return sum(1 for _ in takewhile(lambda end: end <= start, ends))


class CsvRows:
    """Rows below a header, which may span lines; of .tsv and .tab divided by tabs."""

    def __init__(self, path: Path, *, skip: bool) -> None:
        self.path = path
        self.separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
        self._starts, self._numbers = array("q"), array("q")  # of rows below the header, once they were passed
        with open_lines(path) as file:
            rows = self._rows(file)
            _, _, header = next(rows, (0, 0, []))
            self.columns = tuple(name.strip() for name in header)
            self._check_header()
            self.first = _good(lambda row: self._record(row[2], row[0]), islice(rows, _LOOKED_AT), skip)

    def name(self, number: int) -> str:
        return f"row {self._numbers[number] if self._numbers else number + 2}"

    @contextmanager
    def opened(self, columns: Sequence[str]) -> Iterator[Opened]:
        with open_lines(self.path) as file:
            if not self._starts:
                numbers, starts = array("q"), array("q")
                for row, start, _ in islice(self._rows(file), 1, None):
                    numbers.append(row)
                    starts.append(start)
                self._numbers, self._starts = numbers, starts  # only where all could be read

            def read(number: int) -> Record:
                file.seek(self._starts[number])
                return self._record(next(self._rows(file, self._starts[number]))[2], self._numbers[number])

            yield Opened(len(self._starts), read)

    def all(self, *, skip: bool) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row that is not blank, with its number as a spreadsheet counts; none of those that have
        more or fewer, which are to be skipped."""
        with open_lines(self.path) as file:
            for number, _, fields in islice(self._rows(file), 1, None):
                good = len(fields) == len(self.columns)
                if not good and not skip:
                    self._record(fields, number)
                yield number, fields if good else []

    def _rows(self, file: IO[bytes], start: int | None = None) -> Iterator[tuple[int, int, list[str]]]:
        """Each row that is not blank from where the file stands: its number, as a spreadsheet counts from there, the
        place of its first byte, and its fields. The reader takes no line before it needs it, so the place of a row is
        the end of the lines before."""
        end = start = file.tell() if start is None else start
        number = 0

        def lines() -> Iterator[str]:
            nonlocal end
            for line in file:
                end += len(line)
                yield decoded(line, self.path).replace("\r\n", "\n")

        csv.field_size_limit(_LONGEST_FIELD)
        try:
            for number, fields in enumerate(csv.reader(lines(), delimiter=self.separator, strict=True), start=1):
                if fields:
                    yield number, start, fields
                start = end
        except csv.Error as error:
            what = f"row {number + 1} cannot be read: {error}"
            fix = 'close its quotes, and double those inside: "he said ""no"""'
            raise DataError(what, path=self.path, fix=fix) from error

    def _check_header(self) -> None:
        """Raises DataError where the first line does not name the columns apart."""
        if not self.columns:
            raise DataError("the table is empty", path=self.path, fix="check data.path")
        only = self.columns[0]
        others = [sign for sign in _SEPARATORS if sign in only and sign != self.separator]
        if len(self.columns) == 1 and others:
            what = f"one column, '{only[:60]}': it is divided by {_SEPARATORS[others[0]]}, expected "
            suffix = {"\t": ".tsv", ",": ".csv"}.get(others[0])
            fix = "save it with commas" if suffix is None else f"rename it to {self.path.stem}{suffix}"
            raise DataError(what + _SEPARATORS[self.separator], path=self.path, fix=fix)
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            raise DataError(f"two columns are called '{twice[0]}'", path=self.path, fix="rename one")

    def _record(self, fields: list[str], number: int) -> Record:
        if len(fields) != len(self.columns):
            what = f"row {number} has {len(fields)} fields, the header {len(self.columns)}"
            fix = 'quote what holds the separator: "a, b" - or type data.on_bad=skip'
            raise DataError(what, path=self.path, fix=fix)
        return dict(zip(self.columns, fields, strict=True))


class TableRows:
    """Rows of parquet files and of hub sets. The columns that are asked for are held in memory: a row by itself costs
    the unpacking of all its group."""

    def __init__(self, tables: Sequence[Table]) -> None:
        from genai.data.tables import features_of, is_readable

        self._tables, schema = tables, tables[0].schema
        self.path = tables[0].title
        self.columns = tuple(field.name for field in schema if is_readable(field.type))
        stated = {name: feature.get("names") for name, feature in features_of(schema).items()}
        self._names = {name: names for name, names in stated.items() if isinstance(names, list)}
        self._held: dict[str, list[Any]] = {}  # of each column, the arrays of each table
        batch = next(self._read(tables[0], self.columns), None) if self.columns else None
        self.first = [] if batch is None else [self._named(row) for row in batch.slice(0, _LOOKED_AT).to_pylist()]

    def name(self, number: int) -> str:
        return f"row {number}"

    @contextmanager
    def opened(self, columns: Sequence[str]) -> Iterator[Opened]:
        import pyarrow as pa

        if not set(columns) <= self._held.keys():
            batches = [batch for table in self._tables for batch in self._read(table, columns)]
            for name in columns:
                self._held[name] = pa.chunked_array([batch.column(name) for batch in batches])
        held = {name: self._held[name] for name in columns}

        def read(number: int) -> Record:
            return self._named({name: column[number].as_py() for name, column in held.items()})

        yield Opened(len(next(iter(held.values()))), read)

    def _named(self, record: Record) -> Record:
        """With the names of classes in place of their numbers."""
        for name in self._names.keys() & record.keys():
            number, names = record[name], self._names[name]
            if isinstance(number, int) and 0 <= number < len(names):
                record[name] = str(names[number])
        return record

    def _read(self, table: Table, columns: Sequence[str]) -> Iterator[Any]:
        import pyarrow as pa

        try:
            yield from table.batches(list(columns))
        except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:120]
            fix = "copy or make it again"
            raise DataError(f"the table cannot be read: {reason}", path=table.title, fix=fix) from error


def text_column(records: Records, *, field: str | None, given: Sequence[str], first_of_several: bool) -> str:
    """The column that holds the text: the one that is asked for, else one of the usual names, else the only one that
    holds texts, or more than a few different ones. Raises DataError."""
    held = f"the columns are {', '.join(records.columns)[:120] or 'none'}"
    if field is not None:
        if field not in records.columns:
            raise DataError(f"no column '{field}', {held}", path=records.path, fix="type data.field=COLUMN")
        return field
    able = [name for name in records.columns if name not in given and _holds_texts(records, name)]
    prose = [name for name in able if _holds_prose(records, name)]
    if named := _by_name(able):
        return named
    if len(able) == 1 or len(prose) == 1:
        return (able if len(able) == 1 else prose)[0]
    if able and first_of_several:
        return able[0]
    what = f"{', '.join(able[:8])} may each be the text" if able else "no column holds texts"
    if not able and any(_holds_texts(records, name) for name in given):
        what += " beside those of data.given"
    raise DataError(f"{what}, {held}", path=records.path, fix="type data.field=COLUMN")


def are_texts(records: Records) -> bool:
    """Whether a table is one of texts where no setting says so: it has a column by one of the usual names, or one of
    texts that differ, beside which there are no fractions and no other texts."""
    able = [name for name in records.columns if _holds_texts(records, name)]
    prose = [name for name in able if _holds_prose(records, name)]
    if _by_name(able) or dialogue_of(records):
        return True
    if rating_columns(records.columns) is not None:
        return False
    return len(prose) == 1 and not any(_holds_fractions(records, name) for name in records.columns)


def dialogue_of(records: Records) -> tuple[str, ...]:
    """The columns of conversations; empty where there are none."""
    first = next(iter(records.first), {})
    return next((keys for keys in (("messages",), ("prompt", "response")) if set(keys) <= first.keys()), ())


def rating_columns(columns: Sequence[str]) -> RatingColumns | None:
    """The columns of a table of who had what, by their names; None where it is none."""
    user, item = named(columns, _USERS), item_column(columns)
    return None if user is None or item is None else RatingColumns(user, item, named(columns, _RATINGS))


def item_column(columns: Sequence[str]) -> str | None:
    return named(columns, _ITEMS)


def named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that has the first of these names, in whatever case and with a type behind a colon."""
    plain = {column.split(":")[0].casefold().translate(_WITHOUT): column for column in reversed(columns)}
    return next((plain[name] for name in names if name in plain), None)


def _by_name(columns: Sequence[str]) -> str | None:
    return next((column for name in _TEXT_NAMES for column in columns if column.casefold() == name), None)


def _values(records: Records, column: str) -> list[Any]:
    values = (record.get(column) for record in records.first)
    return [value for value in values if value is not None and not (isinstance(value, str) and not value.strip())]


def _holds_texts(records: Records, column: str) -> bool:
    values = [value for value in _values(records, column) if isinstance(value, str)]
    return any(not _is_number(value) for value in values)


def _holds_prose(records: Records, column: str) -> bool:
    """Texts of letters, most of which differ; numbers are none, however they are written."""
    values = _values(records, column)
    texts = {value for value in values if isinstance(value, str) and not _is_number(value) and _LETTER.search(value)}
    return len(values) > 1 and len(texts) > len(values) / 2


def _holds_fractions(records: Records, column: str) -> bool:
    values = _values(records, column)
    if any(isinstance(value, str) and not _is_number(value) for value in values):
        return False
    return any(isinstance(value, float) or not str(value).lstrip("+-").isdecimal() for value in values)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _good(record_of: Callable[[T], Record], some: Iterable[T], skip: bool) -> list[Record]:
    """Without those that cannot be used, where they are to be skipped."""
    found = []
    for each in some:
        try:
            found.append(record_of(each))
        except DataError:
            if not skip:
                raise
    return found


def _starts_of_lines(file: IO[bytes]) -> array[int]:
    """The places of the first bytes of lines that are not blank."""
    starts, end = array("q"), file.tell()
    for line in file:
        if line.strip():
            starts.append(end)
        end += len(line)
    return starts
