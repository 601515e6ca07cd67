"""Prints how long `genai` takes to start: the whole process, the best of ten, with its budget.

python scripts/bench/startup.py
"""

from __future__ import annotations

import resource
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


def seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """The least wall and the least processor time of a process; other work on the machine only ever adds to them."""
    wall = processor = float("inf")
    for _ in range(REPEATS):
        began, used = time.perf_counter(), _children()
        subprocess.run([sys.executable, "-m", "genai", *arguments], check=True, capture_output=True)
        wall, processor = min(wall, time.perf_counter() - began), min(processor, _children() - used)
    return wall, processor


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    slow = 0
    for arguments, budget in BUDGETS_SECONDS.items():
        wall, processor = seconds(arguments)
        slow += wall > budget
        print(f"genai {' '.join(arguments):56} {wall:.3f} s, of the processor {processor:.3f} s  (budget {budget} s)")
    sys.exit(1 if slow else 0)


if __name__ == "__main__":
    main()
