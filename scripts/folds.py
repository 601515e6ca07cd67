"""Linear and kernel machines beside scikit-learn's on the same five folds, inputs standardised inside each.

    python scripts/folds.py

Accuracy on digits, breast cancer and wine, mean and deviation over the folds, and the seconds that a fit takes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from genai import device
from genai.config import compose_train
from genai.console import Console
from genai.contract import Prepares
from genai.data.source import Part, Source
from genai.data.split import build
from genai.factory import build_model
from genai.predictions import predicted
from genai.run import RunFolder
from genai.schema import SamplingConfig
from genai.trainer import Trainer

SETS = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}
PEERS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "logistic": (lambda: LogisticRegression(max_iter=10_000), []),
    "linear_svm": (lambda: LinearSVC(max_iter=100_000), []),
    "kernel_svm": (lambda: SVC(C=10.0), []),
}


def ours(kind: str, settings: list[str], train: Part, test: Part, classes: int, folder: Path) -> tuple[float, float]:
    """Accuracy, and the seconds of the fit."""
    overrides = [f"experiment=discriminative/{kind}", "trainer.eval_every=0", "trainer.save_every=0", *settings]
    config = compose_train("discriminative", [*overrides, f"run.dir={folder}"])
    runtime = device.start("cpu", config.dtype)
    data = build(Source("rows", "points", train, test=test, classes=classes), config.data, predicts="target")
    start = time.perf_counter()
    torch.manual_seed(0)
    model = build_model(config, data.spec)
    runtime.place(model)
    assert isinstance(model, Prepares)
    model.prepare(data.train.fetch, len(data.train), config.seed)
    run = RunFolder.create(config.run, model="discriminative")
    Trainer(model=model, data=data, config=config, runtime=runtime, console=Console(quiet=True), run=run).fit()
    seconds = time.perf_counter() - start
    assert data.valid is not None
    scores, labels = predicted(model, data.valid, runtime, SamplingConfig(batch_size=4096))
    return float((scores.argmax(1) == labels).mean()), seconds


def main() -> None:
    missed = False
    for name, load in SETS.items():
        x, y = load(return_X_y=True)
        x, y = x.astype(np.float32), y.astype(np.int64)
        folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(x, y))
        for kind, (peer, settings) in PEERS.items():
            found, theirs = [], []
            for train, test in folds:
                with tempfile.TemporaryDirectory() as folder:
                    parts = Part(x[train], y[train]), Part(x[test], y[test])
                    found.append(ours(kind, settings, *parts, int(y.max()) + 1, Path(folder) / "run"))
                start = time.perf_counter()
                fitted = make_pipeline(StandardScaler(), peer()).fit(x[train], y[train])
                theirs.append((fitted.score(x[test], y[test]), time.perf_counter() - start))
            own, other = np.array(found), np.array(theirs)
            good = own[:, 0].mean() >= other[:, 0].mean() - other[:, 0].std() / 2
            missed |= not good
            print(
                f"{name}, {kind}: {own[:, 0].mean():.4f} +- {own[:, 0].std():.4f} in {own[:, 1].mean():.2f} s, "
                f"scikit-learn {other[:, 0].mean():.4f} +- {other[:, 0].std():.4f} in {other[:, 1].mean():.2f} s"
                + ("" if good else "  (worse by more than half a deviation)")
            )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
