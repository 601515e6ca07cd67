"""Texts told apart: hashed n-grams in a linear machine and a small Transformer, beside scikit-learn's TF-IDF and linear
support vector machine on the same split; a number of molecules by ridge regression on the same n-grams, five folds.

    python scripts/bench/text_classifiers.py [FOLDER] [--parts linear network molecules]

FOLDER (default: $GENAI_TEST_DATA) holds reviews_en.csv and reviews_zh.csv (columns `label` and `text`) and
mol_freesolv.csv (`smiles` and `expt`). Seconds are those of one CPU, from the texts to the fitted model, evaluation and
start-up aside. The limits: no accuracy more than 0.5 points below scikit-learn's, no more than five times its seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which the first step of any optimizer imports: start-up
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.svm import LinearSVC

from genai import device
from genai.config import compose_train
from genai.console import Console
from genai.contract import Prepares
from genai.data.passages import Passages, build, open_passages
from genai.data.tabular import split_rows
from genai.factory import build_model
from genai.predictions import answers
from genai.schema import SamplingConfig
from genai.trainer import Trainer

LIMIT_POINTS, LIMIT_RATIO = 0.005, 5.0
SETS: dict[str, dict[str, Any]] = {
    "reviews_en": {"ngram_range": (1, 2)},
    "reviews_zh": {"analyzer": "char", "ngram_range": (1, 3)},
}
LINEAR, NETWORK = ["experiment=discriminative/text_linear"], ["experiment=discriminative/text"]
MOLECULES = ["experiment=discriminative/molecules"]
OF_MOLECULES = [*NETWORK, "data.field=smiles", "data.target=expt", "data.tokens=bytes", "data.vocab_size=null"]
FOLDS = 5


def texts(passages: Passages, column: str) -> list[str]:
    cells = passages.sheet.columns[column]
    return [cells.texts[code] for code in cells.codes]


def ours(passages: Passages, settings: list[str], path: Path) -> tuple[dict[str, float], float]:
    """Held-out figures, and the seconds of the fit."""
    config = compose_train(
        "discriminative", [*settings, f"data.path={path}", "threads=1", "trainer.eval_every=0", "trainer.save_every=0"]
    )
    runtime = device.start("cpu", config.dtype, threads=1)
    start = time.process_time()
    data = build(passages, config.data, predicts="target")
    torch.manual_seed(config.seed)
    model = build_model(config, data.spec)
    runtime.place(model)
    if isinstance(model, Prepares):
        model.prepare(data.train.fetch, len(data.train), config.seed)
    held_out, data = data.valid, replace(data, valid=None)
    trainer = Trainer(model=model, data=data, config=config, runtime=runtime, console=Console(quiet=True), run=None)
    trainer.fit()
    seconds = time.process_time() - start
    assert held_out is not None
    trainer.averaged.eval()
    return answers(trainer.averaged, held_out, runtime, SamplingConfig(batch_size=256)).figures(), seconds


def theirs(fit: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return fit(), time.process_time() - start


def of_classes(name: str, folder: Path, kinds: dict[str, list[str]]) -> bool:
    """Prints a line for each; whether one is over its limit."""
    path = folder / f"{name}.csv"
    config = compose_train("discriminative", [*LINEAR, f"data.path={path}"]).data
    passages = open_passages(path, config, name)
    x, y = texts(passages, "text"), np.array(texts(passages, "label"))
    train, test = split_rows(passages.sheet, config)
    vectoriser, machine = TfidfVectorizer(sublinear_tf=True, **SETS[name]), LinearSVC()
    _, limit = theirs(lambda: machine.fit(vectoriser.fit_transform([x[i] for i in train]), y[train]))
    peer = machine.score(vectoriser.transform([x[i] for i in test]), y[test])
    print(f"{name}, TF-IDF + LinearSVC: {peer:.4f} right in {limit:.1f} s", flush=True)
    over = False
    for kind, settings in kinds.items():
        figures, seconds = ours(passages, settings, path)
        told = f"{name}, {kind}: {figures['accuracy']:.4f} right, {figures['nll_nats']:.3f} nats, in {seconds:.1f} s"
        if kind == "linear":
            over |= figures["accuracy"] < peer - LIMIT_POINTS or seconds > LIMIT_RATIO * limit
            told += f" (limit {peer - LIMIT_POINTS:.4f} and {LIMIT_RATIO * limit:.1f} s)"
        print(told, flush=True)
    return over


def of_molecules(folder: Path, kinds: dict[str, list[str]]) -> bool:
    path = folder / "mol_freesolv.csv"
    config = compose_train("discriminative", [*MOLECULES, f"data.path={path}"])
    passages = open_passages(path, config.data, "freesolv")
    x, y = texts(passages, "smiles"), np.array(texts(passages, "expt"), dtype=float)
    found: dict[str, list[tuple[float, float]]] = {}
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        counter = CountVectorizer(analyzer="char", ngram_range=(1, config.model.characters), lowercase=False)
        rows, others = (
            counter.fit_transform([x[i] for i in train]).astype(float),
            counter.transform([x[i] for i in test]),
        )
        rows.data, others = 1 + np.log(rows.data), others.astype(float)
        others.data = 1 + np.log(others.data)
        predicted = Ridge().fit(rows, y[train]).predict(others)
        error = np.mean((predicted - y[test]) ** 2)
        found.setdefault("scikit-learn's ridge", []).append((float(np.sqrt(error)), float(1 - error / y[test].var())))
        own = replace(passages, sheet=replace(passages.sheet.take(np.concatenate([train, test])), held_out=len(test)))
        for kind, settings in kinds.items():
            figures, _ = ours(own, settings, path)
            found.setdefault(kind, []).append((figures["rmse"], figures["r2"]))
    for kind, values in found.items():
        (error, r2), spread = np.mean(values, axis=0), np.std(values, axis=0)
        print(
            f"freesolv, {kind}: RMSE {error:.3f} +- {spread[0]:.3f} kcal/mol, R2 {r2:.3f} +- {spread[1]:.3f}",
            flush=True,
        )
    peer, own_errors = (np.mean(found[kind], axis=0)[0] for kind in ("scikit-learn's ridge", "ridge"))
    return bool(own_errors > 1.02 * peer)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=os.environ.get("GENAI_TEST_DATA", ""))
    parser.add_argument("--parts", nargs="*", default=["linear", "network", "molecules"])
    given = parser.parse_args()
    folder = Path(given.folder)
    if not (folder / "reviews_en.csv").is_file():
        print("not measured: name the folder of reviews_en.csv, reviews_zh.csv and mol_freesolv.csv")
        return
    kinds = {kind: settings for kind, settings in (("linear", LINEAR), ("network", NETWORK)) if kind in given.parts}
    over = False
    for name in SETS if kinds else ():
        over |= of_classes(name, folder, kinds)
    if "molecules" in given.parts:
        networks = {"network": OF_MOLECULES} if "network" in given.parts else {}
        over |= of_molecules(folder, {"ridge": MOLECULES, **networks})
    sys.exit(over)


if __name__ == "__main__":
    main()
