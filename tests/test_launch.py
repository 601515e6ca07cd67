"""The launcher of one machine: environment, exit codes, signals, no orphans."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from genai.launch.local import Ended, run_ranks


def script(text: str) -> list[str]:
    return [sys.executable, "-c", "import os, sys, time, signal\nrank = int(os.environ['RANK'])\n" + text]


def test_every_rank_learns_its_place(tmp_path: Path) -> None:
    text = f"open(r'{tmp_path}/' + str(rank), 'w').write(os.environ['WORLD_SIZE'] + sys.stdin.readline())"
    assert run_ranks(script(text), 3, b" told\n") == Ended(0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]
    assert {p.read_text() for p in tmp_path.iterdir()} == {"3 told\n"}


@pytest.mark.parametrize("code", [1, 3, 5])
def test_the_code_of_the_first_failure_is_returned_and_the_others_are_ended(code: int) -> None:
    began = time.monotonic()
    got = run_ranks(script(f"if rank == 1: sys.exit({code})\ntime.sleep(0.1); sys.exit(10)"), 2)
    assert got == Ended(code, rank=1)
    assert time.monotonic() - began < 5


def test_a_killed_process_is_a_lost_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("genai.launch.local._GRACE_SECONDS", 0.3)
    text = f"open(r'{tmp_path}/' + str(rank), 'w').write(str(os.getpid()))\n"
    text += "os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)"
    began = time.monotonic()
    assert run_ranks(script(text), 2) == Ended(10, rank=1, killed_by=signal.SIGKILL)
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
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
open(r'{tmp_path}/ready' + str(rank), 'w').close()
while not count: time.sleep(0.01)
time.sleep(0.2)
open(r'{tmp_path}/' + str(rank), 'w').write(str(count))
sys.exit(143)
"""

    send_when_ready(tmp_path, signal.SIGTERM)
    assert run_ranks(script(text), 2) == Ended(143)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["1", "1"]


def send_when_ready(folder: Path, *numbers: int) -> None:
    def send() -> None:
        while len(list(folder.glob("ready*"))) < 2:
            time.sleep(0.01)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    threading.Thread(target=send).start()


READY = "open(r'{}/ready' + str(rank), 'w').close()\n"


def test_a_signal_before_a_process_answers_waits_for_it(tmp_path: Path) -> None:
    """As while it still imports and reads data: it ends by itself, and the code is the signal's."""
    text = READY.format(tmp_path) + "time.sleep(0.5)\nsignal.signal(signal.SIGTERM, lambda n, f: sys.exit(143))\n"
    text += "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\ntime.sleep(60)"
    send_when_ready(tmp_path, signal.SIGTERM)
    began = time.monotonic()
    assert run_ranks(script(text), 2) == Ended(143)
    assert 0.5 < time.monotonic() - began < 10


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    send_when_ready(tmp_path, signal.SIGINT, signal.SIGINT)
    began = time.monotonic()
    assert run_ranks(script(READY.format(tmp_path) + "time.sleep(60)"), 2) == Ended(130)
    assert time.monotonic() - began < 10


def test_a_failure_after_a_signal_is_not_hidden_by_it(tmp_path: Path) -> None:
    """A full disk, say, kept the last checkpoint from being saved."""
    text = "signal.signal(signal.SIGTERM, lambda n, f: sys.exit(7 if rank == 0 else 143))\n" + READY.format(tmp_path)
    text += "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\ntime.sleep(60)"
    send_when_ready(tmp_path, signal.SIGTERM)
    assert run_ranks(script(text), 2).code == 7
