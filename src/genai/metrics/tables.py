"""How close a table comes to a real one, and whether it repeats the rows that it was made from.

A column is an array: of float64 with NaN where a value is missing, or of texts (categories) with "" there. A table is
its columns by name; those of two tables that are compared are of the same names and kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]
Table = Mapping[str, Column]

_BINS = 10  # that a numeric column is cut into beside a categorical one, of equal shares of the real rows
_CELLS_AT_ONCE = 1 << 18  # of a block of distances, so that it stays in the cache of a core
_FAR = 1e9  # where a number is missing; a column adds 1 at most
_TIE = 1e-5  # distances closer than this are equal: they are sums of rounded numbers


def column_errors(real: Table, made: Table) -> dict[str, float]:
    """Of each column, 0 to 1: Kolmogorov and Smirnov's distance of numbers, the total variation of categories.

    "Column shapes" of SDMetrics and "single density" of TabSyn (Zhang et al. 2024), save that what is missing counts:
    as a category, and among numbers as one above all.
    """
    return {name: (_ks if _numeric(column) else _variation)(column, made[name]) for name, column in real.items()}


def pair_errors(real: Table, made: Table) -> dict[tuple[str, str], float]:
    """Of each two columns, 0 to 1: half the difference of Pearson's correlations of two numeric ones, over the rows
    that have both; else the total variation of the table of contingency, where numbers are cut at the real quantiles
    and what is missing is a category.

    "Pair trends" of SDMetrics and "pair-wise correlation" of TabSyn, which cut into bins of equal width.
    """
    codes = {name: _codes(column, made[name]) for name, column in real.items()}

    def error(one: str, other: str) -> float:
        if _numeric(real[one]) and _numeric(real[other]):
            return abs(_correlation(real[one], real[other]) - _correlation(made[one], made[other])) / 2
        (a, made_a), (b, made_b) = codes[one], codes[other]
        kinds = int(max(b.max(), made_b.max())) + 1
        return _variation(a * kinds + b, made_a * kinds + made_b)

    return {pair: error(*pair) for pair in combinations(real, 2)}


def closest_share(made: Table, train: Table, held_out: Table, seed: int = 0) -> float:
    """Of the made rows, how many lie nearer to a training row than to a held-out row, ties by half, with equally many
    of each, drawn by the seed: 0.5 where the training rows leave no more trace than their distribution. Where n of N
    training rows are drawn, copies of all of them come to 0.5 + n / (2 N).

    The distance is Gower's (1971): a column adds the difference of numbers in units of the training rows' range, 1 at
    most, and 1 for different categories or where one of the two is missing.
    """
    rng = np.random.default_rng(seed)
    rows, *sides = _encoded(train, [made, train, held_out])
    count = min(len(side[0]) for side in sides)
    drawn = [np.sort(rng.permutation(len(side[0]))[:count]) for side in sides]
    near, far = (_closest(rows, [part[d] for part in side]) for side, d in zip(sides, drawn, strict=True))
    gap = far - near
    return float(((gap > _TIE) + (np.abs(gap) <= _TIE) / 2).mean())


def copied_share(made: Table, train: Table) -> float:
    """Of the made rows, how many equal a training row in every column."""
    known = set(_rows(train))
    return float(np.mean([row in known for row in _rows({name: made[name] for name in train})]))


def _numeric(column: Column) -> bool:
    return column.dtype.kind == "f"


def _ks(real: Column, made: Column) -> float:
    """The largest gap between the two distribution functions; numpy sorts NaN behind every number."""
    values = np.unique(np.concatenate([real, made]))  # NaN once
    below = [np.searchsorted(np.sort(column), values, side="right") / len(column) for column in (real, made)]
    return float(np.abs(below[0] - below[1]).max())


def _variation(real: Column, made: Column) -> float:
    kinds, codes = np.unique(np.concatenate([real, made]), return_inverse=True)
    shares = [np.bincount(part, minlength=len(kinds)) / len(part) for part in (codes[: len(real)], codes[len(real) :])]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _correlation(one: Column, other: Column) -> float:
    """0 where a column does not vary."""
    both = ~(np.isnan(one) | np.isnan(other))
    a, b = one[both], other[both]
    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _codes(real: Column, made: Column) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole numbers from 0 on in place of the values of a column, the same for both tables."""
    if not _numeric(real):
        codes = np.unique(np.concatenate([real, made]), return_inverse=True)[1].astype(np.int64)
        return codes[: len(real)], codes[len(real) :]
    there = real[~np.isnan(real)]
    edges = np.unique(np.quantile(there, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(there) else np.empty(0)

    def binned(column: Column) -> NDArray[np.int64]:
        return np.where(np.isnan(column), len(edges) + 1, np.searchsorted(edges, column, side="right"))

    return binned(real), binned(made)


def _encoded(train: Table, tables: Sequence[Table]) -> list[list[NDArray[Any]]]:
    """The columns of each table ready for distances: numbers in units of the training range, far from all of them where
    one is missing, and categories as whole numbers."""
    found: list[list[NDArray[Any]]] = [[] for _ in tables]
    for name, known in train.items():
        columns = [table[name] for table in tables]
        if _numeric(known):
            there = known[~np.isnan(known)]
            low, high = (there.min(), there.max()) if len(there) else (0.0, 1.0)
            span = high - low or 1.0
            parts = [np.where(np.isnan(c), _FAR, (c - low) / span).astype(np.float32) for c in columns]
        else:
            codes = np.unique(np.concatenate(columns), return_inverse=True)[1].astype(np.int32)
            parts = np.split(codes, np.cumsum([len(c) for c in columns])[:-1])
        for own, part in zip(found, parts, strict=True):
            own.append(part)
    return found


def _closest(rows: list[NDArray[Any]], others: list[NDArray[Any]]) -> NDArray[np.float32]:
    """The distance of each row to the nearest of the others."""
    at_once = max(1, _CELLS_AT_ONCE // len(others[0]))
    found = np.empty(len(rows[0]), np.float32)
    for start in range(0, len(found), at_once):
        total = np.zeros((len(rows[0][start : start + at_once]), len(others[0])), np.float32)
        for one, other in zip(rows, others, strict=True):
            here = one[start : start + at_once, None]
            total += np.minimum(np.abs(here - other), 1) if one.dtype.kind == "f" else here != other
        found[start : start + at_once] = total.min(1)
    return found


def _rows(table: Table) -> list[tuple[Any, ...]]:
    """As tuples, in which a missing number is None: NaN does not equal itself."""
    return list(
        zip(
            *([None if value != value else value for value in column.tolist()] for column in table.values()),
            strict=True,
        )
    )
