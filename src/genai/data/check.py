"""What `genai data list`, `show` and `check` tell about a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genai.contract import Spec
from genai.data import passages, tabular, texts
from genai.data.held_out import split_ids
from genai.data.listed import FileRows, can_be_skipped, find_bad, frame_for, source_of
from genai.data.path import list_samples, name_of
from genai.data.sheet import Sheet
from genai.data.source import Corpus, Dataset, Part, Source, captions_of, open_source, refuse_one
from genai.errors import DataError
from genai.registry import find
from genai.schema import DataConfig

MOST_LISTED = 10


@dataclass(frozen=True)
class Report:
    """All that a check found; `bad` holds up to ten of the `num_bad` files that cannot be used, with the reason."""

    name: str
    path: str | None
    modality: str
    shape: tuple[int, ...]  # of one sample: (C, H, W), (C, T, H, W), (C, T) or (D,)
    sample_rate: int  # of sounds, else 0
    train: int  # samples
    held_out: int
    classes: dict[str, int]  # name -> training and held-out samples; empty without labels
    captions: int  # of training and held-out samples
    caption_examples: tuple[str, ...]  # three at most
    num_bad: int
    bad: tuple[tuple[str, str], ...]
    can_skip: bool  # whether data.on_bad=skip trains on the others
    notes: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.num_bad == 0

    def plain(self) -> dict[str, Any]:
        """As JSON data; of clips also the frames of each and their height and width, of sounds the seconds."""
        told = asdict(self) | {"good": self.good}
        if self.sample_rate:
            return told | {"seconds": self.shape[-1] / self.sample_rate}
        del told["sample_rate"]
        if self.modality == "table":  # of which a row is learned as `shape` says
            told = {key: value for key, value in told.items() if not key.startswith("caption")}
            told["numbers_of_a_row"] = told.pop("shape")[0]
        if self.modality == "video":
            told |= {"frames": self.shape[1], "size": self.shape[2:]}
        return told


def check(config: DataConfig) -> Report:
    """Reads every file of a set. Files that cannot be used are in the report, in whatever they lie; what else is
    wrong raises the DataError that training would raise."""
    listed = list_samples(config)
    if listed is None:
        return _report(open_source(config), config)
    try:
        frame, notes = frame_for(listed, config)
    except DataError:
        frame, notes = listed.train.medium.least, listed.notes  # all are bad, and all are listed
    bad: list[DataError] = []
    can_skip = True
    parts: list[Part | None] = []
    for listing in (listed.train, listed.test):
        errors = {} if listing is None else find_bad(listing, frame)
        bad += errors.values()
        can_skip &= not errors or can_be_skipped(len(errors), len(listing or ()))
        kept = None if listing is None else listing.without(list(errors))
        parts.append(
            None if kept is None else Part(FileRows(kept.files, frame, kept.medium), kept.labels, kept.captions)
        )
    return _report(source_of(listed, frame, parts, name_of(config), notes), config, bad, can_skip)


def describe(name: str, config: DataConfig | None = None) -> dict[str, Any]:
    """What a set is, as JSON data: shape, counts and classes. Raises DataError for what training would refuse."""
    component = find("data", name)
    config = config or DataConfig(name=name)
    told: dict[str, Any] = {"name": name} if config.path is not None else {"name": name, "help": component.help}
    if component.modality or config.path is not None:
        report = _report(open_source(config), config).plain()
        told |= {key: value for key, value in report.items() if key not in ("bad", "can_skip", "num_bad", "good")}
    return told


def _report(
    source: Source | Corpus | Sheet | passages.Passages | Dataset,
    config: DataConfig,
    bad: Sequence[DataError] = (),
    can_skip: bool = True,
) -> Report:
    if isinstance(source, Corpus):
        source = texts.build(source, config)
    if isinstance(source, passages.Passages):
        source = passages.build(source, config, predicts="target")
    if isinstance(source, Sheet):
        source = tabular.build(source, config, predicts="data")
    if isinstance(source, Dataset):
        held_out = 0 if source.valid is None else len(source.valid)
        spec = source.spec
        return Report(
            name=source.name,
            path=config.path,
            modality=spec.seen.modality,
            shape=spec.seen.shape,
            sample_rate=spec.seen.sample_rate,
            train=len(source.train),
            held_out=held_out,
            classes=_classes_of(spec),
            captions=source.num_captions,
            caption_examples=source.caption_examples,
            num_bad=0,
            bad=(),
            can_skip=True,
            notes=source.notes,
        )
    if not bad:
        refuse_one(source, config.path or config.name)
    train = len(source.train)
    held_out = len(source.test) if source.test is not None else 0
    if source.test is None and train:
        held_out = len(split_ids(train, config.valid_fraction, config.split_seed)[1])
        train -= held_out
    num_captions, examples = captions_of(source.train, source.test)
    return Report(
        name=source.name,
        path=config.path,
        modality=source.modality,
        shape=source.train.shape,
        sample_rate=source.sample_rate,
        train=train,
        held_out=held_out,
        classes=_count_classes(source),
        captions=num_captions,
        caption_examples=examples,
        num_bad=len(bad),
        bad=tuple((str(error.path), error.what) for error in bad[:MOST_LISTED]),
        can_skip=can_skip,
        notes=source.notes,
    )


def _classes_of(spec: Spec) -> dict[str, int]:
    """Of the target of a table: how many training rows each class has."""
    label = spec.cond.get("label", spec)
    target = label.columns if label.modality == "label" else ()
    return dict(zip(target[0].values, target[0].counts, strict=True)) if target else {}


def _count_classes(source: Source) -> dict[str, int]:
    counts = np.zeros(source.classes, dtype=np.int64)
    for part in (source.train, source.test):
        if part is not None and part.labels is not None:
            counts += np.bincount(part.labels, minlength=source.classes)
    return dict(zip(source.names, counts.tolist(), strict=True))
