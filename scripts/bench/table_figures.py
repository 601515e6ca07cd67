"""What generated tables are worth, beside real rows that were held out.

    python scripts/bench/table_figures.py TRAIN.csv HELD_OUT.csv NAME=GENERATED.csv ... [--target COLUMN ...]

A row of the table that it prints is a generated file; the first one is of the held-out rows, as if they had been
generated (what a model learns is of the training rows there). The figures: the mean error of single columns and of
pairs (genai.metrics.tables); how well gradient boosting that learned a target from generated rows alone does on the
held-out ones, accuracy and AUC of classes (the mean over the classes, each against the rest), R2 of numbers; the AUC
of gradient boosting that tells generated from training rows, equally many, over five folds (0.5: it can't); the rows
that lie nearer to a training row than to a held-out one (50 %: no nearer), and those that are copies of a training
row. A column is numeric where all values of TRAIN.csv are; an empty cell is a missing one.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

from genai.metrics.classification import figures
from genai.metrics.tables import Column, Table, closest_share, column_errors, copied_share, pair_errors

MOST_KINDS = 255  # of a category, which gradient boosting tells apart; the rarer ones are one


def read_texts(path: Path) -> dict[str, list[str]]:
    """The cells of each column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head, *rows = csv.reader(file)
    except OSError as error:
        raise SystemExit(f"error: {error.strerror} [{path}]") from None
    except ValueError:
        raise SystemExit(f"error: empty, or no CSV in UTF-8 [{path}]") from None
    if not rows:
        raise SystemExit(f"error: a head without rows [{path}]")
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise SystemExit(f"error: row {number} has {len(row)} cells, the head {len(head)} [{path}]")
    return {name: [row[place] for row in rows] for place, name in enumerate(head)}


def is_numeric(texts: Sequence[str]) -> bool:
    try:
        return np.isfinite([float(text) for text in texts if text]).all() and any(texts)
    except ValueError:
        return False


def typed(texts: dict[str, list[str]], like: dict[str, list[str]], path: Path) -> Table:
    """The columns of `like`, numeric where its are."""
    found: dict[str, Column] = {}
    for name, cells in like.items():
        if name not in texts:
            raise SystemExit(f"error: no column '{name}', there are {', '.join(texts)} [{path}]")
        try:
            numbers = [float(text or "nan") for text in texts[name]] if is_numeric(cells) else None
        except ValueError as error:
            raise SystemExit(f"error: column '{name}': {error} [{path}]") from None
        found[name] = np.array(texts[name]) if numbers is None else np.array(numbers, np.float64)
    return found


def rows_of(table: Table, chosen: Any) -> Table:
    return {name: column[chosen] for name, column in table.items()}


def count_of(table: Table) -> int:
    return len(next(iter(table.values())))


def features(tables: Sequence[Table], known: Table, without: str = "") -> tuple[list[np.ndarray], list[bool]]:
    """Of each table a matrix for gradient boosting, with categories by their rank in `known`, others as missing; and
    which columns are categories."""
    parts: list[list[Column]] = [[] for _ in tables]
    categories = []
    for name, column in known.items():
        if name == without:
            continue
        categories.append(column.dtype.kind != "f")
        if categories[-1]:
            counts = Counter(column.tolist()).most_common()
            rank = {kind: float(min(place, MOST_KINDS - 1)) for place, (kind, _) in enumerate(counts)}
        for part, table in zip(parts, tables, strict=True):
            cells = table[name]
            part.append(np.array([rank.get(kind, np.nan) for kind in cells.tolist()]) if categories[-1] else cells)
    return [np.stack(part, axis=1) for part in parts], categories


def efficacy(made: Table, train: Table, held_out: Table, target: str) -> list[float]:
    """Of a target learned from made rows, on the held-out ones: accuracy and AUC, or R2."""
    made, held_out = (rows_of(table, present(table[target])) for table in (made, held_out))
    (x, test), categories = features([made, held_out], train, without=target)
    settings = {"categorical_features": categories, "random_state": 0}
    if train[target].dtype.kind == "f":
        judge = HistGradientBoostingRegressor(**settings).fit(x, made[target])
        return [float(r2_score(held_out[target], judge.predict(test)))]
    kinds = np.unique(np.concatenate([train[target], made[target], held_out[target]]))
    scores = np.zeros((len(test), len(kinds)))
    if len(np.unique(made[target])) == 1:  # it is always that one
        scores[:, np.searchsorted(kinds, made[target][0])] = 1
    else:
        fitted = HistGradientBoostingClassifier(**settings).fit(x, made[target])
        scores[:, np.searchsorted(kinds, fitted.classes_)] = fitted.predict_proba(test)
    found = figures(scores, np.searchsorted(kinds, held_out[target]), probable=False)
    return [found["accuracy"], found["auc"]]


def present(column: Column) -> Any:
    return ~np.isnan(column) if column.dtype.kind == "f" else column != ""


def detection(made: Table, real: Table) -> float:
    """The AUC of telling made rows from real ones."""
    rng = np.random.default_rng(0)
    count = min(count_of(made), count_of(real))
    made, real = (rows_of(table, rng.permutation(count_of(table))[:count]) for table in (made, real))
    both = {name: np.concatenate([column, made[name]]) for name, column in real.items()}
    (x,), categories = features([both], both)
    judge = HistGradientBoostingClassifier(categorical_features=categories, random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(judge, x, np.arange(2 * count) >= count, scoring="roc_auc", cv=folds).mean())


def measured(made: Table, train: Table, held_out: Table, targets: Sequence[str]) -> list[str]:
    """The cells of a row of the table, without its name."""
    real = made is held_out
    learned = [value for t in targets for value in efficacy(train if real else made, train, held_out, t)]
    halves = (np.arange(count_of(held_out)) % 2 == half for half in (0, 1))
    one, other = (rows_of(held_out, half) for half in halves)
    nearer = closest_share(one, train, other) if real else closest_share(made, train, held_out)
    return [
        f"{count_of(made):,}",
        f"{100 * np.mean(list(column_errors(train, made).values())):.2f}",
        f"{100 * np.mean(list(pair_errors(train, made).values())):.2f}",
        *(f"{value:.3f}" for value in learned),
        f"{detection(made, train):.3f}",
        f"{100 * nearer:.1f}",
        f"{100 * copied_share(made, train):.2f}",
    ]


def headings(train: Table, targets: Sequence[str]) -> list[str]:
    of_targets = [
        f"{target} {figure}"
        for target in targets
        for figure in (["R2"] if train[target].dtype.kind == "f" else ["accuracy", "AUC"])
    ]
    ends = ["detection AUC", "nearer to training rows %", "copies %"]
    return ["", "rows", "column error %", "pair error %", *of_targets, *ends]


def named_files(given: Sequence[str]) -> dict[str, Path]:
    """Of NAME=PATH each, or of a path alone, whose name is the file's."""
    pairs = [(text.partition("=")[::2] if "=" in text else (Path(text).stem, text)) for text in given]
    return {name: Path(path) for name, path in pairs}


def print_figures(train_path: Path, held_out_path: Path, files: dict[str, Path], targets: Sequence[str]) -> None:
    texts = read_texts(train_path)
    for target in targets:
        if target not in texts:
            raise SystemExit(f"error: no column '{target}', there are {', '.join(texts)} [{train_path}]")
    train, held_out = typed(texts, texts, train_path), typed(read_texts(held_out_path), texts, held_out_path)
    head = headings(train, targets)
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print(f"| real, held out | {' | '.join(measured(held_out, train, held_out, targets))} |", flush=True)
    for name, path in files.items():
        made = typed(read_texts(path), texts, path)
        print(f"| {name} | {' | '.join(measured(made, train, held_out, targets))} |", flush=True)
    share = closest_share(train, train, held_out)
    print(f"Nearer to training rows are {100 * share:.1f} % of the training rows themselves.")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train", type=Path, nargs="?")
    parser.add_argument("held_out", type=Path, nargs="?")
    parser.add_argument("generated", nargs="*", metavar="NAME=FILE")
    parser.add_argument("--target", action="append", default=[])
    given = parser.parse_intermixed_args()
    if given.held_out is None:
        print("not measured, it needs tables: see the head of this script")
        return
    print_figures(given.train, given.held_out, named_files(given.generated), given.target)


if __name__ == "__main__":
    main()
