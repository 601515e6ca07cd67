"""Texts as the n-grams that they hold, by their hash alone: no dictionary is kept, and every machine and version of
Python finds the same (Weinberger et al. 2009)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

Kind = Literal["words", "characters"]
_WORDS, _SIGNS = 2, 3  # of an n-gram, at most: of words and marks; of characters of scripts without blanks
_LEAST = 3  # characters of a part of a word, at least
_AT_ONCE = 1 << 20  # characters
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse among 64 bits
_MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # of MurmurHash3 (Appleby 2008)
_LETTER, _SIGN, _MARK = 1, 2, 3
_SIGNS_OF = (  # scripts whose words have no blanks between them: Thai to Khmer, kana, Han
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip

Found = tuple[np.ndarray, np.ndarray]  # (M,) int64 which text, (M,) uint64 hash, for each place of each n-gram


def hashed(texts: Sequence[str], kind: Kind, longest: int) -> Found:
    """The n-grams of N texts.

    Of words: one and two of them in small letters, with marks as words of their own; parts of three to `longest`
    characters within each, which know whether they begin or end it; of scripts without blanks one to three characters.
    Of characters: one to `longest` of them as they are written.
    """
    parts = [_hashed(texts[a:b], kind, longest, first=a) for a, b in pairwise(_cuts(texts))]
    rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in parts)])
    return rows, np.concatenate([np.zeros(0, np.uint64), *(hashes for _, hashes in parts)])


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Every bit of each depends on all (uint64, which wrap)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * _MIX[0]
    hashes = (hashes ^ (hashes >> np.uint64(33))) * _MIX[1]
    return hashes ^ (hashes >> np.uint64(33))


def _cuts(texts: Sequence[str]) -> Iterator[int]:
    """Where texts are divided, so that each part has few characters."""
    yield 0
    held = 0
    for i, text in enumerate(texts):
        if held > _AT_ONCE:
            yield i
            held = 0
        held += len(text)
    yield len(texts)


class _Spans:
    """Hashes of any spans of characters: sum of c[i] * base ** (i - start), modulo 2 ** 64."""

    def __init__(self, points: np.ndarray) -> None:
        size = len(points) + 1
        powers = _powers(_BASE, size)
        sums = np.cumsum(mixed(points.astype(np.uint64) + np.uint64(1)) * powers[:-1], dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, np.uint64), sums])
        self._inverses = _powers(pow(_BASE, -1, 1 << 64), size)

    def __call__(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return mixed((self._sums[ends] - self._sums[starts]) * self._inverses[starts])


def _powers(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    found: np.ndarray = np.cumprod(factors, dtype=np.uint64)
    return found


def _hashed(texts: Sequence[str], kind: Kind, longest: int, *, first: int) -> Found:
    joined = "\0".join(texts) + "\0"
    if kind == "words":
        joined = joined.lower()
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    breaks = points == 0
    rows = first + np.cumsum(breaks) - breaks
    spans = _Spans(points)
    found = list(
        _of_words(joined, points, rows, spans, longest) if kind == "words" else _runs(rows, breaks, spans, longest)
    )
    return np.concatenate([rows for rows, _ in found]), np.concatenate([hashes for _, hashes in found])


def _runs(rows: np.ndarray, breaks: np.ndarray, spans: _Spans, longest: int) -> Iterator[Found]:
    """Spans of one to `longest` characters, none of them a break."""
    before = np.concatenate([[0], np.cumsum(breaks)])
    for size in range(1, min(longest, len(rows)) + 1):
        starts = np.flatnonzero(before[size:] == before[:-size])
        yield rows[starts], spans(starts, starts + size)


def _of_words(joined: str, points: np.ndarray, rows: np.ndarray, spans: _Spans, longest: int) -> Iterator[Found]:
    kinds = _kinds_of(joined, points)
    letters = kinds == _LETTER
    alone = kinds > _LETTER
    before, behind = np.concatenate([[False], letters[:-1]]), np.concatenate([letters[1:], [False]])
    starts = np.flatnonzero((letters & ~before) | alone)
    ends = np.flatnonzero((letters & ~behind) | alone) + 1
    hashes, own, signs = spans(starts, ends), rows[starts], kinds[starts] == _SIGN
    yield own, hashes
    chain, last = hashes, len(starts)
    for size in range(2, _SIGNS + 1):
        if last < size:
            break
        chain = mixed(chain[:-1] * np.uint64(_BASE) + hashes[size - 1 :])
        together = own[: last - size + 1] == own[size - 1 :]
        if size > _WORDS:
            of_signs = np.concatenate([[0], np.cumsum(signs)])
            together &= of_signs[size:] - of_signs[:-size] == size
        yield own[: last - size + 1][together], chain[together]
    is_word = letters[starts]
    yield from _parts(starts[is_word], ends[is_word], rows, spans, longest)


def _parts(starts: np.ndarray, ends: np.ndarray, rows: np.ndarray, spans: _Spans, longest: int) -> Iterator[Found]:
    """Of words, parts of _LEAST to `longest` characters."""
    for size in range(_LEAST, longest + 1):
        counts = np.maximum(ends - starts - size + 1, 0)
        ahead = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(starts, counts) + ahead
        at_end = ahead + 1 == np.repeat(counts, counts)
        place = np.uint64(1) + (ahead == 0) * np.uint64(2) + at_end * np.uint64(4)
        yield rows[places], mixed(spans(places, places + size) + place)


def _kinds_of(joined: str, points: np.ndarray) -> np.ndarray:
    """(T,) of each character: a letter or a digit, a sign of a script without blanks, a mark, or 0."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for character in set(joined):
        category, point = unicodedata.category(character), ord(character)
        if category[0] in "LNM" or character == "_":
            table[point] = _SIGN if any(a <= point <= b for a, b in _SIGNS_OF) else _LETTER
        elif category[0] in "PS":
            table[point] = _MARK
    return table[points]
