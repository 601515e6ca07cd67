"""Errors as lines on stderr and exit codes. Typer's complaints about flags and verbs become lines of ours."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from genai.errors import ConfigError, ConfigErrors, GenaiError, Interrupted
from genai.schema import unknown

# Typer keeps its copy of Click private; the class of every usage error is the base of the one it exports.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def report(error: BaseException, *, debug: bool = False, arguments: Sequence[str] = ()) -> int:
    """Says what went wrong on stderr and returns the exit code. `arguments` are those of the command line."""
    if isinstance(error, UsageError):
        error = of_usage(error, arguments)
    if not isinstance(error, GenaiError):
        _say("".join(traceback.format_exception(error)).rstrip())
        _say("error: a bug of genai - please report it with the lines above")
        return 1
    if debug:
        _say("".join(traceback.format_exception(error)).rstrip())
    for line in error.lines():
        _say(line if isinstance(error, Interrupted) else f"error: {line}")
    return error.exit_code


def exit_code_of(error: BaseException) -> int:
    return error.exit_code if isinstance(error, GenaiError) else 1


def of_usage(error: Any, arguments: Sequence[str] = ()) -> ConfigError:
    """Typer's usage error as one of ours, with the nearest flag or verb; of several unknown flags each is told."""
    context = getattr(error, "ctx", None)
    command: Any = getattr(context, "command", None)
    path = getattr(context, "command_path", "genai")
    message = " ".join(error.format_message().split())
    flag = getattr(error, "option_name", None)
    if command is None:
        return ConfigError(message.rstrip("."), fix="type genai --help")
    if flag is not None and message.startswith("No such option"):
        known = _flags(command)
        typed = [argument.partition("=")[0] for argument in arguments if argument.startswith("--") and argument != "--"]
        wrong = dict.fromkeys([str(flag), *(name for name in typed if name not in known)])
        mistakes = [_unknown_flag(name, command) for name in wrong]
        return mistakes[0] if len(mistakes) == 1 else ConfigErrors(mistakes)
    word = re.match(r"No such command '(.*?)'\.?", message)
    if word is not None and hasattr(command, "commands"):
        return unknown("verb", word[1], command.commands)
    missing = re.match(r"Missing (?:argument|option|parameter) '?(.*?)'?\.?$", message)
    if missing is not None:
        return ConfigError(f"'{path}' needs {missing[1]}", fix=f"type {path} --help")
    misfit = re.match(r"Invalid value for (.*?): (?:Value error, )?(.*)", message)
    if misfit is not None:
        expected = re.sub(r"^Input should be a valid integer.*", "expected a whole number", misfit[2])
        message = f"{misfit[1]}: {expected.replace('Input should be', 'expected a number')}"
    return ConfigError(message.rstrip("."), fix=f"type {path} --help")


def _unknown_flag(flag: str, command: Any) -> ConfigError:
    from genai.cli.completion import keys

    # --max-steps is how other tools spell trainer.max_steps=
    name = flag.lstrip("-").replace("-", "_")
    key = next((key for key in keys() if key == name or key.rpartition(".")[2] == name), None)
    flags = _flags(command)
    if key is not None and flag not in flags and any(p.name in ("overrides", "arguments") for p in command.params):
        return ConfigError(f"unknown flag '{flag}'", fix=f"settings have no dashes: type {key}=VALUE")
    return unknown("flag", flag, flags)


def _flags(command: Any) -> set[str]:
    return {"--help", *(option for parameter in command.params for option in parameter.opts if option.startswith("-"))}


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return  # nobody reads stderr any more; the exit code still tells
