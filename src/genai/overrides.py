"""KEY=VALUE as people type it, read: what Hydra is told in the grammar of its overrides, and every mistake."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genai.errors import ConfigError
from genai.registry import TABLES
from genai.schema import unknown
from genai.search_path import GROUPS, SearchPath
from genai.settings import TextKeys, text_keys

KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*", re.ASCII)
LONGEST_VALUE = 20_000  # characters that Hydra's grammar is asked to read
DEEPEST_VALUE = 30  # opening brackets: beyond it, the grammar exhausts Python's stack
NOUNS = {"data": "data set", "optim": "optimizer", "experiment": "preset", "net": "net"}


BUDGETS = ("trainer.max_steps", "trainer.max_samples", "trainer.max_minutes")


@dataclass
class Arguments:
    """KEY=VALUE arguments, read: what Hydra is told, what each sweep holds, and all mistakes."""

    choices: dict[str, str] = field(default_factory=dict)  # group -> value in Hydra's grammar
    settings: dict[str, str] = field(default_factory=dict)  # dotted key -> value in Hydra's grammar
    values: dict[str, Any] = field(default_factory=dict)  # dotted key -> value, of settings that are no sweep
    swept: dict[str, list[Any]] = field(default_factory=dict)  # dotted key -> values
    swept_choices: dict[str, list[str]] = field(default_factory=dict)
    ranges: set[str] = field(default_factory=set)  # dotted keys whose values a sweeper chooses from a range
    for_hydra: list[str] = field(default_factory=list)  # hydra/launcher=..., passed on as typed
    mistakes: list[ConfigError] = field(default_factory=list)

    def hydra(self, search: SearchPath, model: str | None, *, first_job: bool = False) -> list[str]:
        """The overrides for Hydra; with `first_job` the first value of every sweep."""
        choices, settings = dict(self.choices), dict(self.settings)
        if first_job:
            choices |= {group: _bare_or_quoted(names[0]) for group, names in self.swept_choices.items()}
            settings |= {key: _in_grammar(values[0]) for key, values in self.swept.items()}
            settings = {key: value for key, value in settings.items() if key not in self.ranges}
        result = [f"hydra.searchpath=[{','.join(_quoted(url) for url in search.urls())}]"] if search.urls() else []
        result += [f"model={_bare_or_quoted(model)}"] if model is not None else []
        result += [f"{group}={value}" for group, value in choices.items()]
        result += [f"++{key}={value}" for key, value in settings.items()]
        return result + ([] if first_job else self.for_hydra)


def read_arguments(
    model: str | None,
    overrides: Sequence[str],
    search: SearchPath,
    *,
    sweep: bool,
    groups: Sequence[str] = GROUPS,
    keys: TextKeys | None = None,
) -> Arguments:
    """Raises ConfigError at once only for a model that does not exist; other mistakes are collected."""
    if model is not None:
        models = search.options("model")
        if model not in models:
            raise unknown("model", model, models)
    keys = keys or text_keys(model or "", search)
    arguments = Arguments()
    for item in overrides:
        mistake = _read_argument(arguments, item, model, search, sweep, groups, keys)
        if mistake is not None:
            arguments.mistakes.append(mistake)
    path_given = arguments.settings.get("data.path", "null") != "null"
    if path_given and "data" in groups and "data" not in arguments.choices and not _typed(overrides, "data"):
        arguments.choices["data"] = "path"
    _replace_budgets(arguments)
    return arguments


def _replace_budgets(arguments: Arguments) -> None:
    """A budget that was typed takes the place of those that the model or a preset sets by default."""
    typed = [key for key in BUDGETS if arguments.settings.get(key, "null") != "null"]
    for key in BUDGETS:
        if typed and key not in arguments.settings:
            arguments.settings[key], arguments.values[key] = "null", None


def _read_argument(
    arguments: Arguments,
    item: str,
    model: str | None,
    search: SearchPath,
    sweep: bool,
    groups: Sequence[str],
    keys: TextKeys,
) -> ConfigError | None:
    key, equals, value = item.partition("=")
    bare = key.lstrip("+~")
    if not equals:
        fix = f"type {bare}=null" if key.startswith("~") else "type KEY=VALUE"
        return ConfigError(f"'{_short(item)}' is no setting, expected KEY=VALUE", fix=fix)
    if bare.startswith(("hydra.", "hydra/")) and model is not None:
        return _read_hydra_argument(arguments, item, bare)
    if bare != key:
        sign = key[: len(key) - len(bare)]
        return ConfigError(f"'{_short(key)}' needs no '{sign}'", fix=f"type {_short(f'{bare}={value}')}")
    if not KEY.fullmatch(key):
        return ConfigError(f"'{_short(key)}' is no key, expected words joined by dots", fix="type KEY=VALUE")
    if key in GROUPS and key not in groups:
        return ConfigError(f"'{key}' is chosen when a run begins", fix="start a new one with genai train")
    if key.partition(".")[0] in TABLES and key.endswith(".name") and key.count(".") == 1:
        group = key.partition(".")[0]
        fix = f"type genai train {value}" if group == "model" else f"type {group}={value}"
        return ConfigError(f"'{key}' follows from the choice of {group}", fix=_short(fix))
    previous = arguments.choices.get(key, arguments.settings.get(key))
    mistake = (
        _read_choice(arguments, key, value, model, search, sweep)
        if key in groups
        else _read_setting(arguments, key, value, sweep, keys)
    )
    if mistake is None and previous not in (None, arguments.choices.get(key, arguments.settings.get(key))):
        return ConfigError(f"'{key}' is given twice, as {_short(previous)} and as {_short(value)}", fix="give it once")
    return mistake


def _read_hydra_argument(arguments: Arguments, item: str, key: str) -> ConfigError | None:
    if key == "hydra.searchpath":
        return ConfigError("'hydra.searchpath' is ours", fix="type -C FOLDER")
    if key == "hydra.mode":
        return ConfigError("'hydra.mode' is ours", fix="type -m for a sweep")
    if parsed_override(item) is None:
        return ConfigError(f"'{_short(item)}' is not in Hydra's grammar", fix="quote the value: KEY=\"'VALUE'\"")
    arguments.for_hydra.append(item)
    return None


def _read_choice(
    arguments: Arguments, group: str, value: str, model: str | None, search: SearchPath, sweep: bool
) -> ConfigError | None:
    if group == "model":
        fix = f"type genai train {_short(value)}"
        return None if value == model else ConfigError("the model is the word after the verb", fix=fix)
    options = search.options(group)
    names = [value]
    parsed = parsed_override(f"{group}={value}") if sweep and value not in options else None
    if parsed is not None and parsed.is_sweep_override():
        if not parsed.is_discrete_sweep():
            return ConfigError(f"'{group}={value}' sweeps no names", fix=f"type {group}=NAME,NAME")
        wanted = parsed.value()
        names = wanted.filter(list(options)) if hasattr(wanted, "filter") else list(parsed.sweep_string_iterator())
        if not names:
            return ConfigError(
                f"'{_short(f'{group}={value}')}' matches none of {', '.join(options)}", fix="choose NAMES"
            )
        arguments.swept_choices[group] = names
    for name in names:
        if name not in options and (name, group) != ("null", "experiment"):
            if not sweep and "," in name:
                return ConfigError(f"'{_short(f'{group}={value}')}' names several values", fix="add -m to run them all")
            return _unknown_choice(group, name, options)
        if group == "experiment" and name != "null" and model is not None and not name.startswith(f"{model}/"):
            owner = name.partition("/")[0]
            fix = f"type genai train {owner} experiment={name}"
            return ConfigError(f"the preset '{name}' is of the model '{owner}'", fix=fix)
    arguments.choices[group] = value if len(names) > 1 or parsed is not None else _bare_or_quoted(value)
    return None


def _read_setting(arguments: Arguments, key: str, value: str, sweep: bool, keys: TextKeys) -> ConfigError | None:
    text, path = key in keys.texts, key in keys.paths
    there = path and _exists(value)
    parsed = None if there else parsed_override(f"++{key}={value}")
    if parsed is not None and parsed.is_sweep_override() and (sweep or not text):
        if not sweep:
            return ConfigError(f"'{_short(f'{key}={value}')}' names several values", fix="add -m to run them all")
        arguments.settings[key] = value
        if options := _sweep_values(parsed):
            arguments.swept[key] = options
        else:
            arguments.ranges.add(key)
        return None
    if key in keys.lists and "${" not in value and (found := _texts_in(value, parsed)) is not None:
        arguments.settings[key], arguments.values[key] = _in_grammar(found), found
        return None
    means_itself = not text or value == "null" or "${" in value or value[:1] in ("'", '"')
    if parsed is not None and means_itself and not parsed.is_sweep_override():
        arguments.settings[key] = value
        arguments.values[key] = parsed.value()
        return None
    literal = str(Path(value).expanduser()) if path and not there and value.startswith("~/") else value
    arguments.settings[key] = _quoted(literal, interpolates=not there)
    arguments.values[key] = literal
    return None


def _texts_in(value: str, parsed: Any) -> list[str] | None:
    """The texts of a list in which Hydra's grammar finds something else, or nothing: [2019, 病历号, size (cm)]. None of
    what is no such list, or is one in that grammar."""
    read = None if parsed is None else parsed.value()
    if not (value.startswith("[") and value.endswith("]")) or (
        isinstance(read, list) and all(isinstance(one, str) for one in read)
    ):
        return None
    inside = value[1:-1]
    quote = "'" if "'" in inside and '"' not in inside else '"'
    try:
        rows = list(csv.reader([inside], quotechar=quote, skipinitialspace=True, strict=True))
    except csv.Error:
        return None
    return [text.strip() for text in rows[0]] if len(rows) == 1 else None


def _sweep_values(parsed: Any) -> list[Any]:
    """The values of a sweep as plain data; none for a range of real numbers that a sweeper chooses from."""
    if not parsed.is_discrete_sweep():
        return []
    values = []
    for index, text in enumerate(parsed.sweep_string_iterator()):
        if index >= 1000:
            break
        element = parsed_override(f"++key={text}")
        values.append(text if element is None else element.value())
    return values


def _unknown_choice(group: str, name: str, options: Mapping[str, Path]) -> ConfigError:
    noun = NOUNS.get(group, f"choice of {group}")
    if not options:
        return ConfigError(f"unknown {noun} '{_short(name)}'", fix="there is none to choose from")
    return unknown(noun, _short(name), options)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _typed(overrides: Sequence[str], key: str) -> bool:
    return any(item.startswith(f"{key}=") for item in overrides)


def _in_grammar(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_in_grammar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_in_grammar(item) for item in value) + "]"
    return str(value) if isinstance(value, int | float) else _quoted(str(value))


def _exists(value: str) -> bool:
    try:
        return os.path.lexists(value)
    except ValueError:
        return False


def _quoted(text: str, *, interpolates: bool = True) -> str:
    """Text in quotes of Hydra's grammar; `${` keeps its meaning only where it `interpolates`."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if not interpolates:
        text = text.replace("${", "\\${")
    return QuotedString(text, Quote.single).with_quotes()


def _bare_or_quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else _quoted(text)


def parsed_override(override: str) -> Any:
    """Hydra's reading of one override, or None where its grammar has none."""
    if len(override) > LONGEST_VALUE or sum(override.count(opening) for opening in "[{(") > DEEPEST_VALUE:
        return None
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create().parse_override(override)
    except Exception:  # the grammar's own error, Python's limit on the digits of a number, its limit on recursion
        return None
