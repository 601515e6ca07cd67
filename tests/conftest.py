"""Shared by all tests: the probes' plug-in is installed, no setting of the user's shell leaks in, and GPUs are seen by
the tests in test_accelerator.py alone: the other ones fork, and compare with figures of CPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genai.__main__ import spin_less

# As if it were installed with pip: the folder holds a package and its .dist-info with entry points.
PLUGIN = str(Path(__file__).parent / "plugin")
sys.path.insert(0, PLUGIN)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PLUGIN, os.environ.get("PYTHONPATH")]))


def _accelerators() -> dict[str, str] | None:
    """Environment in which a process sees the GPUs of this machine; None where there are none."""
    # Processes of pytest-xdist inherit what the first one has set.
    shown = os.environ.setdefault("GENAI_TEST_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    seen = {} if shown == "all" else {"CUDA_VISIBLE_DEVICES": shown}
    there = any(any(Path("/dev").glob(name)) for name in ("nvidia[0-9]*", "kfd", "dxg"))
    if there:  # perhaps: this torch, or the driver, may not know them
        asks = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
        told = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | seen
        there = subprocess.run(asks, env=told, check=False).returncode == 0
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return seen if there else None


ACCELERATORS = _accelerators()
spin_less()  # beside another process, threads of OpenMP that spin made a test of two seconds take eighty

# nohup, and shells that start something in the background, have signals ignored; so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GENAI_RUNS", "GENAI_DATA", "GENAI_MIRROR", "GENAI_FAULT", "GENAI_TEST_FAULTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
