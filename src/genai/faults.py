"""Faults that tests ask for by name; nothing happens unless GENAI_TEST_FAULTS=1."""

from __future__ import annotations

import errno
import os
import signal
import time


def fault(point: str) -> str:
    """Acts out GENAI_FAULT=<action>@<point> where `point` is reached.

    `kill` ends the process as `kill -9` does, `hang` sleeps, `enospc` raises the OSError of a full disk. Any other
    action (`nan`, `oom`) is returned for the caller to act out; "" where nothing is asked for.
    """
    if os.environ.get("GENAI_TEST_FAULTS") != "1":
        return ""
    action, _, where = os.environ.get("GENAI_FAULT", "").partition("@")
    if where != point:
        return ""
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        time.sleep(3600)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return action
