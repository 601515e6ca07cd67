"""genai data list | show | check: sets of data, before anything is trained on them."""

from __future__ import annotations

from typing import Annotated

import typer

from genai.cli.options import Debug, Json, Quiet, emit, emit_json

app = typer.Typer(help="List, show and check sets of data.", rich_markup_mode=None)

What = Annotated[str, typer.Argument(metavar="NAME|PATH", help="A set's name, or a path to your own.")]
DataSettings = Annotated[
    list[str] | None,
    typer.Argument(metavar="data.KEY=VALUE", help="As in data.size=32.", show_default=False),
]


@app.command("list")
def list_data(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """The sets that can be named."""
    from genai.cli.listing import names

    names("data", json)


@app.command()
def show(
    what: What, settings: DataSettings = None, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """What a set is: shape, counts, classes."""
    from genai.config import compose_data
    from genai.console import table_text
    from genai.data.check import describe
    from genai.settings import flat

    config = compose_data(what, settings or [])
    found = describe(config.name, config)
    emit_json(found) if json else emit(table_text("", [{"what": k, "is": v} for k, v in flat(found).items()]))


@app.command()
def check(
    what: What, settings: DataSettings = None, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Read every file of a set and name what cannot be used; then the exit code is 3."""
    from genai.config import compose_data
    from genai.console import table_text
    from genai.data.check import check as read_all
    from genai.errors import DataError
    from genai.settings import flat

    config = compose_data(what, settings or [])
    report = read_all(config)
    content = report.plain()
    if json:
        emit_json(content)
    else:
        rows = [{"what": key, "is": value} for key, value in flat(content).items() if key != "bad"]
        emit("\n".join([table_text("", rows), *(f"bad: {name}: {reason}" for name, reason in report.bad)]))
    if not report.good:
        raise DataError(
            f"{report.num_bad} of the files cannot be used",
            path=config.path,
            fix="mend or remove them, or train with data.on_bad=skip",
        )
