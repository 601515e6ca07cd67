"""Text: a file, a folder of them, or records of .jsonl, kept as one row of ids and learned in windows."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genai.contract import Batch, Spec
from genai.data import cache, sniff
from genai.data.source import BETWEEN, RESIDENT_BYTES, Corpus, Counts, Dataset, SeenBy
from genai.data.tokens import Tokenizer, make_tokenizer, read_tokenizer
from genai.errors import DataError
from genai.schema import DataConfig

_CONTEXT, _VOCAB = 256, 4096
TEXTS = "a .txt file, a folder of them, or a .jsonl file"
_FEWEST_IDS = 16  # that a text must have
_KEPT = 8 << 20  # bytes of a text whose ids are kept in the cache
_PART = 1 << 24  # bytes that are read at once
_GOLDEN = 0.618034
_ALIGNED = 8  # of so many windows one begins where a sample does
_ROLES = (("user", "prompt"), ("assistant", "response"))
_OPENINGS = {"file": "\n", "line": "\n", "paragraph": "\n\n"}  # what a sample of such documents follows on


class Windows:
    """A row of ids (N,) cut into windows of `length`, neighbours of which share one: it is predicted in one, and
    predicted from in the other. In every epoch the cuts lie elsewhere; with `whole` they stay, and the last window is
    filled up with what does not count. `counted` (N,) says which ids are to be predicted; None: all.

    Samples follow on an `opening`. Where cuts fall anywhere few windows begin with it, so one in eight is moved to the
    first within it.
    """

    def __init__(
        self,
        ids: np.ndarray,
        length: int,
        *,
        whole: bool,
        counted: np.ndarray | None = None,
        opening: Sequence[int] = (),
        device: torch.device | None = None,
    ) -> None:
        self.ids, self.length, self.whole, self.counted, self.opening = ids, length, whole, counted, opening
        self.streams = isinstance(ids, np.memmap)
        self.device = device or torch.device("cpu")
        steps = len(ids) - 1
        self._count = max(1, -(-steps // (length - 1)) if whole else steps // (length - 1))
        # torch cannot index by uint16 everywhere.
        self._held = None if self.streams else torch.from_numpy(ids.astype(np.int32)).to(self.device)
        self._counted = None if counted is None else torch.from_numpy(counted)
        if self._counted is not None and not self.streams:
            self._counted = self._counted.to(self.device)
        self._moved = {self.device: self}

    def __len__(self) -> int:
        return self._count

    def to(self, device: torch.device) -> Windows:
        if device not in self._moved:
            self._moved[device] = Windows(
                self.ids, self.length, whole=self.whole, counted=self.counted, opening=self.opening, device=device
            )
        return self._moved[device]

    def fetch(self, index: Tensor) -> Batch:
        """Of a training split index may be epoch * len + window."""
        step = self.length - 1
        epoch, window = index.div(self._count, rounding_mode="floor"), index % self._count
        # By the golden section, which leaves no two epochs near each other, and asks the device nothing.
        start = window * step + (epoch * max(1, round(_GOLDEN * step))) % step
        if self.opening:
            start = torch.where((window + epoch) % _ALIGNED == 0, self._opened(start), start)
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

    def _opened(self, start: Tensor) -> Tensor:
        """The places (B,) of the first opening behind each start; of a window without one, or too near the end, its
        own."""
        size = len(self.opening)
        ahead = start[:, None] + torch.arange(self.length + size - 1, device=start.device)
        found = self._read(ahead.clamp(max=len(self.ids) - 1)).unfold(1, size, 1)
        first = (found == torch.tensor(self.opening, device=found.device)).all(2).int().argmax(1).to(start.device)
        return torch.where(start + first + self.length <= len(self.ids), start + first, start)

    def _read(self, places: Tensor) -> Tensor:
        if self._held is not None:
            return self._held[places].long()
        return torch.from_numpy(self.ids[places.numpy()].astype(np.int64))


def open_corpus(config: DataConfig, name: str) -> Corpus:
    """Raises DataError for what is no text."""
    assert config.path is not None
    path = sniff.existing(config.path)
    kind = sniff.kind_of(path)
    if kind not in ("text", "records"):
        raise DataError(f"no text, expected {TEXTS}", path=path, fix="check data.path")
    if kind == "records":
        return _records(path, config, name)
    files = [path] if path.is_file() else [path / inner for inner in sniff.walk(path) if sniff.is_text_name(inner)]

    def parts() -> Iterator[str]:
        for file in files:
            yield from read_text(file)
            if len(files) > 1:
                yield BETWEEN

    sizes = [file.stat().st_size for file in files]
    stamp = hashlib.sha256(repr([(str(f), cache.stamp_of(f)) for f in files]).encode(errors="surrogateescape"))
    return Corpus(name, parts, str(path.resolve()), stamp.hexdigest(), sum(sizes), len(files) > 1)


def _records(path: Path, config: DataConfig, name: str) -> Corpus:
    """A document for each line of JSON, in a seeded order: the text of one field, or what is said and answered."""
    first = next(read_records(path), {})
    dialogue = config.field is None and ("messages" in first or {"prompt", "response"} <= first.keys())

    def parts() -> Iterator[str]:
        records = list(read_records(path))
        for number in np.random.RandomState(config.split_seed).permutation(len(records)):
            try:
                read = _turns(records[number], number, path) if dialogue else _field(records[number], number, path)
                found = list(read)
            except DataError:
                if config.on_bad == "skip":
                    continue
                raise
            yield from found
            yield BETWEEN

    def _field(record: dict[str, object], number: int, path: Path) -> list[str]:
        texts = [key for key, value in first.items() if isinstance(value, str)]
        field = config.field or next((key for key in ("text", "content", *texts) if key in texts), "text")
        text = record.get(field)
        if not isinstance(text, str):
            what = f"record {number + 1} has no text in '{field}', its fields are {', '.join(record)[:80]}"
            raise DataError(what, path=path, fix="type data.field=NAME")
        return [text.replace(BETWEEN, " ")]

    key = f"{path.resolve()} {config.field} {config.split_seed} {config.on_bad}"
    return Corpus(name, parts, key, cache.stamp_of(path), path.stat().st_size, True, dialogue)


def _turns(record: dict[str, object], number: int, path: Path) -> Iterator[str]:
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
            what = f"record {number + 1} is no conversation"
            fix = 'write {"prompt": TEXT, "response": TEXT}, or {"messages": [{"role": "user", "content": TEXT}, ...]}'
            raise DataError(what, path=path, fix=fix)
        content = content.replace(BETWEEN, " ")
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
        raise DataError(f"record {number + 1} has no answer", path=path, fix="answer it, or type data.on_bad=skip")


def question(said: str) -> str:
    """As a model of conversations reads it: on one line, which its answer follows."""
    return " ".join(said.split()) + "\n"


def answers(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """(N,) booleans: which ids are of answers, or end them."""
    newline = int(tokenizer.encode("\n")[-1])
    ends, lines = np.flatnonzero(ids == tokenizer.end), np.flatnonzero(ids == newline)
    begins = np.concatenate([[-1], ends])[: len(ends)]  # of each turn, the place before
    found = np.searchsorted(lines, begins, side="right")
    there = found < len(lines)
    first, last = lines[found[there]] + 1, ends[there]
    edges = np.zeros(len(ids) + 1, dtype=np.int32)
    good = first <= last
    np.add.at(edges, first[good], 1)
    np.add.at(edges, last[good] + 1, -1)
    return np.cumsum(edges[:-1]) > 0


def read_records(path: Path) -> Iterator[dict[str, object]]:
    """The objects of a .jsonl file. Raises DataError for a line that is none."""
    pending = ""
    number = 0
    for part in read_text(path):
        lines = (pending + part).split("\n")
        pending = lines.pop()
        for line in lines:
            number += 1
            if line.strip():
                yield _record(line, number, path)
    if pending.strip():
        yield _record(pending, number + 1, path)


def _record(line: str, number: int, path: Path) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} is no JSON", path=path, fix="write one object a line") from error
    if not isinstance(found, dict):
        raise DataError(f"line {number} is no JSON object", path=path, fix="write one object a line")
    return found


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


def _no_text(path: Path, content: bytes, place: int) -> DataError:
    what = f"no UTF-8 text: byte {content[0]:02x}" if not content else f"no UTF-8 text, from byte {place:,} on"
    for encoding in ("gb18030", "cp1252"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(content)
        except UnicodeDecodeError:
            continue
        named = "Chinese in GB18030" if encoding == "gb18030" else "a Western encoding"
        fix = f"if it is {named}, type iconv -f {encoding} -t utf-8 FILE > NEW"
        return DataError(what, path=path, fix=fix)
    return DataError(what, path=path, fix="save it as UTF-8, or check data.path")


def build(corpus: Corpus, config: DataConfig, *, seen_by: SeenBy | None = None, tokenizer: str = "") -> Dataset:
    """The last part held out, both as windows of ids. Raises DataError for a text that is too short."""
    notes = list(corpus.notes)
    given = seen_by.units.tokenizer if seen_by is not None else tokenizer
    ids, made = _kept_ids(corpus, config, read_tokenizer(given) if given else None)
    every = seen_by is not None and seen_by.hold_out_all
    cut = 0 if every else len(ids) - int(len(ids) * config.valid_fraction)
    what = f"the text has {cut:,} {made.unit}s to learn and {len(ids) - cut:,} held out"
    if min((part for part in (cut, len(ids) - cut) if part), default=0) < _FEWEST_IDS:
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
    counted = answers(ids, made) if corpus.dialogue else None
    parts = [None, None] if counted is None else [counted[:cut], counted[cut:]]
    if any(part is not None and len(part) and not part.any() for part in parts):
        raise DataError(f"{what}, without an answer in one of them", path=config.path, fix="give it more answers")
    opening, ending = _opening(corpus, config, made)
    documents = corpus.marked or config.documents not in (None, "file")
    begins = opening if documents else ()
    train = Windows(ids[:cut], context + 1, whole=False, counted=parts[0], opening=begins)
    valid = Windows(ids[cut:], context + 1, whole=True, counted=parts[1]) if cut < len(ids) else None
    spec = Spec(
        kind="token",
        shape=(context + 1,),
        modality="text",
        vocab=made.vocab,
        tokenizer=made.dump(),
        opening=opening,
        ending=ending,
        dialogue=corpus.dialogue,
        num_samples=len(train),
    )
    digest = hashlib.sha256(repr((spec.shape, cut)).encode() + spec.tokenizer.encode())
    digest.update(corpus.stamp.encode() if train.streams else ids.data)
    notes.append(f"{len(ids):,} ids, one a {made.unit}, {made.vocab:,} different ones")
    held_out = ids[cut:] if counted is None else ids[cut:][counted[cut:]]
    return Dataset(corpus.name, spec, train, valid, digest.hexdigest(), tuple(notes), text=counts(held_out, made))


def _opening(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer) -> tuple[tuple[int, ...], str]:
    """What a sample without a prompt follows on, and the text at which it ends; none: where a document does."""
    if corpus.marked:
        return (tokenizer.end,), ""
    text = _OPENINGS[config.documents or "file"]
    try:
        opening = tuple(tokenizer.encode(text).tolist())
    except DataError:  # a text of one line
        opening = (tokenizer.end,)
    return opening, "" if config.documents in (None, "file") else text


def counts(ids: np.ndarray, tokenizer: Tokenizer) -> Counts:
    num_bytes, characters = tokenizer.sizes()
    sums = [0, 0]
    for start in range(0, len(ids), _PART):
        chunk = ids[start : start + _PART]
        sums = [total + int(table[chunk].sum()) for total, table in zip(sums, (characters, num_bytes), strict=True)]
    return Counts(len(ids), *sums)


def _kept_ids(corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None) -> tuple[np.ndarray, Tokenizer]:
    """The ids of the text and what made them, from the cache where they are there; of a large text from a file."""
    key = f"ids {corpus.key} {config.tokens} {config.vocab_size} {None if tokenizer is None else tokenizer.dump()}"
    small = corpus.num_bytes < _KEPT and config.tokens != "bpe"
    kept = None if small else cache.read_kept(key, corpus.stamp)
    path = cache.blob_path(key)
    if kept is not None:
        made = read_tokenizer(kept["tokenizer"])
        if path.is_file() and path.stat().st_size == kept["count"] * _dtype(made).itemsize:
            return _opened(path, _dtype(made)), made
    made = tokenizer or make_tokenizer(
        lambda: (part for part in corpus.parts() if part != BETWEEN), config.tokens, config.vocab_size or _VOCAB
    )
    arrays = _encoded(corpus, made)
    if small:
        return np.concatenate([np.zeros(0, _dtype(made)), *arrays]), made
    count = 0
    with cache.new_blob(key, "the ids of the text cannot be kept") as file:
        for array in arrays:
            count += len(array)
            file.write(array.data)
    cache.keep(key, corpus.stamp, {"tokenizer": made.dump(), "count": count})
    return _opened(path, _dtype(made)), made


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
