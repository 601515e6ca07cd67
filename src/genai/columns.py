"""What the columns of a table are, and where each of them lies in a row of numbers. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

_FAR = 4.0  # deviations


@dataclass(frozen=True)
class Column:
    """All that brings the values of a column to numbers and back to what stood in the file."""

    name: str
    kind: Literal["number", "category", "date", "identifier"]
    role: Literal["value", "target", "left_out"] = "value"
    type: str = ""  # of parquet: the name of its type; "": the table is text
    # Of categories: as they are written, with how often each is met in training; some may be met in held-out rows
    # alone. Where there are `rare` ones, the last of `values` stands for all of these.
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    rare: tuple[str, ...] = ()
    rare_counts: tuple[int, ...] = ()
    numeric: bool = False  # categories that are numbers of few values
    # Of numbers, and of dates in seconds: how many there are in training, and their values at `ranks`, in order.
    count: int = 0
    quantiles: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    step: float = 0.0  # all are multiples of it; 0: of none
    places: tuple[int, int] | None = None  # behind the point, that are written at least and at most; None: any
    form: str = ""  # of dates
    missing: str | None = None  # how a missing value is written; None: none is missing
    last: int = 0  # of identifiers: the greatest

    @property
    def classes(self) -> int:
        """Of its group of numbers of which one is 1: its categories, and one for those that are missing; of numbers,
        where some are missing, one for those that are there and one for those that are not; 0 where there is none."""
        if self.role != "value" or self.kind == "identifier":
            return 0
        some_missing = self.missing is not None
        return len(self.values) + some_missing if self.kind == "category" else 2 * some_missing

    @property
    def is_number(self) -> bool:
        """Whether it has a number of its own in a row."""
        return self.role == "value" and self.kind in ("number", "date")


class Place(NamedTuple):
    """Where a column lies in a row (D,): first come all numbers, then all groups."""

    column: int
    number: int | None
    group: slice | None


def layout(columns: Sequence[Column]) -> list[Place]:
    """Of the columns that are in a row."""
    numbers = sum(column.is_number for column in columns)
    places, number, start = [], 0, numbers
    for i, column in enumerate(columns):
        if not column.is_number and not column.classes:
            continue
        group = slice(start, start + column.classes) if column.classes else None
        places.append(Place(i, number if column.is_number else None, group))
        number, start = number + column.is_number, start + column.classes
    return places


def width(columns: Sequence[Column]) -> int:
    """D of a row."""
    return sum(column.is_number + column.classes for column in columns)


def groups(columns: Sequence[Column]) -> tuple[int, ...]:
    """How long each group is, in order."""
    return tuple(column.classes for column in columns if column.classes)


def ranks(count: int) -> list[float]:
    """Where so many quantiles are taken, 0 to 1: at even steps of the normal score, so that what is far out is told
    from what is not."""
    if count == 1:
        return [0.5]
    normal = NormalDist()
    steps = [normal.cdf(_FAR * (2 * i / (count - 1) - 1)) for i in range(count)]
    return [(step - steps[0]) / (steps[-1] - steps[0]) for step in steps]
