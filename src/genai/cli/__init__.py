"""The verbs of `genai`, one small file each: they parse, call and print. Heavy imports wait until a verb runs."""

from __future__ import annotations

import typer

from genai.cli.config import app as config
from genai.cli.data import app as data
from genai.cli.doctor import doctor
from genai.cli.evaluate import evaluate
from genai.cli.inspect import inspect
from genai.cli.listing import names
from genai.cli.resume import resume
from genai.cli.runs import app as runs
from genai.cli.sample import sample
from genai.cli.train import train

app = typer.Typer(
    name="genai",
    help="Train generative models and sample from them.",
    epilog="Start: genai train gan data=digits trainer.max_minutes=1, then genai sample.",
    rich_markup_mode=None,  # Rich would cost 50 ms of every start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        from genai import __version__

        typer.echo(f"genai {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Train generative models and sample from them."""


app.command("train")(train)
app.command("resume")(resume)
app.command("sample")(sample)
app.command("eval")(evaluate)
app.add_typer(runs, name="runs")
app.command("list")(names)
app.add_typer(config, name="config")
app.add_typer(data, name="data")
app.command("inspect")(inspect)
app.command("doctor")(doctor)
