"""How many pictures a second a folder too large for memory gives, beside a plain DataLoader over Pillow.

    python scripts/bench/streaming.py [--pictures 1500] [--side 256] [--rounds 3]

Half of the pictures are JPEG, half PNG, 256 pixels a side, read at 64: emoji enlarged where the test data are at hand
($GENAI_TEST_DATA), else waves with noise. The plain loader is what torchvision's ImageFolder does: open, convert,
resize (bilinear, antialiased), crop, to a tensor; ours goes through the Loader that training uses. Both are
interleaved; the figure is the best of the rounds, because other work on the machine only ever takes away.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from genai.data import listed
from genai.data.loader import Loader
from genai.data.source import open_data
from genai.schema import DataConfig, PathText

SIZE, BATCH = 64, 50
WORKERS = (0, 1, 2)
LIMIT_PER_SECOND = 1000  # with the best number of workers on two cores


def make_pictures(folder: Path, count: int, side: int) -> None:
    emoji = Path(os.environ.get("GENAI_TEST_DATA") or "none") / "emoji_64.npz"
    known = np.load(emoji, allow_pickle=False)["images"] if emoji.is_file() else None
    random = np.random.RandomState(0)
    y, x = np.mgrid[:side, :side]
    for i in range(count):
        if known is not None:
            picture = Image.fromarray(known[i % len(known)]).resize((side, side), Image.Resampling.BICUBIC)
        else:
            waves = [np.sin(x * random.rand() / 9) * np.cos(y * random.rand() / 9) * 110 + 128 for _ in range(3)]
            picture = Image.fromarray((np.stack(waves, axis=-1) + 8 * random.rand(side, side, 3)).astype(np.uint8))
        picture.save(folder / (f"{i}.jpg" if i % 2 else f"{i}.png"))


class Plain(Dataset[torch.Tensor]):
    """What a user would write."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.files[i]) as opened:
            image = opened.convert("RGB")
        scale = SIZE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


def plain_per_second(folder: Path, workers: int) -> float:
    loads = DataLoader(Plain(folder), batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True)
    began, count = 0.0, 0
    for number, batch in enumerate(loads):
        if number == 0:  # the workers have started
            began = time.perf_counter()
        else:
            count += len(batch)
    return count / (time.perf_counter() - began)


def ours_per_second(folder: Path, workers: int) -> float:
    listed.RESIDENT_BYTES = 0  # as if the set were too large
    config = DataConfig(name="path", path=PathText(str(folder)), size=SIZE, valid_fraction=0.0)
    split = open_data(config, predicts="data").train
    loads = Loader(
        split, seed=0, batch_size=BATCH, num_micro=1, first_micro=0, own_micro=1,
        device=torch.device("cpu"), dtype=torch.float32, workers=workers,
    )  # fmt: skip
    try:
        loads.take(0)
        began, count = time.perf_counter(), 0
        for position in range(BATCH, len(split) - BATCH + 1, BATCH):
            count += len(loads.take(position)[0])
        return count / (time.perf_counter() - began)
    finally:
        loads.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    best: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder, max(arguments.pictures, 2 * BATCH), arguments.side)
        for _ in range(arguments.rounds):
            for workers in WORKERS:
                for who, measure in (("ours", ours_per_second), ("plain", plain_per_second)):
                    best[who, workers] = max(best.get((who, workers), 0.0), measure(folder, workers))
    for workers in WORKERS:
        ours, plain = best["ours", workers], best["plain", workers]
        beside = f"a plain DataLoader {plain:,.0f} (ratio {ours / plain:.2f})"
        print(f"data.workers={workers}: {ours:,.0f} pictures a second, {beside}")
    most = max(best["ours", workers] for workers in WORKERS)
    print(f"at best {most:,.0f} pictures a second  (limit {LIMIT_PER_SECOND:,} on two cores)")
    sys.exit(1 if most < LIMIT_PER_SECOND else 0)


if __name__ == "__main__":
    main()
