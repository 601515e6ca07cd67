"""Text as ids and back: characters, bytes, or pieces of words that are learned from the text. All that a tokenizer is
goes into one text, which the data's Spec keeps, and with it every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

import numpy as np

from genai.errors import ConfigError, DataError

_MOST_CHARACTERS = 10_000  # that get an id each where nobody says otherwise
_CHUNK = 1 << 20  # characters that are cut into pieces at once
_LEARNED_FROM = 64 << 20  # characters, at most, that pieces are learned from
_END = "<|end|>"
# Bytes stand in pieces as the letter of their number, those without one as the letters from 256 on (Radford et al.
# 2019).
_LETTERS = {
    chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if not (33 <= b <= 126 or 161 <= b != 173))
}


class Tokenizer(Protocol):
    vocab: int
    end: int  # the id between documents
    unit: str  # what an id stands for, in words

    def encode(self, text: str) -> np.ndarray:
        """(T,) int32. Raises DataError for a character that has no id."""

    def decode(self, ids: np.ndarray) -> str:
        """Without what stands between documents; bytes that are no text as U+FFFD."""

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) bytes of UTF-8 that each id stands for, and (V,) characters that begin in it."""

    def dump(self) -> str: ...


class Characters:
    """An id for each character of an alphabet, in the order of their code points."""

    def __init__(self, alphabet: str) -> None:
        self._alphabet, self._points = alphabet, _points(alphabet)
        self.vocab, self.end = len(self._points) + 1, len(self._points)
        self.unit = "character"

    def encode(self, text: str) -> np.ndarray:
        points = _points(text)
        ids = np.searchsorted(self._points, points)
        known = self._points[np.minimum(ids, self.end - 1)] == points
        if not known.all():
            unknown = chr(points[known.argmin()])
            what = f"the character {unknown!r} (U+{ord(unknown):04X}) is none of the {self.end:,} that the model knows"
            raise DataError(what, fix="leave it out, or train with data.tokens=bytes or data.tokens=bpe")
        return ids.astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        return self._points[ids[ids < self.end]].tobytes().decode("utf-32-le")

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        num_bytes = [len(character.encode(errors="replace")) for character in self._alphabet]
        return np.array([*num_bytes, 0]), np.array([*[1] * self.end, 0])

    def dump(self) -> str:
        return _kept({"characters": self._alphabet})


class Bytes:
    """An id for each byte of UTF-8."""

    vocab, end, unit = 257, 256, "byte"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(errors="replace"), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        return ids[ids < self.end].astype(np.uint8).tobytes().decode(errors="replace")

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        begins = [byte & 0xC0 != 0x80 for byte in range(256)]
        return np.array([*[1] * 256, 0]), np.array([*begins, 0], dtype=np.int64)

    def dump(self) -> str:
        return json.dumps({"bytes": True})


class Pieces:
    """Pairs of bytes that are frequent, joined again and again (Sennrich et al. 2016), within words, numbers and runs
    of signs. What was never seen is spelled in bytes."""

    unit = "piece"

    def __init__(self, content: str) -> None:
        import tokenizers

        self._content, self._pieces = content, tokenizers.Tokenizer.from_str(content)
        self._pieces.encode_special_tokens = True  # where a text says <|end|>, it is text
        self.vocab = self._pieces.get_vocab_size()
        self.end: int = self._pieces.token_to_id(_END)  # type: ignore[assignment]

    def encode(self, text: str) -> np.ndarray:
        text = text.encode(errors="replace").decode()  # what is no UTF-8 in the arguments of a program
        found = self._pieces.encode_batch_fast(list(_chunks([text])), add_special_tokens=False)
        return np.concatenate([np.zeros(0, np.int32), *(np.array(part.ids, dtype=np.int32) for part in found)])

    def decode(self, ids: np.ndarray) -> str:
        return str(self._pieces.decode(ids.tolist(), skip_special_tokens=True))

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        pieces: list[str] = [self._pieces.id_to_token(i) for i in range(self.vocab)]  # type: ignore[misc]
        pieces[self.end] = ""
        characters = [sum(_LETTERS.get(letter, ord(letter)) & 0xC0 != 0x80 for letter in piece) for piece in pieces]
        return np.array([len(piece) for piece in pieces]), np.array(characters)

    def dump(self) -> str:
        return _kept({"pieces": json.loads(self._content)})


def read_tokenizer(text: str) -> Tokenizer:
    """What `dump` made. Raises ValueError."""
    kind, content = next(iter(json.loads(text).items()))
    if kind == "pieces":
        return Pieces(json.dumps(content))
    if kind == "characters":
        return Characters(content)
    if kind == "bytes":
        return Bytes()
    raise ValueError(f"no tokenizer is called '{kind}'")


def make_tokenizer(
    texts: Callable[[], Iterable[str]], kind: Literal["characters", "bytes", "bpe"] | None, vocab: int
) -> Tokenizer:
    """Learned from texts; without a kind an id for each character, unless these are very many."""
    if kind == "bytes":
        return Bytes()
    if kind != "bpe":
        alphabet: set[str] = set()
        for text in texts():
            alphabet.update(text)
            if kind is None and len(alphabet) > _MOST_CHARACTERS:
                break
        else:
            return Characters("".join(sorted(alphabet)))
    return _learned_pieces(_beginning(_chunks(texts())), vocab)


def _learned_pieces(texts: Iterable[str], vocab: int) -> Pieces:
    """Raises ConfigError for fewer pieces than there are bytes."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    letters = pre_tokenizers.ByteLevel.alphabet()
    if vocab <= len(letters):
        what = f"data.vocab_size={vocab} is less than the {len(letters)} bytes and a mark between documents"
        raise ConfigError(what, fix="type data.vocab_size=1024, or data.tokens=bytes")
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[_END], initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return Pieces(made.to_str())


def _kept(content: dict[str, object]) -> str:
    """As JSON in which nothing looks like an interpolation, which no run keeps: text may hold shell or JavaScript."""
    return json.dumps(content, ensure_ascii=False).replace("${", "$\\u007b")


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _beginning(texts: Iterable[str]) -> Iterator[str]:
    read = 0
    for text in texts:
        yield text
        read += len(text)
        if read >= _LEARNED_FROM:
            return


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Texts in parts, which end with a line where there are lines."""
    for text in texts:
        start = 0
        while start < len(text):
            end = min(start + _CHUNK, len(text))
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            yield text[start:end]
            start = end
