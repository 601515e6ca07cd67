"""genai list [WHAT]: what can be named, with one line each."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from genai.cli.options import Debug, Json, Quiet, emit, emit_json

KINDS = {"models": "model", "data": "data", "nets": "net", "optimizers": "optim", "experiments": "experiment"}


def names(
    what: Annotated[
        Literal["models", "data", "nets", "optimizers", "experiments"] | None,
        typer.Argument(help="Default: everything.", show_default=False),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What can be named: models, data, nets, optimizers, experiments."""
    from genai.console import table_text

    found = {kind: _of(KINDS[kind]) for kind in ([what] if what else KINDS)}
    if json:
        emit_json(found if what is None else found[what])
        return
    tables = [table_text(kind if what is None else "", rows) for kind, rows in found.items()]
    emit("\n\n".join(tables))


def _of(group: str) -> list[dict[str, str]]:
    from genai import registry
    from genai.search_path import SearchPath, summary

    table = registry.components(group) if group in registry.TABLES else {}
    options = SearchPath.of().options(group)
    return [
        {"name": name, "what": table[name].help if name in table else summary(file)}
        for name, file in options.items()
        if not (group == "net" and name == "auto")
    ]
