"""Shared by all tests: the probes' plug-in is installed, and no setting of the user's shell leaks in."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from genai.__main__ import spin_less

# As if it were installed with pip: the folder holds a package and its .dist-info with entry points.
PLUGIN = str(Path(__file__).parent / "plugin")
sys.path.insert(0, PLUGIN)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PLUGIN, os.environ.get("PYTHONPATH")]))

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
