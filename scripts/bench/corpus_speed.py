"""A training step of a Transformer on a text whose ids lie on the disk, over one on a text in memory.

    python scripts/bench/corpus_speed.py [--device auto] [--rounds 8] [--steps 40] [--copies 300]

The large text is the built-in Shakespeare again and again, its ids a file of which nothing is in memory when a round
begins ($TMPDIR must lie on a disk); each step reads windows from all over it. Rounds alternate in one process, the
figure is the median of ratios.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import tempfile
from pathlib import Path

from genai import device
from genai.config import compose_train
from genai.data import texts
from genai.data.packaged import open_shakespeare
from genai.data.source import open_data
from own import own_trainer, parser, seconds_a_step

LIMIT_RATIO = 0.9


def _forget(folder: Path) -> None:
    """Leaves nothing of these files in memory; of one that is mapped something would stay."""
    gc.collect()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    given = parser(rounds=8, steps=40, copies=300).parse_args()
    runtime = device.start(given.device)
    ratios, times = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENAI_DATA"] = folder
        small, large = Path(folder) / "small.txt", Path(folder) / "large.txt"
        plays = open_shakespeare(compose_train("transformer", []).data)
        small.write_text("".join(plays.parts()), encoding="utf-8")
        with large.open("wb") as file:
            for _ in range(given.copies):
                file.write(small.read_bytes())
        texts.RESIDENT_BYTES = small.stat().st_size * 2
        settings = [
            ["experiment=transformer/shakespeare_char", f"data.path={path}", "data.valid_fraction=0"]
            for path in (small, large)
        ]
        open_data(compose_train("transformer", settings[1]).data, predicts="data")  # makes its ids
        for number in range(given.rounds):
            _forget(Path(folder))
            found = []
            for name, overrides in zip("ab", settings, strict=True):
                data = open_data(compose_train("transformer", overrides).data, predicts="data")
                trainer = own_trainer("transformer", Path(folder) / f"{name}{number}", data, overrides, runtime)
                found.append(seconds_a_step(trainer, given.steps))
                del data, trainer
            times.append(found)
            ratios.append(found[0] / found[1])
    in_memory, on_disk = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"a step on a text in memory {1e3 * in_memory:.1f} ms, on one on the disk {1e3 * on_disk:.1f} ms: "
        f"{statistics.median(ratios):.2f} times as fast  (limit {LIMIT_RATIO})"
    )
    sys.exit(1 if statistics.median(ratios) < LIMIT_RATIO else 0)


if __name__ == "__main__":
    main()
