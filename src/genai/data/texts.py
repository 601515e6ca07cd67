"""Text: files of it, or the documents of records, kept as one row of ids and learned in windows."""

from __future__ import annotations

import hashlib
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genai.contract import MOST_QUESTIONS, Batch, Spec
from genai.data import cache, sniff
from genai.data.documents import corpus_of_file, corpus_of_tables
from genai.data.hub import tables_of_hub
from genai.data.parquet import tables_of_parquet
from genai.data.source import BETWEEN, RESIDENT_BYTES, Corpus, Counts, Dataset, SeenBy, refuse_columns
from genai.data.text_files import cut_into, read_text
from genai.data.tokens import Tokenizer, make_tokenizer, read_tokenizer
from genai.errors import DataError
from genai.schema import DataConfig

_CONTEXT, _VOCAB = 256, 4096
TEXTS = "a .txt file, a folder of them, .jsonl, .csv or .parquet"
_FEWEST_IDS = 16  # that a text must have
_KEPT = 8 << 20  # bytes of a text whose ids are kept in the cache
_PART = 1 << 24  # ids that are counted at once
_LOOKED_AT = 1 << 20  # ids in which questions are looked for
_LONGEST_QUESTION = 200  # characters of one that is kept
_GOLDEN = 0.618034
_ALIGNED = 8  # of so many windows one begins where a sample does
_SEPARATORS = {"line": re.compile(r"\n"), "paragraph": re.compile(r"\n[^\S\n]*\n")}  # of documents in a file


class Windows:
    """A row of ids (N,) cut into windows of `length`, neighbours of which share one: it is predicted in one, and
    predicted from in the other. In every epoch the cuts lie elsewhere; with `whole` they stay, and the last window is
    filled up with what does not count. `counted` (N,) says which ids are to be predicted; None: all.

    Of documents samples follow on the `mark` between these. Where cuts fall anywhere few windows begin with it, so one
    in eight is moved to the first within it.
    """

    file_of: Callable[[int], str] | None = None

    def __init__(
        self,
        ids: np.ndarray,
        length: int,
        *,
        whole: bool,
        counted: np.ndarray | None = None,
        mark: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.ids, self.length, self.whole, self.counted, self.mark = ids, length, whole, counted, mark
        self.streams = isinstance(ids, np.memmap)
        self.device = device or torch.device("cpu")
        steps = len(ids) - 1
        self._count = max(1, -(-steps // (length - 1)) if whole else steps // (length - 1))
        # torch cannot index by unsigned numbers everywhere: the same bytes as signed ones.
        signed = np.int16 if ids.dtype.itemsize == 2 else np.int32
        self._held = None if self.streams else torch.from_numpy(ids.view(signed)).to(self.device)
        self._bits = (1 << 8 * ids.dtype.itemsize) - 1
        self._counted = None if counted is None else torch.from_numpy(counted)
        if self._counted is not None and not self.streams:
            self._counted = self._counted.to(self.device)
        self._moved = {self.device: self}

    def __len__(self) -> int:
        return self._count

    def to(self, device: torch.device) -> Windows:
        if device not in self._moved:
            self._moved[device] = Windows(
                self.ids, self.length, whole=self.whole, counted=self.counted, mark=self.mark, device=device
            )
        return self._moved[device]

    def fetch(self, index: Tensor) -> Batch:
        """Of a training split index may be epoch * len + window."""
        index = index.to("cpu" if self._held is None else self.device)
        epoch, window = index.div(self._count, rounding_mode="floor"), index % self._count
        start = self._starts(epoch, window)
        if self.mark is not None:
            start = torch.where((window + epoch) % _ALIGNED == 0, self._next_mark(start, self.mark), start)
        places = start[:, None] + torch.arange(self.length, device=start.device)
        mask = None
        if self.whole:
            mask = places < len(self.ids)
        places = places % len(self.ids)
        if self._counted is not None:
            mask = self._counted[places] if mask is None else mask & self._counted[places]
        weight = None if mask is None else mask[:, 1:].sum()
        batch = Batch(x=self._read(places), index=index, mask=mask, weight=weight)
        return batch if self._held is not None else batch.to(self.device, torch.float32)

    def expect(self, index: Tensor) -> None:
        """Has what will be fetched next read from the disk meanwhile; ids begin where their file does."""
        assert isinstance(self.ids, np.memmap)
        epoch, window = index.div(self._count, rounding_mode="floor"), index % self._count
        size, memory = self.ids.dtype.itemsize, self.ids._mmap  # type: ignore[attr-defined]
        for start in self._starts(epoch, window).tolist():
            page = start * size // mmap.PAGESIZE * mmap.PAGESIZE
            memory.madvise(mmap.MADV_WILLNEED, page, min(start * size + self.length * size, len(memory)) - page)

    def _starts(self, epoch: Tensor, window: Tensor) -> Tensor:
        # By the golden section, which leaves no two epochs near each other, and asks the device nothing.
        step = self.length - 1
        return window * step + (epoch * max(1, round(_GOLDEN * step))) % step

    def _next_mark(self, start: Tensor, mark: int) -> Tensor:
        """The places (B,) of the first mark from each start on; of a window without one, or too near the end, its
        own."""
        ahead = start[:, None] + torch.arange(self.length, device=start.device)
        first = (self._read(ahead.clamp(max=len(self.ids) - 1)) == mark).int().argmax(1)
        return torch.where(start + first + self.length <= len(self.ids), start + first, start)

    def _read(self, places: Tensor) -> Tensor:
        if self._held is not None:
            return self._held[places].long() & self._bits
        return torch.from_numpy(self.ids[places.numpy()].astype(np.int64))


def open_corpus(config: DataConfig, name: str) -> Corpus:
    """Raises DataError for what is no text."""
    assert config.path is not None
    if (hub := sniff.hub_name(config.path)) is not None:
        return corpus_of_tables(tables_of_hub(hub), config, name)
    path = sniff.existing(config.path)
    kind = sniff.kind_of(path)
    if kind == "parquet":
        return corpus_of_tables(tables_of_parquet(path), config, name)
    if kind in ("records", "csv"):
        return corpus_of_file(path, config, name)
    if kind != "text":
        raise DataError(f"no text, expected {TEXTS}", path=path, fix="check data.path")
    refuse_columns(config)
    separator = _SEPARATORS.get(config.documents or "file")
    files = [path] if path.is_file() else [path / inner for inner in sniff.walk(path) if sniff.is_text_name(inner)]

    def parts() -> Iterator[str]:
        for file in files:
            if separator is not None:
                yield from cut_into(read_text(file), separator)
                continue
            yield from read_text(file)
            if len(files) > 1:
                yield BETWEEN

    sizes = [file.stat().st_size for file in files]
    stamp = hashlib.sha256(repr([(str(f), cache.stamp_of(f)) for f in files]).encode(errors="surrogateescape"))
    key = str(path.resolve()) + f" by {config.documents}" * (separator is not None)
    marked = separator is not None or len(files) > 1
    return Corpus(name, parts, key, stamp.hexdigest(), sum(sizes), marked)


def answers(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """(N,) booleans: which ids are of answers, or end them."""
    if not len(ids):
        return np.zeros(0, dtype=bool)
    newline = int(tokenizer.encode("\n")[-1])
    ends, lines = np.flatnonzero(ids == tokenizer.end), np.flatnonzero(ids == newline)
    begins = np.concatenate([[-1], ends])[: len(ends)]  # of each turn, the place before
    found = np.searchsorted(lines, begins, side="right")
    there = found < len(lines)
    first, last = lines[found[there]] + 1, ends[there]
    edges = np.zeros(len(ids) + 1, dtype=np.int8)  # a turn begins behind the end of the one before, on another id
    good = first <= last
    np.add.at(edges, first[good], 1)
    np.add.at(edges, last[good] + 1, -1)
    return np.cumsum(edges[:-1], dtype=np.int8) > 0


def build(corpus: Corpus, config: DataConfig, *, seen_by: SeenBy | None = None, tokenizer: str = "") -> Dataset:
    """Its own held-out part, or the last part held out, both as windows of ids. Raises DataError for a text that is too
    short."""
    notes = list(corpus.notes)
    given = seen_by.units.tokenizer if seen_by is not None else tokenizer
    ids, made, left_out = _kept_ids(corpus, config, read_tokenizer(given) if given else None)
    counted = answers(ids, made) if corpus.dialogue else None
    if corpus.test is not None:
        held_out, _, more = _kept_ids(corpus.test, config, made)
        cut, left_out, learned = len(ids), left_out + more, ids
        parts = [counted, None if counted is None else answers(held_out, made)]
    else:
        every = seen_by is not None and seen_by.hold_out_all
        cut = 0 if every else len(ids) - int(len(ids) * config.valid_fraction)
        learned, held_out = ids[:cut], ids[cut:]
        parts = [None, None] if counted is None else [counted[:cut], counted[cut:]]
    if left_out:
        notes.append(f"{left_out:,} without a text are left out")
    what = f"the text has {cut:,} {made.unit}s to learn and {len(held_out):,} held out"
    if min((part for part in (cut, len(held_out)) if part), default=0) < _FEWEST_IDS:
        raise DataError(f"{what}, too few", path=config.path, fix="give it a longer text")
    if seen_by is not None:
        context = seen_by.units.shape[0] - 1
    else:
        context = config.context or min(_CONTEXT, cut - 1)
        if cut <= context:
            fix = f"type data.context={(cut - 1) // 2}"
            raise DataError(f"{what}, too few for windows of {context:,}", path=config.path, fix=fix)
        if config.context is None and context < _CONTEXT:
            notes.append(f"a short text: data.context is {context}")
    if any(part is not None and len(part) and not part.any() for part in parts):
        raise DataError(f"{what}, without an answer in one of them", path=config.path, fix="give it more answers")
    mark = made.end if corpus.marked else None
    train = Windows(learned, context + 1, whole=False, counted=parts[0], mark=mark)
    valid = Windows(held_out, context + 1, whole=True, counted=parts[1]) if len(held_out) else None
    spec = Spec(
        kind="token",
        shape=(context + 1,),
        modality="text",
        vocab=made.vocab,
        tokenizer=made.dump(),
        opening=_opening(corpus, made),
        dialogue=corpus.dialogue,
        given=corpus.given,
        questions=() if counted is None else _questions(ids, counted, made),
        num_samples=len(train),
    )
    digest = hashlib.sha256(repr((spec.shape, cut)).encode() + spec.tokenizer.encode())
    digest.update(corpus.stamp.encode() if train.streams else ids.data)
    if corpus.test is not None:
        digest.update(corpus.test.stamp.encode() if train.streams else held_out.data)
    notes.append(f"{len(ids):,} ids, one a {made.unit}, {made.vocab:,} different ones")
    predicted = held_out if parts[1] is None else held_out[parts[1]]
    return Dataset(corpus.name, spec, train, valid, digest.hexdigest(), tuple(notes), text=counts(predicted, made))


def _questions(ids: np.ndarray, counted: np.ndarray, tokenizer: Tokenizer) -> tuple[str, ...]:
    """What is asked most often at the beginning of a text; in order where that is all."""
    edges = np.flatnonzero(np.diff(counted[:_LOOKED_AT].astype(np.int8), prepend=1, append=1))
    begins, ends = edges[::2], edges[1::2]
    found = Counter(ids[begin:end].tobytes() for begin, end in zip(begins, ends, strict=True))
    questions = [
        tokenizer.decode(np.frombuffer(asked, ids.dtype)).strip() for asked, _ in found.most_common(MOST_QUESTIONS)
    ]
    # No run can keep an interpolation.
    kept = [text for text in questions if 0 < len(text) <= _LONGEST_QUESTION and "${" not in text]
    return tuple(sorted(kept) if len(found) < MOST_QUESTIONS else kept)


def _opening(corpus: Corpus, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What a sample follows on: where a document ends, or in one long text a line."""
    if corpus.marked:
        return (tokenizer.end,)
    try:
        return tuple(tokenizer.encode("\n").tolist())
    except DataError:  # a text of one line
        return (tokenizer.end,)


def counts(ids: np.ndarray, tokenizer: Tokenizer) -> Counts:
    num_bytes, characters = tokenizer.sizes()
    sums = [0, 0]
    for start in range(0, len(ids), _PART):
        chunk = ids[start : start + _PART]
        sums = [total + int(table[chunk].sum()) for total, table in zip(sums, (characters, num_bytes), strict=True)]
    return Counts(len(ids), *sums)


def _kept_ids(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None) -> tuple[np.ndarray, Tokenizer, int]:
    """The ids of the text, what made them, and how many of its records hold no text; from the cache where they are
    there, of a large text from a file."""
    key = f"ids {corpus.key} {config.tokens} {config.vocab_size} {None if tokenizer is None else tokenizer.dump()}"
    small = corpus.num_bytes < _KEPT and config.tokens != "bpe"
    kept = None if small else cache.read_kept(key, corpus.stamp)
    path = cache.blob_path(key)
    if kept is not None:
        made = read_tokenizer(kept["tokenizer"])
        if path.is_file() and path.stat().st_size == kept["count"] * _dtype(made).itemsize:
            return _opened(path, _dtype(made)), made, kept.get("left_out", 0)
    learned_from = [corpus.parts, *([] if corpus.test is None else [corpus.test.parts])]
    made = tokenizer or make_tokenizer(
        lambda: (part for parts in learned_from for part in parts() if part != BETWEEN),
        config.tokens,
        config.vocab_size or _VOCAB,
    )
    arrays = _encoded(corpus, made)
    if small:
        return np.concatenate([np.zeros(0, _dtype(made)), *arrays]), made, corpus.left_out()
    count = 0
    with cache.new_blob(key, "the ids of the text cannot be kept") as file:
        for array in arrays:
            count += len(array)
            file.write(array.data)
    cache.keep(key, corpus.stamp, {"tokenizer": made.dump(), "count": count, "left_out": corpus.left_out()})
    return _opened(path, _dtype(made)), made, corpus.left_out()


def _opened(path: Path, dtype: np.dtype) -> np.ndarray:
    """Mapped where it is large."""
    if path.stat().st_size > RESIDENT_BYTES:
        return np.memmap(path, dtype=dtype, mode="r")
    return np.fromfile(path, dtype=dtype)


def _encoded(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    for part in corpus.parts():
        ids = np.array([tokenizer.end]) if part == BETWEEN else tokenizer.encode(part)
        yield ids.astype(_dtype(tokenizer))


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab <= 1 << 16 else np.uint32)
