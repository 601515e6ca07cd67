"""Time of saving and loading a checkpoint beside torch.save and torch.load with the same guarantees.

    python scripts/bench/checkpoint_speed.py [--megabytes 200] [--rounds 5] [--folder DIR]

The reference writes one file with torch.save, syncs and hashes it; and hashes it, then reads it with torch.load.
Rounds are interleaved, so that both meet the same disk; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from genai import checkpoint as checkpoints

LIMIT_RATIO = 1.2


def reference_save(path: Path, groups: dict[str, dict[str, Tensor]]) -> None:
    torch.save(groups, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        hashlib.file_digest(file, "sha256")


def reference_load(path: Path) -> object:
    with open(path, "rb") as file:
        hashlib.file_digest(file, "sha256")
    return torch.load(path, weights_only=True)


def own_save(folder: Path, groups: dict[str, dict[str, Tensor]]) -> None:
    checkpoints.save(folder, step=1, model="bench", run_id="bench", tensors=groups, documents={"state": {}})


def own_load(folder: Path) -> object:
    found = checkpoints.newest(folder, warn=None)
    assert found is not None
    return [found.tensors(name) for name in ("model", "ema", "optim")]


def seconds(action: Callable[[], object]) -> float:
    os.sync()
    start = time.perf_counter()
    result = action()
    taken = time.perf_counter() - start
    del result  # freeing is not timed
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: the current folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the disk and the hashes are measured, not how OpenMP shares a busy machine
    # As a model with its average and Adam's two moments lies: one part, one part, two parts.
    values = arguments.megabytes * 250_000 // 4 // 20
    parts = {"model": 20, "ema": 20, "optim": 40}
    groups = {name: {f"t{i}": torch.randn(values) for i in range(count)} for name, count in parts.items()}
    home = Path(tempfile.mkdtemp(dir=arguments.folder or Path.cwd(), prefix=".bench-"))
    times: dict[str, list[float]] = {"save": [], "torch save": [], "load": [], "torch load": []}
    try:
        for number in range(arguments.rounds + 1):
            folder, file = home / f"own{number}", home / f"reference{number}"
            actions: dict[str, Callable[[], object]] = {
                "save": lambda folder=folder: own_save(folder, groups),  # type: ignore[misc]
                "torch save": lambda file=file: reference_save(file, groups),  # type: ignore[misc]
                "load": lambda folder=folder: own_load(folder),  # type: ignore[misc]
                "torch load": lambda file=file: reference_load(file),  # type: ignore[misc]
            }
            order = ["save", "torch save", "load", "torch load"]
            if number % 2:
                order = ["torch save", "save", "torch load", "load"]
            for key in order:
                taken = seconds(actions[key])
                if number:  # the first round warms up
                    times[key].append(taken)
            shutil.rmtree(folder)
            file.unlink()
    finally:
        shutil.rmtree(home)
    slow = 0
    for verb in ("save", "load"):
        ratios = [own / reference for own, reference in zip(times[verb], times[f"torch {verb}"], strict=True)]
        print(
            f"{verb}: {statistics.median(times[verb]):.3f} s, torch {statistics.median(times[f'torch {verb}']):.3f} s, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})  (limit {LIMIT_RATIO})"
        )
        slow += statistics.median(ratios) > LIMIT_RATIO
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
