"""genai config show | where | schema: the settings themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from genai.cli.options import ConfigDirs, Debug, Json, ModelName, Quiet, Settings, emit, emit_json

app = typer.Typer(help="Show settings, find the file that sets them, print their schema.", rich_markup_mode=None)


@app.command()
def show(
    model: ModelName,
    overrides: Settings = None,
    config_dir: ConfigDirs = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The checked settings of a run, as YAML."""
    from genai import config as configs
    from genai.schema import plain

    config = configs.compose_train(model, overrides or [], config_dir or [])
    emit_json(plain(config)) if json else emit(configs.to_yaml(config).rstrip())


@app.command()
def where(
    choice: Annotated[str, typer.Argument(metavar="GROUP=NAME", help="As in optim=adam.")],
    config_dir: ConfigDirs = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The file that GROUP=NAME reads."""
    from genai.search_path import where as find

    path = str(find(choice, config_dir or []))
    emit_json({"choice": choice, "path": path}) if json else emit(path)


@app.command()
def schema(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """A JSON Schema of all settings, for editors."""
    from genai.cli.json_schema import json_schema

    emit_json(json_schema())
