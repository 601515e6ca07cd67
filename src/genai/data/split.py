"""Samples in model units: kept on the device where the set is small, read when asked for where it is large."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genai.contract import Batch, Spec, label_spec
from genai.data.held_out import split_ids
from genai.data.prompts import NUM_EXAMPLES, count_longer, longest, prompt_bytes, prompt_ids, prompt_spec
from genai.data.source import Dataset, Part, Rows, SeenBy, Source, Split, captions_of, refuse_one, with_classes
from genai.errors import DataError
from genai.schema import DataConfig

Predicts = Literal["data", "target"]
Stored = tuple[Tensor, Tensor | None, Tensor | None]  # values, labels, prompts
_MOST_MEASURED, _MOST_VALUES = 1000, 1 << 26  # samples of a streaming set, and their values, that say its deviation
_VALUES_AT_ONCE = 1 << 20
_MOST_STREAMED = 256  # of a streaming set of pictures
_GREY_LEVELS, _LEAST_DEVIATION = ("image", "video"), 1e-4


@dataclass(frozen=True)
class Units:
    """How stored values become a Batch: model units are (stored - offset) / scale."""

    scale: Tensor  # () or one for each channel, shaped to broadcast over x
    offset: Tensor
    predicts: Predicts

    def to(self, device: torch.device) -> Units:
        return Units(self.scale.to(device), self.offset.to(device), self.predicts)

    def batch(self, stored: Tensor, labels: Tensor | None, prompts: Tensor | None, index: Tensor) -> Batch:
        """Takes over `stored`: float32 values are changed in place."""
        values = stored.float().sub_(self.offset).div_(self.scale)
        if labels is not None and self.predicts == "target":
            return Batch(x=labels, cond={"input": values}, index=index)
        cond = {} if labels is None else {"label": labels}
        if prompts is not None:
            cond["prompt"] = prompts.long()
        return Batch(x=values, cond=cond, index=index)


class Resident:
    """A split whose samples are one tensor on one device; a batch is an index. `captions` has one for each sample,
    `prompts` (N, T) uint8 what a model is told of them."""

    streams = False

    def __init__(
        self,
        stored: Tensor,
        labels: Tensor | None,
        units: Units,
        captions: tuple[str, ...] | None = None,
        prompts: Tensor | None = None,
        file_of: Callable[[int], str] | None = None,
    ) -> None:
        self.file_of = file_of
        self.stored, self.labels, self.units, self.captions, self.prompts = stored, labels, units, captions, prompts
        self._moved: dict[torch.device, Resident] = {stored.device: self}

    def __len__(self) -> int:
        return self.stored.shape[0]

    def fetch(self, index: Tensor) -> Batch:
        index = index.to(self.stored.device)
        labels, prompts = (None if t is None else t.index_select(0, index) for t in (self.labels, self.prompts))
        return self.units.batch(self.stored.index_select(0, index), labels, prompts, index)

    def to(self, device: torch.device) -> Resident:
        # Kept, because evaluation asks every time and the samples should cross to the device once.
        if device not in self._moved:
            labels, prompts = (None if t is None else t.to(device) for t in (self.labels, self.prompts))
            moved = Resident(self.stored.to(device), labels, self.units.to(device), self.captions, prompts)
            self._moved[device] = moved
        return self._moved[device]

    def without_prompts(self) -> Resident:
        return Resident(self.stored, self.labels, self.units, self.captions, file_of=self.file_of)


class Streaming:
    """A split whose samples are read from files; `ids` are its rows among all that `rows` can read."""

    streams = True

    def __init__(
        self,
        rows: Rows,
        ids: np.ndarray,
        labels: np.ndarray | None,
        units: Units,
        captions: tuple[str, ...] | None = None,
        prompts: np.ndarray | None = None,
        file_of: Callable[[int], str] | None = None,
    ) -> None:
        self.file_of = file_of
        self.rows, self.ids, self.labels, self.units = rows, ids, labels, units
        self.captions, self.prompts = captions, prompts

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: Tensor) -> Stored:
        """On the CPU: what a worker process sends, a quarter of the bytes of a Batch."""
        positions = index.numpy()
        labels, prompts = (
            None if values is None else torch.from_numpy(values[positions]) for values in (self.labels, self.prompts)
        )
        return torch.from_numpy(self.rows.read(self.ids[positions])), labels, prompts

    def fetch(self, index: Tensor) -> Batch:
        index = index.cpu()
        return self.units.batch(*self.read(index), index)

    def to(self, device: torch.device) -> Streaming:
        return self

    def without_prompts(self) -> Streaming:
        return Streaming(self.rows, self.ids, self.labels, self.units, self.captions, file_of=self.file_of)


def build(source: Source, config: DataConfig, *, predicts: Predicts, seen_by: SeenBy | None = None) -> Dataset:
    """Splits a source, brings it to model units and describes it."""
    if seen_by is not None and seen_by.classes:
        renumbered = with_classes(source, seen_by.classes)
        if isinstance(renumbered, str):
            fix = f"the model learned {', '.join(seen_by.classes[:8])}{', ...' if len(seen_by.classes) > 8 else ''}"
            raise DataError(f"class '{renumbered}' is none of the model's", path=config.path or config.name, fix=fix)
        source = renumbered
    part, notes = source.train, list(source.notes)
    if len(part) == 0:
        raise DataError("the set holds no samples", path=config.path or config.name, fix="check data.path")
    if seen_by is None or not seen_by.hold_out_all:
        refuse_one(source, config.path or config.name)
    if predicts == "target" and part.labels is None and seen_by is not None:
        unknown = replace(part, labels=np.full(len(part), -1))
        source = replace(source, train=unknown, classes=len(seen_by.classes), names=seen_by.classes)
        part = unknown
    if predicts == "target" and part.labels is None:
        raise DataError(
            "the set has no labels to predict",
            path=config.path or config.name,
            fix="put the files in one sub-folder per class, or add an array 'labels'",
        )
    train_ids, valid_ids = split_ids(len(part), config.valid_fraction, config.split_seed)
    if source.test is not None:
        train_ids, valid_ids = np.arange(len(part)), np.arange(len(source.test))
        if config.valid_fraction not in (0.0, DataConfig.valid_fraction):
            notes.append("data.valid_fraction is not used: the set has held-out data of its own")
    elif seen_by is not None and seen_by.hold_out_all:
        train_ids, valid_ids = np.arange(0), np.arange(len(part))
    elif config.valid_fraction > 0 and len(valid_ids) == 0:
        notes.append("one sample only: nothing is held out")
    scale, offset = _scale_and_offset(source, part, train_ids) if seen_by is None else _units(seen_by.units)
    spec = replace(_spec(source, scale, offset, predicts), num_samples=len(train_ids))
    rank = len(source.train.shape)
    scaling = Units(_per_channel(scale, rank), _per_channel(offset, rank), predicts)
    length = _prompt_length(source, train_ids, seen_by) if predicts == "data" else 0
    train = _split(part, train_ids, scaling, length)
    valid = _split(source.test or part, valid_ids, scaling, length) if len(valid_ids) else None
    if train.streams and config.workers == 0:
        notes.append("too large for memory, read from files: data.workers=4 reads ahead")
    digest = hashlib.sha256(repr(spec).encode())
    for split in (train, valid):
        _add_content(digest, split)
    if source.modality in _GREY_LEVELS and predicts == "data" and len(train):
        spec = with_statistics(spec, train)  # not in the digest: they follow from the content
    told = captions_of(part, source.test)
    prompts: tuple[tuple[str, int | None], ...] = ()
    if length:
        spec = replace(spec, cond={**spec.cond, "prompt": prompt_spec(length)})
        captions = [text for split in (train, valid) if split is not None for text in split.captions or ()]
        if longer := count_longer(captions, length):
            notes.append(f"{longer} captions are longer than {length} bytes: models are told their beginning")
        prompts = _some_prompts(valid) or _some_prompts(train)
    return Dataset(source.name, spec, train, valid, digest.hexdigest(), tuple(notes), *told, prompts)


def _prompt_length(source: Source, train_ids: np.ndarray, seen_by: SeenBy | None) -> int:
    """Bytes of the captions of these samples that a model is told; 0 where they have none."""
    if seen_by is not None and seen_by.prompt_length is not None:
        return seen_by.prompt_length if captions_of(source.train, source.test)[0] else 0
    captions = source.train.captions
    return 0 if captions is None else longest(captions[i] for i in train_ids)


def _some_prompts(split: Resident | Streaming | None) -> tuple[tuple[str, int | None], ...]:
    """Captions that differ, from all over the split, with the labels of the first samples that have them."""
    if split is None or split.captions is None:
        return ()
    first: dict[bytes, int] = {}  # sample that has it
    for i, text in enumerate(split.captions):
        if told := prompt_bytes(text):
            first.setdefault(told, i)
    samples = list(first.values())
    # Not the first ones: folders lie class after class.
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), NUM_EXAMPLES)).round().astype(int)
    labels = None if split.labels is None else split.labels[samples].tolist()
    return tuple((split.captions[samples[i]], None if labels is None else labels[i]) for i in chosen)


def _per_channel(values: tuple[float, ...], ndim: int) -> Tensor:
    return torch.tensor(values[0]) if len(values) == 1 else torch.tensor(values).view(-1, *[1] * (ndim - 1))


def _split(part: Part, ids: np.ndarray, units: Units, prompt_length: int) -> Resident | Streaming:
    labels = None if part.labels is None else np.asarray(part.labels, dtype=np.int64)[ids]
    captions = None if part.captions is None else tuple(part.captions[i] for i in ids)
    # Of a part without captions, beside one that has them: no prompts.
    prompts = prompt_ids(captions or ("",) * len(ids), prompt_length) if prompt_length else None
    file_of = None if part.file_of is None else lambda i, of=part.file_of: of(int(ids[i]))
    if not isinstance(part.x, np.ndarray):
        return Streaming(part.x, ids, labels, units, captions, prompts, file_of)
    stored = part.x if len(ids) == len(part.x) else part.x[ids]
    if not stored.flags.writeable or not stored.flags.c_contiguous:
        stored = np.array(stored, order="C")
    numbers, ids_of_prompts = (None if given is None else torch.from_numpy(given) for given in (labels, prompts))
    return Resident(torch.from_numpy(stored), numbers, units, captions, ids_of_prompts, file_of)


def _scale_and_offset(source: Source, part: Part, train_ids: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if source.scale is not None and source.offset is not None:
        return source.scale, source.offset
    if source.modality in _GREY_LEVELS:
        return (127.5,), (127.5,)
    if source.modality == "audio":  # one number for all, and an offset of 0: silence stays 0
        return (_deviation_of_levels(part.x, train_ids),), (0.0,)
    values = np.asarray(part.x)[train_ids].astype(np.float64)
    deviation = values.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)  # a column that never changes keeps its unit
    return tuple(map(float, scale)), tuple(map(float, values.mean(axis=0)))


def _deviation_of_levels(x: np.ndarray | Rows, ids: np.ndarray) -> float:
    """Of all values of these samples; of a seeded part of them where they are read from files."""
    values_each = math.prod(x.shape if not isinstance(x, np.ndarray) else x.shape[1:])
    if not isinstance(x, np.ndarray):
        count = min(_MOST_MEASURED, max(1, _MOST_VALUES // values_each))
        ids = np.sort(np.random.RandomState(0).permutation(ids)[:count])
    count = total = squares = 0
    step = max(1, _VALUES_AT_ONCE // values_each)
    for start in range(0, len(ids), step):
        chosen = ids[start : start + step]
        levels = (x[chosen] if isinstance(x, np.ndarray) else x.read(chosen)).astype(np.int64).ravel()
        # Whole numbers: the same deviation however they are cut.
        count, total, squares = count + levels.size, total + int(levels.sum()), squares + int(levels @ levels)
    variance = (count * squares - total**2) / count**2 if count else 0.0
    return math.sqrt(variance) or 1.0


def with_statistics(spec: Spec, split: Split) -> Spec:
    """The spec with the mean and the deviation of each channel, of a seeded part of the samples where they are many."""
    count = min(len(split), _MOST_STREAMED if split.streams else _MOST_MEASURED)
    ids = torch.from_numpy(np.sort(np.random.RandomState(0).permutation(len(split))[:count]))
    sums = torch.zeros(3, spec.shape[0], dtype=torch.float64)
    for chunk in ids.split(max(1, _VALUES_AT_ONCE // math.prod(spec.shape))):
        x = split.fetch(chunk).x.double().transpose(0, 1).flatten(1)
        sums += torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)]).cpu()
    mean = sums[1] / sums[0]
    deviation = (sums[2] / sums[0] - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > _LEAST_DEVIATION, deviation, 1.0)  # a channel that never changes
    return replace(spec, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))


def _units(spec: Spec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return spec.seen.scale, spec.seen.offset


def _spec(source: Source, scale: tuple[float, ...], offset: tuple[float, ...], predicts: Predicts) -> Spec:
    spec = Spec(kind="real", shape=source.train.shape, modality=source.modality, scale=scale, offset=offset)
    spec = replace(spec, sample_rate=source.sample_rate)
    if source.train.labels is None:
        return spec
    label = label_spec(source.classes, source.names)
    return replace(label, cond={"input": spec}) if predicts == "target" else replace(spec, cond={"label": label})


def _add_content(digest: hashlib._Hash, split: Resident | Streaming | None) -> None:
    digest.update(b"split")
    if split is None:
        return
    if isinstance(split, Resident):
        digest.update(split.stored.numpy().data)
        if split.labels is not None:
            digest.update(split.labels.numpy().data)
    else:
        digest.update(split.rows.digest())
        digest.update(split.ids.data)
        if split.labels is not None:
            digest.update(split.labels.data)
    if split.captions is not None:
        digest.update("\0".join(split.captions).encode(errors="surrogateescape"))
