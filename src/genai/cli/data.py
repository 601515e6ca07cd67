"""genai data list | show | prepare | check: sets of data, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from genai.cli.options import Debug, Json, Quiet, emit, emit_json

app = typer.Typer(help="List, show, prepare and check sets of data.", rich_markup_mode=None)

What = Annotated[str, typer.Argument(metavar="NAME|PATH", help="A set's name, or a path to your own.")]
DataSettings = Annotated[
    list[str] | None,
    typer.Argument(metavar="data.KEY=VALUE", help="As in data.size=32.", show_default=False),
]


def _rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is known of a set, each note in a row of its own."""
    from genai.settings import flat

    told = {key: value for key, value in found.items() if key != "notes"}
    notes = [("note", note) for note in found.get("notes", ())]
    return [{"what": key, "is": value} for key, value in (*flat(told).items(), *notes)]


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
    from genai.console import Console, table_text
    from genai.data.check import describe
    from genai.data.downloaded import prepare

    config = compose_data(what, settings or [])
    prepare(config, Console(quiet=quiet))
    found = describe(config.name, config)
    if json:
        emit_json(found)
    else:
        emit(table_text("", _rows(found)))


@app.command("prepare")
def prepare_data(what: What, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Download and verify a set, and print its folder. Training does it by itself at first use."""
    from genai.config import compose_data
    from genai.console import Console
    from genai.data.downloaded import prepare
    from genai.data.sniff import existing, hub_name
    from genai.errors import ConfigError

    config = compose_data(what, [])
    if config.path is None and config.name == "path":
        raise ConfigError("data=path needs a path", fix="type genai data prepare PATH")
    if config.path is not None and (hub := hub_name(config.path)) is not None:
        from genai.data.hub import tables_of_hub

        tables_of_hub(hub)
    elif config.path is not None:
        existing(config.path)
    folder = prepare(config, Console(quiet=quiet))
    if json:
        emit_json({"name": config.name, "folder": None if folder is None else str(folder)})
    else:
        emit(f"nothing needs preparing: {what} is read where it is" if folder is None else str(folder))


@app.command()
def check(
    what: What, settings: DataSettings = None, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Read every file of a set and name what cannot be used; then the exit code is 3."""
    from genai.config import compose_data
    from genai.console import Console, table_text
    from genai.data.check import check as read_all
    from genai.data.downloaded import prepare
    from genai.errors import DataError

    config = compose_data(what, settings or [])
    prepare(config, Console(quiet=quiet))
    report = read_all(config)
    content = report.plain()
    if json:
        emit_json(content)
    else:
        told = {key: value for key, value in content.items() if key not in ("bad", "can_skip")}
        emit("\n".join([table_text("", _rows(told)), *(f"bad: {name}: {reason}" for name, reason in report.bad)]))
    if not report.good and not (report.can_skip and config.on_bad == "skip"):
        what = "1 file" if report.num_bad == 1 else f"{report.num_bad} of the files"
        skip = ", or train with data.on_bad=skip" if report.can_skip and config.on_bad == "error" else ""
        raise DataError(f"{what} cannot be used", path=config.path, fix=f"mend or remove them{skip}")
