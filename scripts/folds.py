"""Linear machines, kernel machines and small networks beside scikit-learn's on the same five folds, inputs standardised
inside each.

    python scripts/folds.py [PART_OF_A_NAME ...]

Accuracy on digits, breast cancer and wine, R2 on diabetes: mean and deviation over the folds, and the median of the
seconds that a fit takes (the model built, prepared, trained and evaluated), over those of scikit-learn's. With names,
only rows that hold one of them ("digits, logistic").
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from genai import device
from genai.columns import Column
from genai.config import compose_train
from genai.console import Console
from genai.contract import Batch, Prepares, Spec, value_spec
from genai.data.source import Dataset, Part, Source
from genai.data.split import build
from genai.factory import build_model
from genai.predictions import answers
from genai.schema import SamplingConfig
from genai.trainer import Trainer

SETS = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine, "diabetes": load_diabetes}
NETWORK = ["experiment=discriminative/mlp"]
OF_A_NUMBER = ["model.label_smoothing=0", "trainer.max_samples=15000", "optim.weight_decay=10"]
PLAIN = ["model.hinge=plain", "optim=lbfgs", "optim.tolerance_change=1e-8", "dtype=fp64"]
Rows = dict[str, tuple[Callable[[], Any], list[str]]]
OF_CLASSES: Rows = {
    "logistic": (lambda: LogisticRegression(max_iter=10_000), ["experiment=discriminative/logistic"]),
    "linear_svm": (lambda: LinearSVC(max_iter=100_000), ["experiment=discriminative/linear_svm"]),
    "kernel_svm": (lambda: SVC(C=10.0), ["experiment=discriminative/kernel_svm"]),
    "mlp": (lambda: MLPClassifier(max_iter=2000, random_state=0), NETWORK),
}
OF_NUMBERS: Rows = {
    "ridge": (Ridge, ["experiment=discriminative/ridge", "data=digits"]),
    "svr": (lambda: SVR(kernel="linear"), ["experiment=discriminative/svr", "data=digits"]),
    "kernel_svm": (
        lambda: SVR(C=100.0),
        ["experiment=discriminative/kernel_svm", *PLAIN, "model.C=100"],
    ),
    "mlp": (lambda: MLPRegressor(max_iter=2000, random_state=0), [*NETWORK, *OF_A_NUMBER]),
}


class Numbers:
    """Rows (N, D) and what is predicted from them (N,), in model units."""

    streams, file_of = False, None

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = torch.from_numpy(x).float(), torch.from_numpy(y).float()

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, index: torch.Tensor) -> Batch:
        return Batch(x=self.y[index], cond={"input": self.x[index]}, index=index)

    def to(self, device: torch.device) -> Numbers:
        return self


def of_numbers(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> Dataset:
    mean, deviation = x[train].mean(0), x[train].std(0)
    column = Column("y", "number", "target", mean=float(y[train].mean()), deviation=float(y[train].std()))
    z, numbers = (x - mean) / deviation, (y - column.mean) / column.deviation
    given = Spec(kind="real", shape=x.shape[1:], modality="table")
    spec = replace(value_spec(column), cond={"input": given}, num_samples=len(train))
    return Dataset("rows", spec, Numbers(z[train], numbers[train]), Numbers(z[test], numbers[test]), "", ())


def ours(settings: list[str], open_data: Callable[[Any], Dataset]) -> tuple[float, float]:
    """Accuracy, or R2, and the seconds of the fit."""
    overrides = [*settings, "trainer.eval_every=0", "trainer.save_every=0"]
    config = compose_train("discriminative", overrides)
    runtime = device.start("cpu", config.dtype, threads=config.threads)
    data = open_data(config)
    start = time.perf_counter()
    torch.manual_seed(0)
    model = build_model(config, data.spec)
    runtime.place(model)
    assert isinstance(model, Prepares)
    model.prepare(data.train.fetch, len(data.train), config.seed)
    trainer = Trainer(model=model, data=data, config=config, runtime=runtime, console=Console(quiet=True), run=None)
    trainer.fit()
    seconds = time.perf_counter() - start
    assert data.valid is not None
    found = answers(trainer.averaged.eval(), data.valid, runtime, SamplingConfig(batch_size=4096)).figures()
    return float(found["r2"] if "r2" in found else found["accuracy"]), seconds


def compared(x: np.ndarray, y: np.ndarray, peer: Callable[[], Any], settings: list[str]) -> tuple[np.ndarray, ...]:
    """(folds, 2) of ours and of scikit-learn's: how good, and in how many seconds."""
    found, theirs = [], []
    numbers = y.dtype != np.int64
    folds = KFold if numbers else StratifiedKFold
    for train, test in folds(5, shuffle=True, random_state=0).split(x, y):

        def opened(config: Any, train: np.ndarray = train, test: np.ndarray = test) -> Dataset:
            if numbers:
                return of_numbers(x, y, train, test)
            rows = x.astype(np.float32)
            parts = Part(rows[train], y[train]), Part(rows[test], y[test])
            source = Source("rows", "points", parts[0], test=parts[1], classes=int(y.max()) + 1)
            return build(source, config.data, predicts="target")

        found.append(ours(settings, opened))
        start = time.perf_counter()
        fitted = make_pipeline(StandardScaler(), peer()).fit(x[train], y[train])
        theirs.append((fitted.score(x[test], y[test]), time.perf_counter() - start))
    return np.array(found), np.array(theirs)


def main() -> None:
    warnings.filterwarnings("ignore", module="sklearn")
    wanted, missed = sys.argv[1:], False
    for name, load in SETS.items():
        x, y = load(return_X_y=True)
        y = y.astype(np.float64 if name == "diabetes" else np.int64)
        for kind, (peer, settings) in (OF_NUMBERS if name == "diabetes" else OF_CLASSES).items():
            if wanted and not any(part in f"{name}, {kind}" for part in wanted):
                continue
            own, other = compared(x, y, peer, settings)
            good = own[:, 0].mean() >= other[:, 0].mean() - other[:, 0].std() / 2
            missed |= not good
            seconds = np.median(own[:, 1]), np.median(other[:, 1])
            print(
                f"{name}, {kind}: {own[:, 0].mean():.4f} +- {own[:, 0].std():.4f} in {seconds[0]:.3f} s, "
                f"scikit-learn {other[:, 0].mean():.4f} +- {other[:, 0].std():.4f} in {seconds[1]:.3f} s, "
                f"{seconds[0] / seconds[1]:.1f} times" + ("" if good else "  (worse by more than half a deviation)"),
                flush=True,
            )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
