"""Name -> class and settings, for models, nets, data and optimizers: built-in tables + entry points. No torch.

A built-in component is a row in the `COMPONENTS` table of its package. A plug-in is an entry point in `genai.models`,
`genai.nets` or `genai.data` that names its class, a YAML in a package named by an entry point in `genai.configs`, and,
if its keys need more than the types of its YAML, a dataclass named by an entry point in `genai.schemas`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from genai.errors import ConfigError
from genai.schema import unknown

TABLES = {"model": "genai.models", "net": "genai.nets", "data": "genai.data", "optim": "genai.optim_table"}
_NOUNS = {"model": "model", "net": "net", "data": "data set", "optim": "optimizer"}


@dataclass(frozen=True)
class Component:
    """One thing that can be named: `target` and `schema` are `module:attribute`, imported when used."""

    target: str
    help: str
    schema: str = ""
    modality: str = ""  # of data: what its samples are


@cache
def components(group: str) -> dict[str, Component]:
    """All components of model, net, data or optim, built-in ones first."""
    table: dict[str, Component] = dict(importlib.import_module(TABLES[group]).COMPONENTS)
    schemas = {e.name: e.value for e in _installed().select(group="genai.schemas")}
    for entry in _installed().select(group=TABLES[group]):
        if entry.name not in table:
            source = entry.dist.name if entry.dist else "a plug-in"
            table[entry.name] = Component(entry.value, f"from {source}", schemas.get(entry.name, ""))
    return table


def find(group: str, name: str) -> Component:
    table = components(group)
    if name not in table:
        raise unknown(_NOUNS[group], name, table)
    return table[name]


def load(reference: str) -> Any:
    """The attribute behind `module:attribute`; the modules come from our tables or installed entry points only."""
    try:
        return EntryPoint(name="", group="", value=reference).load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"'{reference}' cannot be imported: {error}", fix="reinstall the plug-in") from error


def config_packages() -> list[str]:
    """Packages of plug-ins that hold configs."""
    return [entry.value for entry in _installed().select(group="genai.configs")]


@cache
def _installed() -> Any:
    """All entry points: one pass over the installed distributions, which costs milliseconds for each call."""
    return entry_points()
