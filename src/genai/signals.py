"""SIGINT and SIGTERM: who answers them, and when."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def answered_by(receive: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, both signals call `receive`, also those that were held back so far; afterwards what they called before.

    Outside the main thread nothing changes: whoever owns that decides.
    """
    before = {}
    try:
        for number in STOP:
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
    """Inside, SIGTERM raises KeyboardInterrupt as SIGINT does; the list that is yielded tells which one came."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with answered_by(receive):
        yield received


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, both signals wait until somebody answers them, also those of processes that are started there."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
