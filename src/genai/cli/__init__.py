"""The verbs of `genai`, one small file each: they parse, call and print. Heavy imports wait until a verb runs."""

from __future__ import annotations

import typer

from genai.cli import config, data, doctor, evaluate, inspect, listing, resume, runs, sample, train

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


app.command("train")(train.train)
app.command("resume")(resume.resume)
app.command("sample")(sample.sample)
app.command("eval")(evaluate.evaluate)
app.add_typer(runs.app, name="runs")
app.command("list")(listing.names)
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
