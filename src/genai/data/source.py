"""What a set of data is before and after it is split, and how one is opened. Imports torch and numpy only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

from genai import registry
from genai.data import sniff
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from genai.contract import Batch, Spec
    from genai.data.passages import Passages
    from genai.data.sheet import Sheet

NOUNS = {
    "image": "pictures",
    "video": "clips",
    "audio": "sounds",
    "points": "points",
    "table": "tables",
    "text": "text",
}  # by modality
_OF_COLUMNS = ("field", "given")
_OF_TEXT = ("tokens", "vocab_size", "context", "documents", *_OF_COLUMNS)
_OF_RATINGS = ("items", "min_rating")
_OF_TABLES = ("target", "drop", "categories", *_OF_RATINGS)
FOREIGN = {  # settings that say nothing of such data
    "image": ("frames", "seconds", "sample_rate", *_OF_TEXT, *_OF_TABLES),
    "video": ("seconds", "sample_rate", *_OF_TEXT, *_OF_TABLES),
    "audio": ("size", "frames", *_OF_TEXT, *_OF_TABLES),
    "points": ("size", "channels", "frames", "seconds", "sample_rate", *_OF_TEXT, *_OF_TABLES),
    "table": ("size", "channels", "frames", "seconds", "sample_rate", *_OF_TEXT),
    "text": ("size", "channels", "frames", "seconds", "sample_rate", "drop", *_OF_RATINGS),
}
_CHANNELS = {"image": (1, 3), "video": (1, 3), "audio": (1, 2)}
BETWEEN = "\0"  # between documents of a text, as a part of its own; no text holds one
RESIDENT_BYTES = 1 << 30  # a set of at most this size is kept in memory, and on the device


class Rows(Protocol):
    """Samples that are read when they are asked for: a set too large to keep."""

    shape: tuple[int, ...]  # of one sample

    def __len__(self) -> int: ...

    def read(self, index: np.ndarray) -> np.ndarray:
        """(B,) ids -> (B, *shape), uint8 of pictures and clips, int16 of sounds."""

    def digest(self) -> bytes:
        """Changes with what the rows hold, as far as that can be seen without reading all."""


@dataclass(frozen=True)
class Part:
    """Samples as they are stored, with their labels and captions."""

    x: np.ndarray | Rows  # (N, C, H, W) or (N, C, T, H, W) uint8, (N, C, T) int16, (N, D) float32
    labels: np.ndarray | None = None  # (N,) int64
    captions: tuple[str, ...] | None = None  # of each sample; may be empty texts
    file_of: Callable[[int], str] | None = None  # where a sample comes from, of those that are files

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        import numpy as np

        shape = self.x.shape[1:] if isinstance(self.x, np.ndarray) else self.x.shape
        return tuple(map(int, shape))


@dataclass(frozen=True)
class Source:
    """One set in data units. A plug-in's `open(config: DataConfig)` returns this, or a Dataset."""

    name: str
    modality: Literal["image", "video", "audio", "points"]
    train: Part
    test: Part | None = None  # the set's own held-out part
    classes: int = 0
    names: tuple[str, ...] = ()
    scale: tuple[float, ...] | None = None  # model units are (x - offset) / scale; None: from the training part
    offset: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()  # what the user should know: what was resized, left out, decided
    sample_rate: int = 0  # of audio

    def __post_init__(self) -> None:
        """Raises DataError for a class whose name no run could keep."""
        for name in self.names:
            if "${" in name or name.encode(errors="replace").decode() != name:
                what = f"the class {name!a} holds " + ("an interpolation" if "${" in name else "no UTF-8 text")
                raise DataError(what, path=self.name, fix="give it another name")


@dataclass(frozen=True)
class Corpus:
    """Text that is read when it is asked for, and as often."""

    name: str
    parts: Callable[[], Iterator[str]]  # in order, with BETWEEN where a document ends
    key: str  # names where it comes from
    stamp: str  # changes with the text, as far as that can be seen without reading
    num_bytes: int
    marked: bool  # whether there are several documents, with BETWEEN behind each
    columns: tuple[str, ...] = ()  # of records
    dialogue: bool = False  # of what is said, on a line each, and answered below
    given: tuple[str, ...] = ()  # columns whose values are what is said; none where people speak
    notes: tuple[str, ...] = ()
    left_out: Callable[[], int] = lambda: 0  # records without a text, of those read the last time
    test: Corpus | None = None  # the set's own held-out part


def captions_of(*parts: Part | None) -> tuple[int, tuple[str, ...]]:
    """How many captions these parts have, and the first three that are not empty."""
    found = [part.captions for part in parts if part is not None and part.captions is not None]
    return sum(map(len, found)), tuple(islice(filter(None, chain.from_iterable(found)), 3))


def with_classes(source: Source, names: tuple[str, ...]) -> Source | str:
    """The source with its labels numbered by `names`; the first of its classes that is none of them, if there is one.

    Numbers as names are those of `names`; other names are looked up, because a folder lists them in another order.
    """
    import numpy as np

    if source.train.labels is None:
        return source
    numbered = all(given.isascii() and given.isdigit() for given in source.names)
    meant = [names[int(given)] if numbered and int(given) < len(names) else given for given in source.names]
    if unknown := [given for given in meant if given not in names]:
        return unknown[0]
    number = np.array([names.index(given) for given in meant], dtype=np.int64)

    def relabelled(part: Part) -> Part:
        return part if part.labels is None else replace(part, labels=number[part.labels])

    test = None if source.test is None else relabelled(source.test)
    return replace(source, classes=len(names), names=names, train=relabelled(source.train), test=test)


def refuse_one(source: Source, path: object) -> None:
    """Raises DataError where there is one sample alone to train on; to be looked at, one is enough."""
    if len(source.train) == 1 and source.modality in ("image", "video", "audio"):
        what = f"one {NOUNS[source.modality].removesuffix('s')} only, training needs a set of them"
        raise DataError(what, path=path, fix="add more, or give data.path a folder of several")


def asks_for_text(data: Mapping[str, object]) -> bool:
    """Whether settings are those of text, so that a table is read as such."""
    return data.get("codec") is None and any(data.get(key) is not None for key in _OF_TEXT)


def asks_for_table(data: Mapping[str, object]) -> bool:
    """Whether settings are those of a table of values, so that none of its columns is taken for its text."""
    return any(data.get(key) is not None for key in ("drop", "categories"))


def foreign_settings(modality: str, path: str | None) -> tuple[str, ...]:
    """Settings that say nothing of such data at such a path."""
    plain = modality == "text" and (path is None or not _has_columns(path))
    return FOREIGN.get(modality, ()) + (_OF_COLUMNS if plain else ())


def _has_columns(path: str) -> bool:
    return sniff.hub_name(path) is not None or sniff.kind_of(sniff.existing(path)) in ("records", "csv", "parquet")


def refuse_columns(config: DataConfig) -> None:
    """Raises ConfigError for settings that name columns of plain text."""
    if typed := [f"data.{key}" for key in _OF_COLUMNS if getattr(config, key) is not None]:
        what = f"the data are plain text without columns, of which {typed[0]} says nothing"
        fix = f"type {typed[0]}=null, or give data.path a .csv, .parquet or .jsonl"
        raise ConfigError(what, path=config.path, fix=fix)


def refuse_foreign_settings(config: DataConfig, modality: str) -> None:
    """Raises ConfigError for a setting that data of this kind would ignore, and for channels that it never has."""
    nouns = NOUNS[modality]
    if given := [f"data.{key}" for key in FOREIGN[modality] if getattr(config, key) is not None]:
        what = f"the data are {nouns}, of which {given[0]} says nothing"
        raise ConfigError(what, path=config.path, fix=f"leave out {' and '.join(given)}")
    if config.channels is not None and config.channels not in _CHANNELS[modality]:
        one, other = _CHANNELS[modality]
        what = f"data.channels is {config.channels}, {nouns} have {one} or {other}"
        raise ConfigError(what, path=config.path, fix=f"type data.channels={one} or {other}")


@dataclass(frozen=True)
class SeenBy:
    """How a model that exists looks at a set: in the units and by the classes that it learned, with as much of a
    caption as it reads, and with all of a set without a test part held out where it learned from another."""

    units: Spec
    classes: tuple[str, ...]
    hold_out_all: bool
    prompt_length: int | None = None  # bytes of a caption; None: of the longest


@dataclass(frozen=True)
class Counts:
    """How much text so many ids are."""

    ids: int
    characters: int
    num_bytes: int


class Split(Protocol):
    """The training or the held-out samples, in model units."""

    streams: bool  # read when asked for, with indices on the CPU
    file_of: Callable[[int], str] | None  # where a sample comes from, of those that are files; of ratings, whose it is

    def __len__(self) -> int: ...

    def fetch(self, index: Tensor) -> Batch:
        """(B,) int64 on any device -> float32 x, int64 label and prompt."""

    def to(self, device: torch.device) -> Split:
        """A split in memory moves as it is stored (uint8 stays uint8); a streaming one returns itself."""


@runtime_checkable
class Prompted(Protocol):
    """A split that holds what its captions say."""

    def without_prompts(self) -> Split: ...


def without_prompts(split: Split) -> Split:
    return split.without_prompts() if isinstance(split, Prompted) else split


@dataclass(frozen=True)
class Dataset:
    name: str
    spec: Spec
    train: Split
    valid: Split | None
    fingerprint: str  # sha256 that changes with the content and with the split
    notes: tuple[str, ...]
    num_captions: int = 0  # of both parts
    caption_examples: tuple[str, ...] = ()  # three at most
    prompts: tuple[tuple[str, int | None], ...] = ()  # captions that differ, held out if possible, with labels
    text: Counts | None = None  # of the held-out part, where it is text

    def heard_by(self, spec: Spec) -> Dataset:
        """The same for a model of this `spec`: without prompts where it reads none, which would only cost memory."""
        if spec.prompt_length:
            return self
        valid = None if self.valid is None else without_prompts(self.valid)
        return replace(self, train=without_prompts(self.train), valid=valid)


def open_source(config: DataConfig) -> Source | Corpus | Sheet | Passages | Dataset:
    """The set as it is stored, or as a Dataset where a plug-in splits its own kind of data itself.

    Raises DataError for what cannot be read, ConfigError for a name that does not exist.
    """
    opener = registry.load(registry.find("data", config.name).target)
    return cast("Callable[[DataConfig], Source | Corpus | Sheet | Passages | Dataset]", opener)(config)


def open_data(
    config: DataConfig,
    *,
    predicts: Literal["data", "target"],
    seen_by: SeenBy | None = None,
    tokenizer: str = "",
) -> Dataset:
    """The set split for training, text by a tokenizer that is there already or by one that is learned from it. With
    predicts="target" x is the label and cond["input"] what it is read from; of a table of users and items, without
    data.target, the items of a user and the user.

    Raises DataError for what cannot be read and where there are no labels to predict.
    """
    from genai.data import passages, ratings, tabular, texts
    from genai.data.sheet import Sheet
    from genai.data.split import build

    if seen_by is not None:
        config = _as_heard(config, seen_by.units)
    opened = open_source(config)
    if isinstance(opened, Dataset):
        return opened
    if isinstance(opened, passages.Passages):
        return passages.build(opened, config, predicts=predicts, seen_by=seen_by, tokenizer=tokenizer)
    if isinstance(opened, Corpus):
        if predicts == "target":
            raise no_target(opened, config)
        return texts.build(opened, config, seen_by=seen_by, tokenizer=tokenizer)
    if isinstance(opened, Sheet):
        if predicts == "target" and (found := ratings.columns_of(opened, config, seen_by)) is not None:
            return ratings.build(opened, found, config, seen_by=seen_by)
        return tabular.build(opened, config, predicts=predicts, seen_by=seen_by)
    return build(opened, config, predicts=predicts, seen_by=seen_by)


def no_target(corpus: Corpus, config: DataConfig) -> DataError:
    """Of texts of which nothing is known that could be predicted."""
    if not corpus.columns:
        what, fix = "plain text, of which nothing is known to be predicted", "give data.path a .csv, .jsonl or .parquet"
        return DataError(what, path=config.path, fix=f"{fix}, and type data.target=COLUMN")
    what = f"which column is predicted is not said, the columns are {', '.join(corpus.columns)[:120]}"
    return DataError(what, path=config.path, fix="type data.target=COLUMN")


def _as_heard(config: DataConfig, learned: Spec) -> DataConfig:
    """Sounds at the rate, in the length and with the channels that a model learned, where `config` says nothing."""
    spec = learned.cond.get("input", learned)
    if not spec.sample_rate or modality_of(config.name, config.path) not in ("audio", ""):
        return config
    return replace(
        config,
        sample_rate=config.sample_rate or spec.sample_rate,
        seconds=config.seconds or spec.shape[1] / spec.sample_rate,
        channels=config.channels or cast("Literal[1, 2]", spec.shape[0]),
    )


def modality_of(config_name: str, path: str | None, *, as_text: bool = False, as_table: bool = False) -> str:
    """What the samples are ("image", "video", "audio", "points", "table", "text"), from names and headers alone; ""
    where a plug-in does not say. A table is `as_text` or `as_table` where that is what it was asked for.

    Raises DataError for what is no data, ConfigError where a path is missing.
    """
    component = registry.find("data", config_name)
    if component.modality:
        return component.modality
    if path is None:
        if config_name != "path":
            return ""
        raise ConfigError(f"data={config_name} needs a path", fix="type data.path=PATH")
    if sniff.hub_name(path) is not None:
        return "text" if as_text else "table" if as_table else "image"
    found = sniff.existing(path)
    kind = sniff.kind_of(found)
    if as_text and kind in ("csv", "parquet"):
        return "text"
    if as_table and kind in ("csv", "parquet"):
        return "table"
    if kind == "csv":
        from genai.data.records import CsvRows, are_texts

        return "text" if are_texts(CsvRows(found, skip=True)) else "table"
    if kind == "parquet":
        from genai.data.parquet import modality_of_parquet

        return modality_of_parquet(found)
    return sniff.modality_at(found)
