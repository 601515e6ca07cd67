"""What starting costs: what is imported, and the time of the whole process."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest


def imported(*arguments: str) -> set[str]:
    """Top-level names of all modules that a command line imports."""
    command = [sys.executable, "-X", "importtime", "-m", "genai", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in re.findall(r"^import time:.*\|\s*([\w.]+)$", done.stderr, re.MULTILINE)}


def test_help_imports_nothing_heavy() -> None:
    for arguments in (["--help"], ["train", "--help"], ["--version"]):
        names = imported(*arguments)
        assert "typer" in names  # control: the list is read
        assert not names & {"torch", "numpy", "hydra", "omegaconf", "yaml", "rich", "PIL", "safetensors"}


def test_a_dry_run_imports_neither_torch_nor_numpy() -> None:
    names = imported("train", "gan", "--dry-run")
    assert "hydra" in names
    assert not names & {"torch", "numpy", "rich", "PIL", "safetensors"}


def test_a_mistake_is_found_before_torch_is_imported() -> None:
    script = "import sys; from genai.__main__ import run; code = run(['train', 'gan', 'optim.lrr=1']); "
    done = subprocess.run(
        [sys.executable, "-c", script + "sys.exit(10 * ('torch' in sys.modules) + code)"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "budget"), [(["--help"], 0.25), (["train", "gan", "--dry-run"], 0.6)])
def test_starting_stays_within_its_budget(arguments: list[str], budget: float) -> None:
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "genai", *arguments], check=True, capture_output=True)
        best = min(best, time.perf_counter() - began)
    assert best <= budget
