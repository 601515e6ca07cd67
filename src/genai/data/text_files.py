"""Files of text as text: in UTF-8, or in UTF-16 that says so."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO

from genai.data import sniff
from genai.data.source import BETWEEN
from genai.errors import DataError

_PART = 1 << 24  # bytes that are read at once


def read_text(path: Path) -> Iterator[str]:
    """A file's text, part after part, with lines that end in \\n. UTF-8, or UTF-16 that says so. Raises DataError for
    what is no text."""
    with sniff.reading(path), path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        encoding = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        decoder = codecs.getincrementaldecoder(encoding)()
        held = ""  # a \r whose \n may come
        read = 0
        while True:
            content = file.read(_PART)
            try:
                text = held + decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                raise _no_text(path, content, read + error.start) from error
            if BETWEEN in text:
                raise DataError("a binary file, no text: it holds bytes of value 0", path=path, fix="check data.path")
            read += len(content)
            held = "\r" if text.endswith("\r") and content else ""
            text = text[: len(text) - len(held)].replace("\r\n", "\n").replace("\r", "\n")
            if text:
                yield text
            if not content:
                return


def cut_into(parts: Iterable[str], separator: re.Pattern[str]) -> Iterator[str]:
    """The documents of a text, BETWEEN behind each; empty ones are none."""
    held = ""
    for part in chain(parts, [None]):
        found = separator.split(held + (part or ""))
        held = "" if part is None else found.pop()
        for text in found:
            if text.strip():
                yield text.strip("\n")
                yield BETWEEN


def _no_text(path: Path, content: bytes, place: int) -> DataError:
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            fix = "save the table as CSV (in UTF-8) with the program that made it"
            return DataError("no text: a packed file, as those of spreadsheets are", path=path, fix=fix)
    what = f"no UTF-8 text: byte {content[0]:02x}" if not content else f"no UTF-8 text, from byte {place:,} on"
    # A letter with an accent stands among plain ones, where GB18030, too, takes it for a sign with the next one.
    high, pairs = sum(byte >= 0x80 for byte in content), re.findall(rb"[\xa1-\xfe]{2}", content)
    for encoding in ("gb18030", "cp1252") if 4 * len(pairs) >= high else ("cp1252", "gb18030"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(content)
        except UnicodeDecodeError:
            continue
        named = "Chinese in GB18030" if encoding == "gb18030" else "a Western encoding"
        fix = f"if it is {named}, type iconv -f {encoding} -t utf-8 FILE > NEW"
        return DataError(what, path=path, fix=fix)
    return DataError(what, path=path, fix="save it as UTF-8, or check data.path")


@contextmanager
def open_lines(path: Path) -> Iterator[IO[bytes]]:
    """The file at its first line, in UTF-8; of UTF-16, where the places of lines cannot be told by their bytes, a copy
    in memory."""
    with sniff.reading(path), path.open("rb") as file:
        start = file.read(3)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            yield BytesIO("".join(read_text(path)).encode())
            return
        file.seek(3 if start == codecs.BOM_UTF8 else 0)
        yield file


def decoded(line: bytes, path: Path) -> str:
    """A line of a file. Raises DataError for what is no UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        for _ in read_text(path):  # says where, and guesses what it is, from more than a line
            pass
        raise
