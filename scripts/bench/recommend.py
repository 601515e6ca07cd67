"""Recommendation on MovieLens-100k: `implicit`'s ALS and BPR, searched, against the preset of ours, in one run.

    pip install implicit
    python scripts/bench/recommend.py [--seeds 2] [--folder ratings]

The ratings come out of RecBole's wheel, which pip fetches once. Of each user's items 8 parts of 10 at random are
learned, one part chooses the settings of the peers (ours are the preset's), one part tests. All items are ranked but
what the user is known to have had. Figures after learning 8 parts, and 9 with those that chose; ours is to reach ALS in
the mean.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import genai
from genai.console import Console
from genai.contract import Request
from genai.factory import open_trained
from genai.metrics import ranking

WHEEL, INSIDE = "recbole==1.2.1", "recbole/dataset_example/ml-100k/ml-100k"
ALS = list(itertools.product((16, 32, 64), (1, 2, 5, 10), (1, 5, 10, 20, 30)))  # factors, alpha, regularization
BPR = list(itertools.product((32, 64, 128), (0.01, 0.03, 0.1), (0.003, 0.01, 0.03)))  # factors, rate, regularization

Matrix = NDArray[np.bool_]
Scores = NDArray[np.floating]


def fetched(folder: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of (user, item, rating, time) and of (item, title, year, kinds)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("recbole-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "-d", str(folder)]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("recbole-*.whl"))) as wheel:
        texts = [wheel.read(f"{INSIDE}.{ending}").decode() for ending in ("inter", "item")]
    ratings, items = ([line.split("\t") for line in text.splitlines()[1:]] for text in texts)
    return ratings, items


def parts_of(users: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """0, 1 or 2 for each row: a tenth of each user's is 1, a tenth 2, at least one each."""
    random, parts = np.random.RandomState(seed), np.zeros(len(users), dtype=np.int64)
    for user in range(users.max() + 1):
        rows = random.permutation(np.flatnonzero(users == user))
        tenth = max(1, len(rows) // 10)
        parts[rows[:tenth]], parts[rows[tenth : 2 * tenth]] = 2, 1
    return parts


def measured(scores: Scores, known: Matrix, wanted: Matrix) -> dict[str, float]:
    masked = np.where(known, -np.inf, scores)
    best = np.argsort(-masked, axis=1, kind="stable")[:, : ranking.PLACES]
    found = ranking.figures(np.take_along_axis(wanted, best, 1), wanted.sum(1))
    return {name: float(values.mean()) for name, values in found.items()}


def by_als(had: Matrix, factors: int, alpha: float, regularization: float) -> Scores:
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    model = AlternatingLeastSquares(factors, alpha=alpha, regularization=regularization, random_state=0, num_threads=1)
    model.fit(csr_matrix(had, dtype=np.float32), show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


def by_bpr(had: Matrix, factors: int, rate: float, regularization: float) -> Scores:
    from implicit.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix

    model = BayesianPersonalizedRanking(
        factors, learning_rate=rate, regularization=regularization, iterations=200, random_state=0, num_threads=1
    )
    model.fit(csr_matrix(had, dtype=np.float32), show_progress=False)
    return np.asarray(model.user_factors @ model.item_factors.T)


def by_ours(had: Matrix, folder: Path, *overrides: str) -> Scores:
    """With the preset, as a user would; items that nobody had get no score."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder / "ratings.csv", "w", newline="") as file:
        csv.writer(file).writerows([("user", "item"), *zip(*np.nonzero(had), strict=True)])
    given = ["experiment=discriminative/recommend", f"data.path={folder}/ratings.csv", "data.valid_fraction=0"]
    genai.train("discriminative", *given, f"run.dir={folder}/run", *overrides, console=Console(quiet=True))
    trained = open_trained(folder / "run")
    spec, runtime = trained.spec, trained.runtime
    users = torch.arange(spec.cond["input"].classes)
    request = Request(count=len(users), cond={"input": users.to(runtime.device)}, generators=[], device=runtime.device)
    with torch.inference_mode():
        found = trained.model.draw(request).cpu().numpy()
    scores = np.full(had.shape, -np.inf)
    scores[:, np.array(spec.names, dtype=int)] = found
    return scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("ratings"))
    parser.add_argument("--peers", type=int, default=1, help="0: ours alone")
    parser.add_argument("overrides", nargs="*", help="settings of ours")
    given = parser.parse_args()
    if given.peers and importlib.util.find_spec("implicit") is None:
        print("not measured, implicit is not installed: pip install implicit")
        return
    rows, _ = fetched(given.folder)
    users, items = (np.unique([row[i] for row in rows], return_inverse=True)[1] for i in (0, 1))
    print(f"{len(rows):,} ratings of {users.max() + 1} users and {items.max() + 1} items")
    totals: dict[str, list[float]] = {}
    for seed in range(given.seeds):
        parts = parts_of(users, seed)
        learned, chosen, tested = (np.zeros((users.max() + 1, items.max() + 1), dtype=bool) for _ in range(3))
        for part, matrix in enumerate((learned, chosen, tested)):
            matrix[users[parts == part], items[parts == part]] = True

        def searched(by: Callable[..., Scores], grid: list[tuple[float, ...]]) -> tuple[float, ...]:
            figures = [measured(by(learned, *each), learned, chosen)["ndcg_at_10"] for each in grid]  # noqa: B023
            return grid[int(np.argmax(figures))]

        peers: dict[str, Callable[[Matrix], Scores]] = {
            "popularity": lambda had: np.tile(had.sum(0).astype(float), (len(had), 1))
        }
        if given.peers:
            als, bpr = searched(by_als, ALS), searched(by_bpr, BPR)
            print(f"seed {seed}: ALS by {als}, BPR by {bpr} of {len(ALS)} and {len(BPR)} settings")
            peers["implicit ALS"] = lambda had, als=als: by_als(had, *als)  # type: ignore[misc]
            peers["implicit BPR"] = lambda had, bpr=bpr: by_bpr(had, *bpr)  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:
            peers["ours"] = lambda had: by_ours(had, Path(folder) / "ours", *given.overrides)
            for name, by in peers.items():
                for told, had in (("8 parts", learned), ("9 parts", learned | chosen)):
                    start = time.perf_counter()
                    scores = by(had)
                    seconds = time.perf_counter() - start
                    found = measured(scores, learned | chosen, tested)
                    totals.setdefault(f"{name}, {told}", []).append(found["ndcg_at_10"])
                    print(
                        f"seed {seed}  {name:13s} {told}  NDCG@10 {found['ndcg_at_10']:.4f}  HR@10 "
                        f"{found['hit_rate_at_10']:.4f}  recall@10 {found['recall_at_10']:.4f}  {seconds:.1f} s",
                        flush=True,
                    )
    for name, values in totals.items():
        print(f"mean of {len(values)}  {name}: NDCG@10 {np.mean(values):.4f}")
    if given.peers:
        below = [
            told for told in ("8 parts", "9 parts")
            if np.mean(totals[f"ours, {told}"]) < np.mean(totals[f"implicit ALS, {told}"])
        ]  # fmt: skip
        print(f"limit: ALS ({'missed' if below else 'reached'})")
        sys.exit(1 if below else 0)


if __name__ == "__main__":
    main()
