"""genai doctor: what is installed, and whether the device computes what the CPU computes."""

from __future__ import annotations

import typer

from genai.cli.options import Debug, Json, Quiet, emit, emit_json


def doctor(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Check versions, devices and threads. Each device trains a little, compared with the CPU."""
    from genai import api
    from genai.console import table_text

    rows = [{"what": what, "found": found, "good": good} for what, found, good in api.doctor()]
    if json:
        emit_json(rows)
    else:
        emit(table_text("", [{**row, "good": "yes" if row["good"] else "NO"} for row in rows]))
    if not all(row["good"] for row in rows):
        raise typer.Exit(1)
