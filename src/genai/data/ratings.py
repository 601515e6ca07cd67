"""Ratings: who had what, from a table of users and items. A sample is a user with all items of theirs, of which some
are held out; what is no row is nothing that is known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genai.contract import Batch, Spec, label_spec
from genai.data.catalogue import read_catalogue
from genai.data.held_out import split_state
from genai.data.kinds import number, numbers_in
from genai.data.records import RatingColumns, rating_columns
from genai.data.sheet import MISSING, Cells, Sheet
from genai.data.source import Dataset, SeenBy
from genai.errors import DataError, counted, to_list
from genai.schema import DataConfig


class Histories:
    """Users and the items of each, (starts[i], starts[i + 1]) of them. In a Batch x is (B, width) items, filled up with
    -1, cond["input"] the numbers of the users, -1 for one that the model does not know, and mask says which items are
    learned from, or of held-out ones looked for."""

    streams = False

    def __init__(
        self, users: Tensor, starts: Tensor, items: Tensor, counts: Tensor, width: int, names: tuple[str, ...]
    ) -> None:
        self.users, self.starts, self.items, self.counts = users, starts, items, counts
        self.width, self.names = width, names
        self.file_of: Callable[[int], str] | None = lambda i: names[i]

    def __len__(self) -> int:
        return len(self.users)

    def fetch(self, index: Tensor) -> Batch:
        index = index.to(self.users.device)
        place = torch.arange(self.width, device=index.device)
        first, last = self.starts[index, None], self.starts[index + 1, None]
        at = first + place
        inside = at < last
        at = at.clamp(max=len(self.items) - 1)
        x = self.items[at].masked_fill(~inside, -1)
        return Batch(x=x, cond={"input": self.users[index]}, mask=self.counts[at] & inside, index=index)

    def to(self, device: torch.device) -> Histories:
        users, starts, items, counts = (p.to(device) for p in (self.users, self.starts, self.items, self.counts))
        return Histories(users, starts, items, counts, self.width, self.names)


@dataclass(frozen=True)
class Pairs:
    """Each user and item that go together once, in order; `held_out` says which are."""

    users: np.ndarray  # (N,) int64
    items: np.ndarray
    held_out: np.ndarray  # (N,) booleans

    def of(self, users: np.ndarray, chosen: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> Histories:
        """Of these users, with those of the pairs that are chosen."""
        own, items, counts = self.users[chosen], self.items[chosen], counts[chosen]
        starts = np.append(np.searchsorted(own, users), len(own))
        width = int(np.diff(starts).max()) if len(users) else 0
        arrays = (users, starts, items, counts)
        a, b, c, d = (torch.from_numpy(np.ascontiguousarray(part)) for part in arrays)
        return Histories(a, b, c, d, width, tuple(names[i] for i in users))


def columns_of(sheet: Sheet, config: DataConfig, seen_by: SeenBy | None) -> RatingColumns | None:
    """The columns of users and items; None of a table from which something else is predicted. Raises DataError where
    a model of ratings sees another table."""
    is_seen = seen_by is not None and seen_by.units.modality == "ratings"
    if config.target is not None or (seen_by is not None and not is_seen):
        return None
    found = rating_columns([name for name in sheet.columns if name not in (config.drop or ())])
    if found is None and is_seen:
        what = f"no columns of users and items, the columns are {', '.join(sheet.columns)[:120]}"
        raise DataError(what, path=sheet.path, fix="call them user and item")
    return found


def build(sheet: Sheet, columns: RatingColumns, config: DataConfig, *, seen_by: SeenBy | None = None) -> Dataset:
    """Splits the items of each user. Raises DataError for blank ids and for ratings that are no numbers."""
    notes = list(sheet.notes)
    sheet = _rated(_with_ids(sheet, columns, config, notes), columns, config, notes)
    users, items = sheet.columns[columns.user], sheet.columns[columns.item]
    if seen_by is not None:
        return _seen(sheet, users, items, config, seen_by, notes)
    catalogue = None if config.items is None else read_catalogue(config.items, skip=config.on_bad == "skip")
    user_names = _in_order(users.texts[i] for i in np.unique(users.codes))
    item_names = _in_order([*(items.texts[i] for i in np.unique(items.codes)), *(catalogue.names if catalogue else ())])
    if len(item_names) < 2:
        what = f"the ratings are of {len(item_names)} item, there is nothing to choose among"
        raise DataError(what, path=sheet.path, fix="give data.path a table with more rows")
    _check_names((*user_names, *item_names), sheet)
    pairs = _pairs(sheet, users, items, user_names, item_names, config, notes)
    every = np.arange(len(user_names))
    train = pairs.of(every, np.ones(len(pairs.users), dtype=bool), ~pairs.held_out, user_names)
    looked_for = np.unique(pairs.users[pairs.held_out])
    valid = pairs.of(looked_for, pairs.held_out, pairs.held_out, user_names) if len(looked_for) else None
    spec = Spec(
        kind="token",
        shape=(train.width,),
        modality="ratings",
        classes=len(item_names),
        names=item_names,
        num_samples=len(train),
        # Of users the samples are all pairs, which the model keeps to know what each has had.
        cond={"input": replace(label_spec(len(user_names), user_names), num_samples=len(pairs.users))},
    )
    if catalogue is not None:
        spec = catalogue.describe(spec, notes)
    told = f"{counted(len(pairs.users), 'item')} of {counted(len(user_names), 'user')}, {len(item_names):,} different"
    notes.append(f"{told}; held out {int(pairs.held_out.sum()):,} of {counted(len(looked_for), 'user')}")
    if unrated := [name for name in (columns.rating,) if name is not None and config.min_rating is None]:
        notes.append(f"'{unrated[0]}' is not used, every row counts: data.min_rating=N leaves lower ones out")
    if others := [name for name in sheet.columns if name not in columns]:
        notes.append(f"columns that are not used: {', '.join(others)[:120]}")
    return _dataset(sheet.name, spec, train, valid, pairs, notes)


def _with_ids(sheet: Sheet, columns: RatingColumns, config: DataConfig, notes: list[str]) -> Sheet:
    """Without the rows that lack a user or an item, where they may be left out."""
    blank = np.zeros(len(sheet), dtype=bool)
    for name in (columns.user, columns.item):
        own = sheet.columns[name].where(lambda text: text in MISSING)
        if own.any() and config.on_bad == "error":
            what = f"column '{name}' {sheet.told_of(own)}"
            raise DataError(what, path=sheet.path, fix="fill it in, or type data.on_bad=skip to leave these rows out")
        blank |= own
    if blank.any():
        notes.append(f"left out: {counted(int(blank.sum()), 'row')} without a user or an item")
    return _left(sheet, ~blank)


def _rated(sheet: Sheet, columns: RatingColumns, config: DataConfig, notes: list[str]) -> Sheet:
    """Without the rows whose rating is too low, or no number where that may be left out."""
    if columns.rating is None:
        if config.min_rating is not None:
            what = f"data.min_rating needs a column of ratings, the columns are {', '.join(sheet.columns)[:120]}"
            raise DataError(what, path=sheet.path, fix="call it rating, or leave data.min_rating out")
        return sheet
    cells = sheet.columns[columns.rating]
    odd = cells.where(lambda text: text not in MISSING and number(text) is None)
    if odd.any():
        row = int(odd.argmax())
        if config.on_bad == "error":
            what = f"the {columns.rating} '{cells.texts[cells.codes[row]][:40]}' of row {sheet.rows[row]} is no number"
            dropped = to_list("data.drop", [columns.rating])
            fix = f"mend it, or type data.on_bad=skip, or {dropped} where it tells nothing"
            raise DataError(what, path=sheet.path, fix=fix)
        notes.append(f"left out: {counted(int(odd.sum()), 'row')} whose {columns.rating} is no number")
    kept = ~odd
    if config.min_rating is not None:
        high = numbers_in(cells, number) >= config.min_rating  # of a missing one: no
        notes.append(f"left out: {counted(int((kept & ~high).sum()), 'row')} rated lower than {config.min_rating:g}")
        kept &= high
    return _left(sheet, kept)


def _left(sheet: Sheet, kept: np.ndarray) -> Sheet:
    if not kept.any():
        raise DataError("no row is left to learn from", path=sheet.path, fix="check data.path and data.min_rating")
    return sheet if kept.all() else sheet.take(np.flatnonzero(kept))


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each once, by value where all are whole numbers."""
    once = set(names)
    numbers = all(name.isascii() and name.isdigit() for name in once)
    return tuple(sorted(once, key=lambda name: (int(name) if numbers else 0, name)))


def _check_names(names: Sequence[str], sheet: Sheet) -> None:
    if odd := [name for name in names if "${" in name]:  # which no run could keep
        raise DataError(f"the id {odd[0][:40]!a} holds an interpolation", path=sheet.path, fix="give it another name")


def _codes(cells: Cells, names: Sequence[str]) -> np.ndarray:
    """(N,) the numbers of the names, -1 for one that is none of them."""
    return cells.codes_in({name: i for i, name in enumerate(names)})


def _pairs(
    sheet: Sheet,
    users: Cells,
    items: Cells,
    user_names: Sequence[str],
    item_names: Sequence[str],
    config: DataConfig,
    notes: list[str],
) -> Pairs:
    """Held out is the set's own part where it has one, else a share of the items of each user, one at least, and never
    all of them; whatever the order of the rows."""
    keys = _codes(users, user_names) * len(item_names) + _codes(items, item_names)
    once, first = np.unique(keys, return_index=True)
    if repeated := len(keys) - len(once):
        notes.append(f"counted once: {counted(repeated, 'row')} with a user and an item as before")
    own, theirs = once // len(item_names), once % len(item_names)
    if sheet.held_out:
        return Pairs(own, theirs, first >= len(sheet) - sheet.held_out)
    counts = np.bincount(own, minlength=len(user_names))
    wanted = np.minimum(counts - 1, np.maximum(1, np.round(counts * config.valid_fraction).astype(int)))
    wanted = wanted if config.valid_fraction > 0 else np.zeros_like(wanted)
    shuffled = np.lexsort((split_state(config.split_seed).random_sample(len(own)), own))
    place = np.empty(len(own), dtype=np.int64)
    place[shuffled] = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
    if alone := int((counts == 1).sum()) if config.valid_fraction > 0 else 0:
        notes.append(f"nothing is held out of {counted(alone, 'user')} with one item")
    return Pairs(own, theirs, place < wanted[own])


def _seen(sheet: Sheet, users: Cells, items: Cells, config: DataConfig, seen_by: SeenBy, notes: list[str]) -> Dataset:
    """By the numbers that a model learned. Users that it does not know have the number -1, and a place each. Where all
    are held out, all items of known users are looked for, and of others a share, beside the rest."""
    spec = seen_by.units
    known, item_names = spec.cond["input"].names, spec.names
    lost = _codes(items, item_names) < 0
    if lost.any():
        one = items.texts[items.codes[int(lost.argmax())]]
        what = f"{counted(int(lost.sum()), 'row')} of items that the model does not know, as '{one}'"
        if lost.all():
            raise DataError(
                f"there are but {what}", path=sheet.path, fix="name ratings of the items that it was trained on"
            )
        notes.append(f"left out: {what}")
        sheet = sheet.take(np.flatnonzero(~lost))
        users, items = (replace(c, codes=c.codes[~lost]) for c in (users, items))
    there = {users.texts[i] for i in np.unique(users.codes)}
    names = (*known, *_in_order(there - set(known)))
    pairs = _pairs(sheet, users, items, names, item_names, config, notes)
    every, all_pairs = np.unique(pairs.users), np.ones(len(pairs.users), dtype=bool)
    if seen_by.hold_out_all:
        pairs = replace(pairs, held_out=pairs.held_out | (pairs.users < len(known)))
        train = pairs.of(np.arange(0), ~all_pairs, all_pairs, names)
        valid: Histories | None = pairs.of(every, all_pairs, pairs.held_out, names)
    else:
        looked_for = np.unique(pairs.users[pairs.held_out])
        train = pairs.of(every, all_pairs, ~pairs.held_out, names)
        valid = pairs.of(looked_for, pairs.held_out, pairs.held_out, names) if len(looked_for) else None
    for part in (train, valid):
        if part is not None:
            part.users[part.users >= len(known)] = -1
    return _dataset(sheet.name, spec, train, valid, pairs, notes)


def _dataset(
    name: str, spec: Spec, train: Histories, valid: Histories | None, pairs: Pairs, notes: Sequence[str]
) -> Dataset:
    digest = hashlib.sha256("\0".join((*spec.cond["input"].names, "", *spec.names)).encode())
    digest.update(repr(spec.features).encode())
    for part in (pairs.users, pairs.items, pairs.held_out):
        digest.update(np.ascontiguousarray(part).data)
    return Dataset(name, spec, train, valid, digest.hexdigest(), tuple(notes))
