"""The entry of `genai` and `python -m genai`: runs a verb, and turns what goes wrong into lines and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    code = run(sys.argv[1:] if arguments is None else list(arguments))
    if code > 128:  # all is saved; a second Ctrl-C would only fill the terminal while the interpreter ends
        from genai.signals import STOP

        for number in STOP:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def spin_less() -> None:
    """Lets threads of OpenMP spin less while they wait, where torch has not loaded it yet: two trainings at once on two
    cores went from 65 to 160 pictures a second each, one alone stayed at 450."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    _accept_any_text()
    spin_less()
    stdout = sys.stdout
    debug = "--debug" in arguments
    try:  # from here on, since a Ctrl-C may come while the verbs are imported
        from genai.cli import app

        code = app(args=_completed(arguments), prog_name="genai", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except SystemExit as stop:
        # Typer's way out when the reader of stdout has left: it has what it wanted.
        left = sys.stdout is not stdout
        return 0 if left else stop.code if isinstance(stop.code, int) else 1
    except OSError as error:
        return _of_output(error, debug)
    except Exception as error:
        from genai.cli.failures import report

        return report(error, debug=debug, arguments=arguments)
    return code if isinstance(code, int) else 0


def _completed(arguments: list[str]) -> list[str]:
    """What a bare verb means: help for `genai`, the list for `genai runs` and `genai data`."""
    if not arguments:
        return ["--help"]
    if (
        arguments[0] in ("runs", "data")
        and (arguments[1:2] or ["--"])[0].startswith("--")
        and "--help" not in arguments
    ):
        return [arguments[0], "list", *arguments[1:]]
    if arguments == ["config"]:
        return ["config", "--help"]
    return arguments


def _accept_any_text() -> None:
    """Characters that the terminal's encoding lacks, and bytes of paths that are no text, are shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _of_output(error: OSError, debug: bool) -> int:
    """A failed write to stdout is told as such; any other OSError is a bug, since verbs name the file concerned."""
    from genai.cli.failures import report
    from genai.cli.options import silence_stdout
    from genai.errors import OutputError

    if error.errno == errno.EPIPE:
        silence_stdout()
        return 0
    if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT) and error.filename is None:
        silence_stdout()
        return report(
            OutputError(f"stdout cannot be written: {os.strerror(error.errno)}", fix="free space"), debug=debug
        )
    return report(error, debug=debug)


if __name__ == "__main__":
    main()
