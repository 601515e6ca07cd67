"""A set of rows with a number to predict, as a table gives them: scikit-learn's patients with diabetes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

from genai.columns import Column
from genai.contract import Batch, Spec, value_spec
from genai.data.source import Dataset


class Rows:
    """Rows and numbers in model units; NaN where a number is not known."""

    streams = False
    file_of = None

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, index: Tensor) -> Batch:
        return Batch(x=self.y[index], cond={"input": self.x[index]}, index=index)

    def to(self, device: torch.device) -> Rows:
        return self


def dataset(
    x: np.ndarray, y: np.ndarray, train: Sequence[int], valid: Sequence[int], name: str = "progress"
) -> Dataset:
    """Rows and their numbers in data units, some to learn from and some held out."""
    mean, deviation = x[train].mean(0), x[train].std(0)
    column = Column("progress", "number", "target", mean=float(y[train].mean()), deviation=float(y[train].std()))
    given = Spec(
        kind="real", shape=x.shape[1:], modality="table", scale=tuple(deviation.tolist()), offset=tuple(mean.tolist())
    )
    spec = replace(value_spec(column), cond={"input": given}, num_samples=len(train))
    rows = torch.from_numpy((x - mean) / deviation).float()
    numbers = torch.from_numpy((y - column.mean) / column.deviation).float()
    digest = hashlib.sha256(rows.numpy().tobytes() + numbers.numpy().tobytes()).hexdigest()
    parts: list[Any] = [Rows(rows[list(part)], numbers[list(part)]) if len(part) else None for part in (train, valid)]
    return Dataset("diabetes", spec, parts[0], parts[1], digest, ())


def diabetes(held_out: int = 0) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The last `held_out` of 442 rows of ten values are held out; the training rows and their numbers."""
    x, y = load_diabetes(return_X_y=True)
    count = len(x) - held_out
    return dataset(x, y, range(count), range(count, len(x))), x[:count], y[:count]
