"""How long it takes from Enter to the first training step of the default run, and to its last line.

    python scripts/bench/first_step.py

Each round is a fresh process in an empty folder; the median and the worst of the rounds are printed (limit 5 s).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS, LIMIT_SECONDS = 5, 5.0


def seconds(folder: Path) -> float:
    """From the start of the process until the first line of metrics.jsonl."""
    command = [sys.executable, "-m", "genai", "train", "gan", "trainer.max_steps=1", f"run.dir={folder}", "--quiet"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    # The one line holds the held-out terms too, so this is later than the step itself, never earlier.
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.005)
    found = time.perf_counter() - began
    if process.wait() != 0:
        raise SystemExit("the run failed")
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rounds = [seconds(Path(folder) / str(i)) for i in range(ROUNDS)]
    median = statistics.median(rounds)
    print(
        f"from Enter to the first training step: {median:.2f} s, at most {max(rounds):.2f} s  (limit {LIMIT_SECONDS} s)"
    )
    sys.exit(1 if median > LIMIT_SECONDS else 0)


if __name__ == "__main__":
    main()
