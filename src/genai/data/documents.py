"""Documents out of records, in a seeded order: a text alone, a text as the answer to what other columns say of it, or
what was said and answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genai.data import cache, sniff
from genai.data.records import CsvRows, JsonLines, Records, TableRows, dialogue_of, text_column
from genai.data.source import BETWEEN, Corpus
from genai.data.tables import Tables
from genai.errors import DataError
from genai.schema import DataConfig

_ROLES = (("user", "prompt"), ("assistant", "response"))


def corpus_of_file(path: Path, config: DataConfig, name: str) -> Corpus:
    """Of .jsonl, .csv or .tsv. Raises DataError for what is none, and for columns that are not there."""
    kind = JsonLines if sniff.kind_of(path) == "records" else CsvRows
    documents = Documents(kind(path, skip=config.on_bad == "skip"), config, first_of_several=kind is JsonLines)
    return documents.corpus(name, str(path.resolve()), cache.stamp_of(path), path.stat().st_size)


def corpus_of_tables(tables: Tables, config: DataConfig, name: str) -> Corpus:
    """Of parquet files or a hub set, with its own held-out part. Raises DataError as above."""

    def corpus(part: str, test: Corpus | None = None) -> Corpus:
        chosen = tables.trains if part == "train" else tables.tests
        documents = Documents(TableRows(chosen), config)
        stamp, num_bytes = " ".join(table.stamp for table in chosen), sum(table.num_bytes for table in chosen)
        key = " ".join(table.key for table in chosen)
        return documents.corpus(name, key, stamp, num_bytes, notes=tuple(tables.notes), test=test)

    return corpus("train", corpus("test") if tables.tests else None)


def given_columns(config: DataConfig) -> tuple[str, ...]:
    return columns_of(config.given)


def columns_of(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Also of a list that comes as a text: Hydra's grammar reads no names in Chinese and none with blanks."""
    if not isinstance(given, str):
        return given or ()
    names = given[1:-1].split(",") if given[:1] == "[" and given[-1:] == "]" else [given]
    return tuple(name.strip().strip("'\"") for name in names)


class Documents:
    """Of records, read again each time; `left_out` is how many of them held no text the last time."""

    def __init__(self, records: Records, config: DataConfig, *, first_of_several: bool = False) -> None:
        self.records, self.config = records, config
        fields = columns_of(config.field)
        if len(fields) > 1:
            what = f"data.field names {len(fields)} columns, the text that is written is in one"
            fix = f"type data.field={fields[0]}, or add data.target=COLUMN to have it predicted of both"
            raise DataError(what, path=records.path, fix=fix)
        self.given = given_columns(config)
        if missing := [column for column in self.given if records.first and column not in records.columns]:
            what = f"no column '{missing[0]}', the columns are {', '.join(records.columns)[:120]}"
            raise DataError(what, path=records.path, fix="type data.given=[COLUMN]")
        self.turns = () if config.field is not None or self.given else dialogue_of(records)
        self.text = ""
        if not self.turns and records.first:
            self.text = text_column(
                records, field=fields[0] if fields else None, given=self.given, first_of_several=first_of_several
            )
        self.left_out = 0

    def corpus(
        self,
        name: str,
        source: str,
        stamp: str,
        num_bytes: int,
        *,
        notes: tuple[str, ...] = (),
        test: Corpus | None = None,
    ) -> Corpus:
        config = self.config
        key = f"{source} {config.field} {config.split_seed} {config.on_bad}" + f" given {self.given}" * bool(self.given)
        return Corpus(
            name=name,
            parts=self.parts,
            key=key,
            stamp=stamp,
            num_bytes=num_bytes,
            marked=True,
            columns=tuple(self.records.columns),
            dialogue=bool(self.turns or self.given),
            given=self.given,
            notes=(*notes, self._note()),
            left_out=lambda: self.left_out,
            test=test,
        )

    def _note(self) -> str:
        if self.turns:
            return f"conversations in {' and '.join(self.turns)}"
        return f"texts in '{self.text}'" + (f", each the answer to its {', '.join(self.given)}" if self.given else "")

    def parts(self) -> Iterator[str]:
        self.left_out = 0
        columns = self.turns or (self.text, *self.given)
        with self.records.opened(columns) as opened:
            for number in np.random.RandomState(self.config.split_seed).permutation(opened.size).tolist():
                try:
                    found = self._document(opened.read(number), number)
                except DataError:
                    if self.config.on_bad == "skip":
                        continue
                    raise
                if not found:
                    self.left_out += 1
                    continue
                yield from found
                yield BETWEEN

    def _document(self, record: Mapping[str, Any], number: int) -> list[str]:
        """Empty where there is no text. Raises DataError for a record that has none where it should."""
        name = self.records.name(number)
        if self.turns:
            return list(_turns(record, name, self.records.path))
        text = record.get(self.text)
        if self.text in record and (text is None or (isinstance(text, str) and not text.strip())):
            return []
        if not isinstance(text, str):
            what = f"{name} has no text in '{self.text}', its columns are {', '.join(record)[:80]}"
            raise DataError(what, path=self.records.path, fix="type data.field=COLUMN, or data.on_bad=skip")
        text = clean(text)
        if not self.given:
            return [text]
        said = {key: _plain(record.get(key)) for key in self.given}
        if not any(said.values()):
            what = f"{name} says nothing in {', '.join(self.given)}"
            raise DataError(what, path=self.records.path, fix="fill it in, or type data.on_bad=skip")
        return [question(attributes(said)), text]


def attributes(said: Mapping[str, str]) -> str:
    """What is known of a text, as a model reads it and as it is asked for: `key: value; key: value`."""
    return "; ".join(f"{key}: {value}" for key, value in said.items() if value)


def clean(text: str) -> str:
    """Without the mark between documents; halves of surrogate pairs, which JSON can hold and UTF-8 cannot, as `?`."""
    return text.replace(BETWEEN, " ").encode(errors="replace").decode()


def _plain(value: Any) -> str:
    """On one line, without the sign that divides attributes; empty for no value."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(_plain, value))
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else " ".join(clean(str(value)).replace(";", ",").split())


def question(said: str) -> str:
    """As a model of conversations reads it: on one line, which its answer follows."""
    return " ".join(said.split()) + "\n"


def _turns(record: Mapping[str, Any], name: str, path: Path | str) -> Iterator[str]:
    """What is said on one line, and below it the answer up to BETWEEN, again and again. What others than the two say
    (instructions) stands before what is said next. Raises DataError for a record that is no conversation."""
    messages = record.get("messages")
    if messages is None:
        messages = [{"role": role, "content": record.get(key)} for role, key in _ROLES]
    said: list[str] = []
    answered = False
    for message in messages if isinstance(messages, list) else [None]:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            what = f"{name} is no conversation"
            fix = 'write {"prompt": TEXT, "response": TEXT}, or {"messages": [{"role": "user", "content": TEXT}, ...]}'
            raise DataError(what, path=path, fix=fix)
        content = clean(content)
        assert isinstance(message, dict)
        if message.get("role") != "assistant":
            said.append(content)
            continue
        if answered:
            yield BETWEEN
        yield question(" ".join(said))
        yield content
        said, answered = [], True
    if not answered:
        raise DataError(f"{name} has no answer", path=path, fix="answer it, or type data.on_bad=skip")
