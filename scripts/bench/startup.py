"""Prints how long `genai` takes to start: the whole process, the best of ten, with its budget.

    python scripts/bench/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

REPEATS = 10
BUDGETS_SECONDS = {
    ("--help",): 0.25,
    ("train", "--help"): 0.25,
    ("train", "gan", "--dry-run"): 0.6,
    ("train", "gan", "data=digits", "optim.lr=1e-4", "--dry-run"): 0.6,
}


def seconds(arguments: tuple[str, ...]) -> float:
    """The least wall time of a process in seconds; other work on the machine only ever adds to it."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "genai", *arguments], check=True, capture_output=True)
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    slow = 0
    for arguments, budget in BUDGETS_SECONDS.items():
        measured = seconds(arguments)
        slow += measured > budget
        print(f"genai {' '.join(arguments):60} {measured:.3f} s  (budget {budget} s)")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
