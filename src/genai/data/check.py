"""What `genai data list`, `show` and `check` tell about a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genai.data import sniff
from genai.data.folder import FolderRows, find_bad, frame_for, list_folder, without
from genai.data.held_out import split_ids
from genai.data.images import Frame
from genai.data.source import Dataset, Part, Source, open_source
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
    shape: tuple[int, ...]  # of one sample: (C, H, W) or (D,)
    train: int  # samples
    held_out: int
    classes: dict[str, int]  # name -> training and held-out samples; empty without labels
    num_bad: int
    bad: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.num_bad == 0

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"good": self.good}


def check(config: DataConfig) -> Report:
    """Reads every file of a set. Pictures of a folder that cannot be used are in the report; whatever else is wrong
    raises the DataError that training would raise."""
    path = None if config.path is None else sniff.existing(config.path)
    if path is None or sniff.kind_of(path) != "pictures":
        return _report(open_source(config), config)
    train, test, notes = list_folder(path)
    try:
        frame, said = frame_for(train, config)
    except DataError:
        frame, said = Frame(channels=3, height=1, width=1, fits=True), []  # all are bad, and all are listed
    bad: list[DataError] = []
    parts: list[Part | None] = []
    for listing in (train, test):
        errors = find_bad(listing, frame) if listing is not None else []
        bad += errors
        kept = None if listing is None else without(listing, {Path(str(error.path)) for error in errors})
        parts.append(None if kept is None else Part(FolderRows(kept, frame), kept.labels))
    assert parts[0] is not None
    name = path.resolve().name if config.name == "path" else config.name
    source = Source(name, "image", parts[0], parts[1], len(train.names), train.names, notes=(*notes, *said))
    return _report(source, config, bad)


def describe(name: str, config: DataConfig | None = None) -> dict[str, Any]:
    """What a set is, as JSON data: shape, counts and classes. Raises DataError for what training would refuse."""
    component = find("data", name)
    config = config or DataConfig(name=name)
    told: dict[str, Any] = {"name": name, "help": component.help}
    if component.modality or config.path is not None:
        report = _report(open_source(config), config).plain()
        told |= {key: value for key, value in report.items() if key not in ("bad", "num_bad", "good")}
    return told


def _report(source: Source | Dataset, config: DataConfig, bad: Sequence[DataError] = ()) -> Report:
    if isinstance(source, Dataset):
        held_out = 0 if source.valid is None else len(source.valid)
        spec = source.spec
        return Report(
            source.name, config.path, spec.modality, spec.shape, len(source.train), held_out, {}, 0, (), source.notes
        )
    train = len(source.train)
    held_out = len(source.test) if source.test is not None else 0
    if source.test is None and train:
        held_out = len(split_ids(train, config.valid_fraction, config.split_seed)[1])
        train -= held_out
    return Report(
        name=source.name,
        path=config.path,
        modality=source.modality,
        shape=source.train.shape,
        train=train,
        held_out=held_out,
        classes=_count_classes(source),
        num_bad=len(bad),
        bad=tuple((str(error.path), error.what) for error in bad[:MOST_LISTED]),
        notes=source.notes,
    )


def _count_classes(source: Source) -> dict[str, int]:
    counts = np.zeros(source.classes, dtype=np.int64)
    for part in (source.train, source.test):
        if part is not None and part.labels is not None:
            counts += np.bincount(part.labels, minlength=source.classes)
    return dict(zip(source.names, counts.tolist(), strict=True))
