"""What is measured on the way: the means of terms between two logs, and a speed that leaves pauses out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from genai.device import Runtime

Sums = tuple[list[str], list[float], int]  # names, sums, how many were added
_WINDOW = 20  # readings over which the speed that is shown is averaged


class Meters:
    """Sums of each update's terms since the last log: numbers where reading is free, else tensors on the device."""

    def __init__(self, prefixes: Sequence[str], runtime: Runtime) -> None:
        self._place = {prefix: number for number, prefix in enumerate(prefixes)}
        self._runtime = runtime
        self._sums: dict[str, tuple[list[str], list[Any], int]] = {}
        self._means: dict[str, float] = {}
        self.last: dict[str, float] = {}  # of every term, also of those that were not due of late

    def add(self, prefix: str, terms: Mapping[str, Tensor]) -> None:
        runtime = self._runtime
        values = [term.item() if runtime.looks_free else term.to(runtime.wide) for term in terms.values()]
        names, sums, count = self._sums.get(prefix, (list(terms), [0.0] * len(values), 0))
        self._sums[prefix] = (names, [a + b for a, b in zip(sums, values, strict=True)], count + 1)

    def means(self) -> dict[str, float]:
        """By <update>/<term>, in the order of the updates; the same again where nothing was added since."""
        if self._sums:
            ordered = sorted(self._sums.items(), key=lambda item: self._place.get(item[0], 0))
            self._means = {
                f"{prefix}/{name}": float(total) / count
                for prefix, (names, sums, count) in ordered
                for name, total in zip(names, sums, strict=True)
            }
            self._sums = {}
            self.last |= self._means
        return self._means

    def state(self) -> dict[str, Sums]:
        """What a checkpoint keeps, so that the first log of a resumed run is that of a run that was never stopped."""
        return {prefix: (names, [float(s) for s in sums], count) for prefix, (names, sums, count) in self._sums.items()}

    def restore(self, state: Mapping[str, Sums]) -> None:
        self._sums = {prefix: (list(names), list(sums), count) for prefix, (names, sums, count) in state.items()}


class Pace:
    """Samples a second of training alone: evaluation, saves and previews are pauses."""

    def __init__(self) -> None:
        self._paused_seconds = 0.0
        self._logged, self._speed = (0.0, 0), 0.0  # seconds and samples
        self._readings: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def start(self, samples: int) -> None:
        self._logged = (self._seconds(), samples)
        self._readings.append(self._logged)

    @contextmanager
    def pause(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused_seconds += time.monotonic() - began

    def since_log(self, samples: int) -> float:
        """Since the last call that came with more samples."""
        now, (before, counted) = self._seconds(), self._logged
        if samples > counted:
            self._speed = (samples - counted) / max(now - before, 1e-9)
            self._logged = (now, samples)
        return self._speed

    def reading(self, samples: int) -> float:
        """Smoothed over the last readings."""
        (before, counted), now = self._readings[0], self._seconds()
        self._readings.append((now, samples))
        return (samples - counted) / max(now - before, 1e-9)

    def age(self) -> float:
        """Seconds since the last reading."""
        return self._seconds() - self._readings[-1][0]

    def _seconds(self) -> float:
        return time.monotonic() - self._paused_seconds
