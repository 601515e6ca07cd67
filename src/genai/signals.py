"""SIGINT, SIGTERM and SIGHUP (a terminal that is closed): who answers them, and when."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def answered_by(receive: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, these signals call `receive`, also those that were held back so far; afterwards what they called before.
    A SIGHUP that nohup has this process ignore stays ignored.

    Outside the main thread nothing changes: whoever owns that decides.
    """
    before = {}
    try:
        for number in STOP:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupting() -> Iterator[list[int]]:
    """Inside, the others raise KeyboardInterrupt as SIGINT does; the list that is yielded tells which one came, as does
    the exception's argument."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt(number)

    with answered_by(receive):
        yield received


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, the signals wait until somebody answers them, also those of processes that are started there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
