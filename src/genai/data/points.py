"""Points in the plane, drawn once with a fixed seed: mixtures whose modes and shapes are known exactly."""

from __future__ import annotations

import math

import numpy as np

from genai.data.source import Part, Source, refuse_foreign_settings
from genai.errors import ConfigError
from genai.schema import DataConfig

NUM_POINTS = 100_000  # many enough that a model meets each a few hundred times at most, small enough to be free
RING_DEVIATION = 0.01
GRID_DEVIATION = 0.05
MOONS_DEVIATION = 0.05


def ring_centres() -> np.ndarray:
    """(8, 2): on a circle of radius 1."""
    angle = np.arange(8) * (2 * math.pi / 8)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def grid_centres() -> np.ndarray:
    """(25, 2): from -4 to 4 in steps of 2."""
    side = np.arange(-4.0, 5.0, 2.0)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(25, 2)


def open_ring8(config: DataConfig) -> Source:
    # The mean square of a coordinate on the unit circle is 1/2.
    scale = math.sqrt(0.5 + RING_DEVIATION**2)
    return _mixture(config, ring_centres(), RING_DEVIATION, scale)


def open_grid25(config: DataConfig) -> Source:
    # (16 + 4 + 0 + 4 + 16) / 5 = 8.
    return _mixture(config, grid_centres(), GRID_DEVIATION, math.sqrt(8 + GRID_DEVIATION**2))


def open_moons(config: DataConfig) -> Source:
    """(cos t, sin t) and (1 - cos t, 1/2 - sin t) for t over half a turn, with noise; the label says which."""
    _refuse_path(config)
    half = NUM_POINTS // 2
    angle = (np.arange(half) + 0.5) * (math.pi / half)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.concatenate([upper, lower]) + _noise(NUM_POINTS) * MOONS_DEVIATION
    labels = np.repeat(np.arange(2, dtype=np.int64), half)
    # Of x: each moon has variance 1/2 about its centre, the centres are 1/2 from the mean of 1/2.
    # Of y: the mean of sin t is 2/pi, so the mean is 1/4 and the mean square (1/2 + 3/4 - 2/pi) / 2.
    variance_x = 0.5 + 0.25
    variance_y = (1.25 - 2 / math.pi) / 2 - 0.25**2
    scale = tuple(math.sqrt(v + MOONS_DEVIATION**2) for v in (variance_x, variance_y))
    part = Part(points.astype(np.float32), labels)
    return Source("moons", "points", part, classes=2, names=("upper", "lower"), scale=scale, offset=(0.5, 0.25))


def _mixture(config: DataConfig, centres: np.ndarray, deviation: float, scale: float) -> Source:
    """Equally many points around each centre."""
    _refuse_path(config)
    points = centres[np.arange(NUM_POINTS) % len(centres)] + deviation * _noise(NUM_POINTS)
    part = Part(points.astype(np.float32))
    return Source(config.name, "points", part, scale=(scale, scale), offset=(0.0, 0.0))


def _noise(n: int) -> np.ndarray:
    # The stream of RandomState is frozen: the points are the same under every version of numpy.
    return np.random.RandomState(0).standard_normal((n, 2))


def _refuse_path(config: DataConfig) -> None:
    if config.path is not None:
        raise ConfigError(f"data={config.name} is drawn and reads no file", fix="type data=path with data.path")
    refuse_foreign_settings(config, "points")
