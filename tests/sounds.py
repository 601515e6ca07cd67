"""What the tests of sounds share: sounds in files, written by soundfile, and a look at what was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from genai.data.source import Dataset, open_data
from genai.schema import DataConfig, PathText

RANDOM = np.random.RandomState(0)


def config(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(name="path", path=PathText(str(path)), **settings)


def opened(path: Path | str, **settings: Any) -> Dataset:
    """All of it as the training part, unless told otherwise."""
    return open_data(config(path, **{"valid_fraction": 0.0, **settings}), predicts="data")


def noise(*shape: int) -> np.ndarray:
    return RANDOM.randint(-30000, 30000, shape).astype(np.int16)


def sine(hertz: float, seconds: float, rate: int, amplitude: float = 0.5) -> np.ndarray:
    """(n,) float64."""
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def save(path: Path, values: np.ndarray, rate: int = 8000, **how: Any) -> Path:
    """Values (n,) or (n, channels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate, **how)
    return path


def levels(split: Any) -> np.ndarray:
    """All sounds of a split as whole numbers (N, C, T)."""
    x = split.fetch(torch.arange(len(split))).x
    return np.rint(x.double().numpy() * float(split.units.scale)).astype(int)
