"""Starts the processes of one job on this machine, and ends them together."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genai.job import Place
from genai.signals import answered_by, held_back

LOST_PEER = 10  # the exit code of a process whose peer went away
_GRACE_SECONDS = 10.0  # for the others to leave by themselves once one has ended
_KILL_SECONDS = 60.0  # for a save after a signal


@dataclass(frozen=True)
class Ended:
    """How a job ended: 0, or the exit code of the process that failed, and the signal if one killed it."""

    code: int
    rank: int = 0
    killed_by: int = 0


def run_ranks(command: Sequence[str], count: int, message: bytes = b"") -> Ended:
    """Runs `command` as `count` processes with RANK, WORLD_SIZE and a meeting place in their environment, and `message`
    on their standard input.

    A first signal to stop is passed on, and the code is then 128 + signal unless a process failed for another
    reason; a second one kills them. A process that was killed by a signal it did not handle counts as a lost peer.
    """
    meeting = tempfile.mkdtemp(prefix="genai-")
    rendezvous = (Path(meeting) / "rendezvous").as_uri()
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number if len(received) == 1 else signal.SIGKILL)

    try:
        with answered_by(forward):
            for rank in range(count):
                environment = os.environ | Place(rank, count, rendezvous).environment()
                # The first process speaks for all; the others' words are kept for the case that only one of them fails.
                words = open(Path(meeting) / f"{rank}.txt", "wb") if rank else None  # noqa: SIM115
                with held_back():  # a signal waits until training answers it
                    process = subprocess.Popen(
                        command,
                        env=environment,
                        start_new_session=True,  # the terminal's Ctrl-C reaches each process once, through `forward`
                        stdin=subprocess.PIPE,  # ends when this process does, however: see end_with_launcher
                        stderr=words,
                    )
                    processes.append(process)
                if words is not None:
                    words.close()
                if received:
                    process.send_signal(received[0])
                with contextlib.suppress(BrokenPipeError):
                    assert process.stdin is not None
                    process.stdin.write(message)
                    process.stdin.flush()
            ended = _wait(processes)
        if received and (ended.killed_by or ended.code == LOST_PEER or ended.code > 128):
            return Ended(128 + received[0])
        if ended.rank > 0 and processes[0].returncode in (0, LOST_PEER, None, -signal.SIGKILL):
            sys.stderr.write((Path(meeting) / f"{ended.rank}.txt").read_text(errors="replace"))
        return ended
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        shutil.rmtree(meeting, ignore_errors=True)


def end_with_launcher() -> None:
    """Called in each process that `run_ranks` started, once it has read its message: ends it when the launcher is gone,
    even by `kill -9`.

    Without this its processes would train on, in a folder that is no longer locked.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os._exit(LOST_PEER)

    threading.Thread(target=watch, daemon=True).start()


def _wait(processes: list[subprocess.Popen[bytes]]) -> Ended:
    """Until all have ended, or have had their time to after one failed."""
    failed_at: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            break
        if any(codes):
            failed_at = failed_at or time.monotonic()
            patience = _KILL_SECONDS if any(code and code > 128 for code in codes) else _GRACE_SECONDS
            if time.monotonic() - failed_at > patience:
                break
        time.sleep(0.02)
    failures = [(code, rank) for rank, code in enumerate(codes) if code]
    # A reason of its own comes before a death, and both before having noticed a signal or the loss of a peer.
    own = [(code, rank) for code, rank in failures if 0 < code <= 128 and code != LOST_PEER]
    killed = [(code, rank) for code, rank in failures if code < 0]
    code, rank = next(iter([*own, *killed, *failures]), (0, 0))
    return Ended(LOST_PEER, rank, -code) if code < 0 else Ended(code, rank)
