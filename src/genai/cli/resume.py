"""genai resume RUN [KEY=VALUE ...]: go on with a run, also with changed settings."""

from __future__ import annotations

from genai.cli.options import Debug, Json, Quiet, RunAndSettings, emit, emit_json, run_and_settings


def resume(
    arguments: RunAndSettings = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a run from its newest good checkpoint. Changed settings are shown and recorded."""
    from genai import api
    from genai.cli.runs import record_of
    from genai.console import Console

    run, settings = run_and_settings(arguments)
    # Without a console given, the API makes one that knows the run's own log_seconds.
    folder = api.resume(run or "@last", *settings, console=Console(quiet=True) if quiet else None)
    emit_json(record_of(folder.path)) if json else emit(str(folder.path))
