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
from pathlib import Path

_RENDEZVOUS = "GENAI_RENDEZVOUS"  # read by genai.device, whose import would cost this process torch
_LOST_PEER = 10  # the exit code of a process whose peer went away
_GRACE_SECONDS = 10.0  # for the others to leave by themselves once one has ended
_KILL_SECONDS = 60.0  # for a save after a signal


def run_ranks(command: Sequence[str], count: int) -> int:
    """Runs `command` as `count` processes with RANK, WORLD_SIZE and a meeting place in their environment.

    SIGINT and SIGTERM are passed on. Returns 0 if all do, else the exit code of the process that failed first (a
    process that was killed by a signal it did not handle counts as 10, a lost peer).
    """
    meeting = tempfile.mkdtemp(prefix="genai-")
    url = (Path(meeting) / "rendezvous").as_uri()
    shared = {_RENDEZVOUS: url, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: object) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(count):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # The first process speaks for all; the others' words are kept for the case that only one of them fails.
            with open(Path(meeting) / f"{rank}.txt", "wb") as words:
                # A session of its own: the terminal's Ctrl-C reaches each process once, through `forward`.
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        start_new_session=True,
                        stdin=subprocess.PIPE,  # ends when this process does, however: see end_with_launcher
                        stderr=words if rank else None,
                    )
                )
        failed, code = _wait(processes)
        if failed > 0 and processes[0].returncode in (0, _LOST_PEER, None, -signal.SIGKILL):
            sys.stderr.write((Path(meeting) / f"{failed}.txt").read_text(errors="replace"))
        return code
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        shutil.rmtree(meeting, ignore_errors=True)


def end_with_launcher() -> None:
    """Called in each process that `run_ranks` started: ends it when the launcher is gone, even by `kill -9`.

    Without this its processes would train on, in a folder that is no longer locked.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os._exit(_LOST_PEER)

    threading.Thread(target=watch, daemon=True).start()


def _wait(processes: list[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Which process failed first, and the exit code of the job; (0, 0) when all is well."""
    failed_rank, first_failure, failed_at = 0, 0, 0.0
    while True:
        codes = [process.poll() for process in processes]
        failures = [(rank, code) for rank, code in enumerate(codes) if code]
        if failures and not first_failure:
            rank, code = failures[0]
            # A peer that only noticed the loss is not the cause of it.
            rank, code = next(((r, c) for r, c in failures if c != _LOST_PEER), (rank, code))
            failed_rank, failed_at = rank, time.monotonic()
            first_failure = _LOST_PEER if code < 0 else code
            if code < 0:
                print(f"warning: process {rank} of {len(codes)} was killed by signal {-code}", file=sys.stderr)
        if all(code is not None for code in codes):
            return failed_rank, first_failure
        if first_failure:
            waited = time.monotonic() - failed_at
            if waited > (_KILL_SECONDS if first_failure >= 128 else _GRACE_SECONDS):
                return failed_rank, first_failure
        time.sleep(0.02)
