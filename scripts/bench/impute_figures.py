"""What filled-in tables are worth: cells that were removed at random, beside the simple ways of filling them in.

    python scripts/bench/impute_figures.py FULL.csv HOLES.csv NAME=FILLED.csv ...
        [--remove 0.2] [--baselines FOLDER] [--draws 1]

--remove writes HOLES.csv first: FULL.csv without this share of its cells, drawn by a seed. --baselines writes
FOLDER/NAME.csv of scikit-learn's ways, where it is not there yet, and measures them, too: `knn` (five neighbours over
standardised numbers and one-hot categories), `iterative` (IterativeImputer of at most 30 rounds: a Bayesian ridge
regression of each column on the others, categories as ordinals) and `forest` (as MissForest does, Stekhoven and
Buehlmann 2012: three rounds in which a forest predicts each column from the others). `mean` is the mean, or the most
frequent category, of what is left of a column. With --draws the figures are means over so many draws of the holes, and
every {} in a path but the first stands for the number of the draw, from 0 on: of a small table one draw is luck. Where
FILLED is a folder, its tables are draws of the same cells (`genai sample --task impute -n 100`), and their mean is
measured, or the most frequent category: it is not rounded to what the column could hold, as that of a file is. First
holes are made, then they are filled in, then measured:

    python scripts/bench/impute_figures.py FULL.csv 'HOLES{}.csv' --remove 0.2 --draws 14 --baselines 'WAYS{}'
    python scripts/bench/impute_figures.py FULL.csv 'HOLES{}.csv' 'ours=DRAWS{}' --draws 14 --baselines 'WAYS{}'

The figures are of the removed cells: the RMSE over the deviation of the column in FULL.csv, or the share of wrong
categories. "explained" is what a forest explains of a column from the others in FULL.csv, out of its bag: R2, or the
share of the errors of the most frequent category that it avoids. The script ends with 1 where a table that it was given
is more than 1 % worse than the mean in a column, no better than it in one of which a forest explains more than a tenth,
or not better than kNN in most columns.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.preprocessing import StandardScaler

from genai.metrics.tables import Table
from table_figures import named_files, present, read_texts, typed

Cells = dict[str, list[str]]
Errors = dict[str, float]  # by column

MOST_ROWS = 10_000  # that the forest of "explained" learns from
WORSE, EXPLAINED = 1.01, 0.1
ROUNDS = 3
FOREST = {"n_estimators": 100, "n_jobs": -1, "random_state": 0}
# MissForest's own choice of columns to split by; leaves of some rows are faster and no worse.
OF_MISS_FOREST = {"max_features": "sqrt", "min_samples_leaf": 3}


def remove(cells: Cells, share: float, seed: int) -> Cells:
    """Each cell goes with the same chance."""
    rng = np.random.default_rng(seed)
    gone = {name: rng.random(len(column)) < share for name, column in cells.items()}
    return {name: ["" if g else t for t, g in zip(column, gone[name], strict=True)] for name, column in cells.items()}


def write_texts(path: Path, cells: Cells) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(cells), *zip(*cells.values(), strict=True)])


def coded(table: Table) -> tuple[NDArray[np.float64], dict[int, NDArray[Any]]]:
    """A matrix in which categories are whole numbers and what is missing is NaN; the categories by column."""
    columns, kinds = [], {}
    for place, column in enumerate(table.values()):
        if column.dtype.kind == "f":
            columns.append(column)
        else:
            kinds[place] = np.unique(column[column != ""])
            columns.append(np.where(column == "", np.nan, np.searchsorted(kinds[place], column)))
    return np.stack(columns, axis=1), kinds


def by_mean(x: NDArray[np.float64], kinds: dict[int, NDArray[Any]]) -> NDArray[np.float64]:
    found = x.copy()
    for place, column in enumerate(x.T):
        there = column[~np.isnan(column)]
        guess = np.bincount(there.astype(int)).argmax() if place in kinds else there.mean()
        found[np.isnan(column), place] = guess
    return found


def by_neighbours(x: NDArray[np.float64], kinds: dict[int, NDArray[Any]]) -> NDArray[np.float64]:
    parts = []
    for place, column in enumerate(StandardScaler().fit_transform(x).T):
        if place in kinds:
            one_hot = x[:, place, None] == np.arange(len(kinds[place]))
            parts.append(np.where(np.isnan(x[:, place, None]), np.nan, one_hot))
        else:
            parts.append(column[:, None])
    filled = KNNImputer(n_neighbors=5).fit_transform(np.concatenate(parts, axis=1))
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    scale = StandardScaler().fit(x)
    found = [
        part.argmax(1) if place in kinds else part[:, 0] * scale.scale_[place] + scale.mean_[place]
        for place, part in enumerate(np.split(filled, ends, axis=1))
    ]
    return np.stack(found, axis=1)


def by_regressions(x: NDArray[np.float64], kinds: dict[int, NDArray[Any]]) -> NDArray[np.float64]:
    scale = StandardScaler().fit(x)
    found = scale.inverse_transform(IterativeImputer(max_iter=30, random_state=0).fit_transform(scale.transform(x)))
    for place, names in kinds.items():
        found[:, place] = np.clip(np.rint(found[:, place]), 0, len(names) - 1)
    return found


def by_forests(x: NDArray[np.float64], kinds: dict[int, NDArray[Any]]) -> NDArray[np.float64]:
    found, missing = by_mean(x, kinds), np.isnan(x)
    for _ in range(ROUNDS):
        for place in np.argsort(missing.sum(0)):
            gone = missing[:, place]
            if gone.any():
                others = np.delete(found, place, axis=1)
                kind = RandomForestClassifier if place in kinds else RandomForestRegressor
                forest = kind(**FOREST, **OF_MISS_FOREST)
                found[gone, place] = forest.fit(others[~gone], x[~gone, place]).predict(others[gone])
    return found


BASELINES = {"knn": by_neighbours, "iterative": by_regressions, "forest": by_forests}


def filled_texts(holes: Cells, table: Table, way: Any) -> Cells:
    """What was there stays as it is written."""
    x, kinds = coded(table)
    found = {}
    for (name, column), values, place in zip(holes.items(), way(x, kinds).T.tolist(), range(len(holes)), strict=True):
        named = (str(kinds[place][int(v)]) for v in values) if place in kinds else map(repr, values)
        found[name] = [text or value for text, value in zip(column, named, strict=True)]
    return found


def estimate(draws: Sequence[Table]) -> Table:
    """The mean of numbers, and the most frequent of categories."""
    found: Table = {}
    for name in draws[0]:
        columns = np.stack([draw[name] for draw in draws])
        if columns.dtype.kind == "f":
            found[name] = columns.mean(0)
        else:
            kinds, codes = np.unique(columns, return_inverse=True)
            counts = (codes.reshape(columns.shape)[..., None] == np.arange(len(kinds))).sum(0)
            found[name] = kinds[counts.argmax(1)]
    return found


def explained(table: Table) -> Errors:
    """Of each column, by a forest from the others."""
    x, kinds = coded(table)
    others = by_mean(x, kinds)
    order = np.random.default_rng(0).permutation(len(x))
    found = {}
    for place, name in enumerate(table):
        kind = RandomForestClassifier if place in kinds else RandomForestRegressor
        rows = order[~np.isnan(x[order, place])][:MOST_ROWS]
        column = x[rows, place]
        score = kind(**FOREST, oob_score=True).fit(np.delete(others[rows], place, axis=1), column).oob_score_
        errors = 1 - np.unique(column, return_counts=True)[1].max() / len(column)
        found[name] = 1 - (1 - score) / (errors or 1.0) if place in kinds else score
    return found


def errors_of(filled: Table, full: Table, holes: Table, path: Path) -> Errors:
    """Of the columns from which cells were removed."""
    found = {}
    for name, column in full.items():
        if len(filled[name]) != len(column):
            raise SystemExit(f"error: {len(filled[name])} rows, in the full table are {len(column)} [{path}]")
        removed = ~present(holes[name]) & present(column)
        if (empty := np.flatnonzero(removed & ~present(filled[name]))).size:
            raise SystemExit(f"error: column '{name}' is empty still in row {empty[0] + 2} [{path}]")
        if removed.any():
            made, real = filled[name][removed], column[removed]
            if column.dtype.kind == "f":
                found[name] = float(np.sqrt(np.mean((made - real) ** 2)) / (np.nanstd(column) or 1.0))
            else:
                found[name] = float(np.mean(made != real))
    return found


def verdict(errors: Errors, mean: Errors, neighbours: Errors | None, shares: Errors) -> tuple[str, bool]:
    worse = [name for name, error in errors.items() if error > WORSE * mean[name]]
    missed = [name for name, error in errors.items() if shares[name] > EXPLAINED and error >= mean[name]]
    told = [
        f"more than 1 % worse than the mean: {', '.join(worse) or 'nowhere'}",
        f"no better than it though a forest explains a tenth: {', '.join(missed) or 'nowhere'}",
    ]
    good = not worse and not missed
    if neighbours is not None:
        better = sum(error < neighbours[name] for name, error in errors.items())
        told.append(f"better than kNN in {better} of {len(errors)} columns")
        good &= better > len(errors) / 2
    return "; ".join(told), good


def measured(given: argparse.Namespace, seed: int) -> dict[str, Errors]:
    """By name of what is measured, of one draw of the holes; what was spoilt beside them is told."""

    def place(path: Path) -> Path:
        return Path(str(path).replace("{}", str(seed)))

    path = place(given.holes)
    if given.remove is not None:
        write_texts(path, remove(read_texts(given.full), given.remove, seed))
    texts, hole_texts = read_texts(given.full), read_texts(path)
    full, holes = typed(texts, texts, given.full), typed(hole_texts, texts, path)
    files = {name: place(given.baselines / f"{name}.csv") for name in BASELINES} if given.baselines else {}
    for name, file in files.items():
        if not file.is_file():
            start = time.perf_counter()
            file.parent.mkdir(parents=True, exist_ok=True)
            write_texts(file, filled_texts(hole_texts, holes, BASELINES[name]))
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    found = {"mean": errors_of(typed(filled_texts(hole_texts, holes, by_mean), texts, path), full, holes, path)}
    for name, file in (files | {name: place(file) for name, file in named_files(given.filled).items()}).items():
        drawn = [read_texts(one) for one in (sorted(file.glob("*.csv")) if file.is_dir() else [file])]
        if not drawn:
            raise SystemExit(f"error: there is no table, expected NUMBER.csv of each draw [{file}]")
        found[name] = errors_of(estimate([typed(cells, texts, file) for cells in drawn]), full, holes, file)
        changed = max(
            sum(a != b for c, kept in hole_texts.items() for a, b in zip(kept, cells[c], strict=True) if a)
            for cells in drawn
        )
        if changed:
            print(f"{name}: {changed} cells that were there are not the same [{file}]")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("full", type=Path, nargs="?")
    parser.add_argument("holes", type=Path, nargs="?")
    parser.add_argument("filled", nargs="*", metavar="NAME=FILE")
    parser.add_argument("--remove", type=float)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--baselines", type=Path)
    given = parser.parse_intermixed_args()
    if given.holes is None:
        print("not measured, it needs tables: see the head of this script")
        return
    draws = [measured(given, seed) for seed in range(given.draws)]
    columns = [column for column in draws[0]["mean"] if all(column in draw["mean"] for draw in draws)]
    errors = {name: {c: float(np.mean([draw[name][c] for draw in draws])) for c in columns} for name in draws[0]}
    texts = read_texts(given.full)
    shares = explained(typed(texts, texts, given.full))
    print(f"| column | explained | {' | '.join(errors)} |\n|{'---|' * (len(errors) + 2)}")
    for column in columns:
        values = " | ".join(f"{found[column]:.3f}" for found in errors.values())
        print(f"| {column} | {shares[column]:.2f} | {values} |")
    missed = False
    for name in list(errors)[1:]:
        text, good = verdict(errors[name], errors["mean"], errors.get("knn"), shares)
        print(f"{name}: {text}")
        missed |= name in named_files(given.filled) and not good
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
