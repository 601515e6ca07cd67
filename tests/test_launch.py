"""The launcher of one machine: environment, exit codes, signals, no orphans."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from genai.launch.local import run_ranks


def script(text: str) -> list[str]:
    return [sys.executable, "-c", "import os, sys, time, signal\nrank = int(os.environ['RANK'])\n" + text]


def test_every_rank_learns_its_place(tmp_path: Path) -> None:
    code = run_ranks(script(f"open(r'{tmp_path}/' + str(rank), 'w').write(os.environ['WORLD_SIZE'])"), 3)
    assert code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"3"}


@pytest.mark.parametrize("code", [1, 3, 5])
def test_the_code_of_the_first_failure_is_returned_and_the_others_are_ended(code: int) -> None:
    began = time.monotonic()
    got = run_ranks(script(f"if rank == 1: sys.exit({code})\ntime.sleep(0.1); sys.exit(10)"), 2)
    assert got == code
    assert time.monotonic() - began < 5


def test_a_killed_process_is_a_lost_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("genai.launch.local._GRACE_SECONDS", 0.3)
    text = f"open(r'{tmp_path}/' + str(rank), 'w').write(str(os.getpid()))\n"
    text += "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)"
    began = time.monotonic()
    assert run_ranks(script(text), 2) == 10
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0").read_text()), 0)


def test_a_signal_reaches_every_rank_once(tmp_path: Path) -> None:
    text = f"""
count = 0
def handle(n, f):
    global count
    count += 1
signal.signal(signal.SIGTERM, handle)
open(r'{tmp_path}/ready' + str(rank), 'w').close()
while not count: time.sleep(0.01)
time.sleep(0.2)
open(r'{tmp_path}/' + str(rank), 'w').write(str(count))
sys.exit(143)
"""

    def send() -> None:
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    assert run_ranks(script(text), 2) == 143
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["1", "1"]
