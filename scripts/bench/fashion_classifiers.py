"""Classifiers of the complete Fashion-MNIST beside scikit-learn's: 60,000 pictures to learn from, 10,000 to test on.

    python scripts/bench/fashion_classifiers.py [data.path=FOLDER] [logistic linear_svm kernel_svm mlp cnn vit]

Prints a table: the share of the test set that is right, and the seconds of the whole command line that trains (ours,
with start-up, evaluation and checkpoint) or of the fit (scikit-learn's, on values standardised as ours are, which is
not counted). Kernel machines compare with 1,000 of the pictures (Nystroem's method) in both.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from genai.config import compose_train
from genai.factory import open_dataset

VALUES, ROWS = 784, 1000
GENAI = [sys.executable, "-m", "genai"]
ROWS_OF: dict[str, tuple[list[str], Callable[[], Any] | None]] = {
    # Its own tolerance is 1e-4 of the largest of 7,840 slopes. Both in single precision, as the pictures are given.
    "logistic": (["dtype=fp32", "trainer.grad_tolerance=3e-3"], lambda: LogisticRegression(max_iter=1000)),
    "linear_svm": (
        ["dtype=fp32", "optim=lbfgs", "trainer.grad_tolerance=3e-3"],
        lambda: LinearSVC(tol=1e-2),  # at its own 1e-4 it went on for a quarter of an hour
    ),
    "kernel_svm": (
        ["model.features=nystroem", f"model.num_features={ROWS}"],
        lambda: make_pipeline(
            Nystroem(gamma=1 / VALUES, n_components=ROWS, random_state=0), LinearSVC(C=10.0, tol=1e-2)
        ),
    ),
    "mlp": (
        [
            *("optim.weight_decay=0.01", "model.dropout=0", "model.label_smoothing=0"),  # the preset's are for few rows
            *("trainer.max_samples=600000", "trainer.batch_size=128", "trainer.ema_half_life_samples=20000"),
        ],
        lambda: MLPClassifier((128, 128), batch_size=128, max_iter=10, random_state=0),
    ),
    "cnn": (["model.augment=[mirror]", "model.dropout=0.1"], None),  # so many pictures need less to hold it back
    "vit": ([], None),
}


def ours(preset: str, settings: list[str], data: list[str], folder: Path) -> tuple[float, float]:
    """Of the test set right, and seconds."""
    start = time.perf_counter()
    command = [*GENAI, "train", "discriminative", f"experiment=discriminative/{preset}", "data=fashion_mnist_full"]
    subprocess.run([*command, *data, *settings, f"run.dir={folder}", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return last["valid/accuracy"], seconds


def main() -> None:
    warnings.filterwarnings("ignore", module="sklearn")
    data = [text for text in sys.argv[1:] if "=" in text]
    wanted = [text for text in sys.argv[1:] if "=" not in text] or list(ROWS_OF)
    overrides = ["experiment=discriminative/logistic", "data=fashion_mnist_full", *data]
    found = open_dataset(compose_train("discriminative", overrides), None)
    assert found.valid is not None
    parts = []
    for split in (found.train, found.valid):
        batch = split.fetch(torch.arange(len(split)))
        parts.append((batch.cond["input"].flatten(1).numpy(), batch.x.numpy()))
    (x, y), (x_test, y_test) = parts
    scaler = StandardScaler().fit(x)
    z, z_test = (scaler.transform(part).astype(np.float32) for part in (x, x_test))
    print("| | ours | seconds | scikit-learn | seconds |\n|---|---|---|---|---|", flush=True)
    for preset in wanted:
        settings, peer = ROWS_OF[preset]
        with tempfile.TemporaryDirectory() as folder:
            accuracy, seconds = ours(preset, settings, data, Path(folder) / "run")
        theirs = "| | |"
        if peer is not None:
            start = time.perf_counter()
            fitted = peer().fit(z, y)
            taken = time.perf_counter() - start
            theirs = f"| {fitted.score(z_test, y_test):.4f} | {taken:.0f} |"
        print(f"| `{preset}` | {accuracy:.4f} | {seconds:.0f} {theirs}", flush=True)


if __name__ == "__main__":
    main()
