"""Captions as what a model is told: the bytes of a text, filled up with 0 to one length. Imports numpy, torch late."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genai.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from genai.contract import Spec

VOCAB = 256  # one for each value of a byte; 0 is none of a text's
MOST_BYTES = 256  # that a model is told of a caption
NUM_EXAMPLES = 16  # captions of a set that previews are drawn for


def prompt_spec(length: int) -> Spec:
    from genai.contract import Spec

    return Spec(kind="token", shape=(length,), modality="text", vocab=VOCAB)


def clean(text: str) -> str:
    """In normal form NFC without blanks around it, so that equal texts are equal bytes, none of them a 0."""
    return prompt_bytes(text).decode()


def prompt_bytes(text: str) -> bytes:
    """UTF-8 of the clean text."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.replace("\0", " ").strip().encode(errors="replace")  # half a surrogate pair is no text


def prompt_ids(texts: Sequence[str], length: int) -> np.ndarray:
    """(N, length) uint8: the bytes of each text, cut before the first character that does not fit, filled up with 0.

    All 0 says nothing: no prompt.
    """
    import numpy as np

    rows = b"".join(_fitting(prompt_bytes(text), length).ljust(length, b"\0") for text in texts)
    return np.frombuffer(bytearray(rows), np.uint8).reshape(len(texts), length)


def prompt_texts(ids: np.ndarray) -> tuple[str, ...]:
    """The texts that `prompt_ids` made (N, length) of; ids of no text as far as they are one."""
    return tuple(bytes(row.astype("uint8")).rstrip(b"\0").decode(errors="replace") for row in ids)


def longest(texts: Iterable[str]) -> int:
    """Bytes of the longest text, MOST_BYTES at most; 0 where all are empty."""
    return min(MOST_BYTES, max((len(prompt_bytes(text)) for text in texts), default=0))


def count_longer(texts: Iterable[str], length: int) -> int:
    return sum(len(prompt_bytes(text)) > length for text in texts)


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not blank. Raises DataError where there are none, or where it cannot be read."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        fix = "give --prompts a text file with one prompt a line"
        raise DataError(f"the prompts cannot be read: {reason}", path=path, fix=fix) from error
    if prompts := [line for line in lines if line]:
        return prompts
    raise DataError("the file holds no prompts", path=path, fix="write one a line")


def _fitting(data: bytes, length: int) -> bytes:
    """Whole characters of UTF-8, `length` bytes at most. What is cut is cut the same again."""
    return data if len(data) <= length else data[:length].decode(errors="ignore").rstrip().encode()
