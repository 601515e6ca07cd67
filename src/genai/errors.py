"""Errors a user can cause or meet, each with the exit code that the command line returns for it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Self

_ODD = re.compile(r"[,'\"\[\]{}\\$]|^\s|\s$")  # a name that holds this is quoted in a list


def to_resume(run: object) -> str:
    """What to type to go on with the run at this path."""
    return f"genai resume {shlex.quote(str(run))}"


def to_list(key: str, names: Iterable[str]) -> str:
    """What to type to set `key` to a list of names, whatever they hold."""
    plain = (name if name and not _ODD.search(name) else json.dumps(name, ensure_ascii=False) for name in names)
    return shlex.quote(f"{key}=[{','.join(plain)}]")


def counted(number: int, noun: str) -> str:
    """1 row, 2,000 rows."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


class GenaiError(Exception):
    """`what` was got and expected, `path` is the file concerned, `fix` is what to type."""

    exit_code = 1
    run: object = None  # the folder of the training that it ended

    def __init__(self, what: str, *, path: object = None, fix: str = "") -> None:
        self.what, self.path, self.fix = what, path, fix
        where = f" [{path}]" if path is not None else ""
        super().__init__(f"{what}{where}" + (f" - {fix}" if fix else ""))

    def with_fix(self, fix: str) -> Self:
        """The same with another remedy."""
        return type(self)(self.what, path=self.path, fix=fix)

    def lines(self) -> list[str]:
        """One line for each mistake."""
        return [" ".join(str(self).split())]


class ConfigError(GenaiError):
    """A flag, key, value or name that does not exist or does not fit."""

    exit_code = 2


class ConfigErrors(ConfigError):
    """Several mistakes of one configuration, told together (eight at most)."""

    limit = 8

    def __init__(self, mistakes: list[ConfigError]) -> None:
        self.mistakes = mistakes
        super().__init__("; ".join(str(mistake) for mistake in mistakes))

    def lines(self) -> list[str]:
        return [line for mistake in self.mistakes[: self.limit] for line in mistake.lines()]


class DataError(GenaiError):
    exit_code = 3


class CheckpointError(GenaiError):
    exit_code = 4


class NonFiniteError(GenaiError):
    exit_code = 5


class OutOfMemoryError(GenaiError):
    exit_code = 6


class OutputError(GenaiError):
    exit_code = 7


class BusyError(GenaiError):
    """The run folder is in use, or holds a run that would be overwritten."""

    exit_code = 8


class SecurityError(GenaiError):
    exit_code = 9


class PeerLostError(GenaiError):
    """A process of the same job died or fell silent."""

    exit_code = 10


class Interrupted(GenaiError):
    """Stopped by a signal after a checkpoint was saved; `signal` is its number (exit code 128 + signal)."""

    def __init__(self, what: str, *, signal: int, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal


class Reported(GenaiError):
    """Another process of this job has failed and has said why; only its exit code is left to pass on."""

    def __init__(self, exit_code: int, what: str | None = None) -> None:
        super().__init__(what or "a process of this job failed, its message is above")
        self.exit_code = exit_code

    def lines(self) -> list[str]:
        return []
