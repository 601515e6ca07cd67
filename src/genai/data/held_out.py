"""Which samples are held out of a set that has no test part of its own."""

from __future__ import annotations

import hashlib

import numpy as np


def split_state(split_seed: int) -> np.random.RandomState:
    """The stream of RandomState is frozen, so a split is the same under every version of numpy."""
    return np.random.RandomState(
        np.frombuffer(hashlib.sha256(f"split {split_seed}".encode()).digest(), dtype=np.uint32)
    )


def split_ids(n: int, valid_fraction: float, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the training and of the held-out samples, each in rising order; at least one of each where n allows."""
    count = min(n - 1, max(1, round(n * valid_fraction))) if valid_fraction > 0 else 0
    shuffled = split_state(split_seed).permutation(n)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])
