"""Sounds as pictures of their spectra: time to the right, frequency upwards, loudness as brightness."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 80, 120  # pixels of one sound
_WINDOW_SECONDS = 0.032  # short enough for syllables, long enough for the partials of a voice
_SHORTEST_WINDOW = 2 * HEIGHT
_MOST_WINDOWS = 4  # that one column is the mean of
_RANGE_DECIBELS = 70.0  # from the brightest to black
_QUIETEST_PEAK = 1e-3  # of full scale: what is quieter altogether is not brought up to full brightness
_COLOURS = np.array(  # dark to light in equal steps of lightness (matplotlib's magma)
    [(0, 0, 4), (29, 17, 71), (81, 18, 124), (131, 38, 129), (183, 55, 121), (229, 80, 100), (252, 137, 97),
     (254, 194, 140), (252, 253, 191)]
)  # fmt: skip


def pictures(sounds: NDArray[np.int16], rate: int) -> NDArray[np.uint8]:
    """(N, C, T) -> (N, HEIGHT, WIDTH, 3), on one scale of loudness; channels are mixed."""
    found = np.stack([_powers(sound.mean(axis=0) / (1 << 15), rate) for sound in sounds])
    peak = max(float(found.max(initial=0.0)), _QUIETEST_PEAK**2)
    decibels = 10 * np.log10(np.maximum(found / peak, 10 ** (-_RANGE_DECIBELS / 10)))
    levels = 1 + decibels / _RANGE_DECIBELS
    steps = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(levels, steps, colour) for colour in _COLOURS.T], axis=-1).round().astype(np.uint8)


def axes(length: int, rate: int) -> tuple[str, str]:
    """What stands at the right end of the time axis and at the top of the frequency axis."""
    seconds, top = length / rate, rate / 2
    time = f"{seconds:.3g} s" if seconds >= 0.1 else f"{seconds * 1000:.3g} ms"
    return time, f"{top / 1000:.3g} kHz" if top >= 1000 else f"{top:g} Hz"


def _powers(values: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """(T,) -> (HEIGHT, WIDTH), the highest frequency first; a full-scale sine has a peak of 1."""
    size = max(_SHORTEST_WINDOW, 1 << round(math.log2(rate * _WINDOW_SECONDS)))
    each = min(_MOST_WINDOWS, max(1, math.ceil(len(values) / WIDTH / size)))
    centres = ((np.arange(WIDTH * each) + 0.5) * len(values) / (WIDTH * each)).astype(int)
    padded = np.pad(values, (size // 2, size))
    window = np.hanning(size)
    cut = padded[centres[:, None] + np.arange(size)] * (window * 2 / window.sum())
    powers = (np.abs(np.fft.rfft(cut, axis=1)) ** 2).reshape(WIDTH, each, -1).mean(axis=1)
    edges = np.linspace(0, powers.shape[1], HEIGHT, endpoint=False).astype(int)
    return np.maximum.reduceat(powers, edges, axis=1).T[::-1]
