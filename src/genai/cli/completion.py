"""What can be typed next: models, keys and names of groups. Reads schemas and folder listings, never Hydra."""

from __future__ import annotations

from collections.abc import Iterable

import typer


def complete_model(incomplete: str) -> list[str]:
    from genai.search_path import SearchPath

    return [name for name in SearchPath.of().options("model") if name.startswith(incomplete)]


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Bash cuts words at `=`, so `data=fa` may arrive as the three words `data`, `=`, `fa`."""
    earlier = list(ctx.params.get("overrides") or ctx.params.get("arguments") or ())
    prefix = ""
    if incomplete == "=" and earlier:
        prefix, incomplete = f"{earlier[-1]}=", ""
    elif len(earlier) >= 2 and earlier[-1] == "=":
        prefix = f"{earlier[-2]}="
    found = complete(str(ctx.params.get("model") or ""), prefix + incomplete)
    return [name.removeprefix(prefix) for name in found]


def complete(model: str, incomplete: str) -> list[str]:
    """Every setting of `model` that begins with `incomplete`: GROUP=NAME, KEY= or KEY=VALUE."""
    from genai.search_path import GROUPS, SearchPath

    search = SearchPath.of()
    key, equals, _ = incomplete.partition("=")
    candidates: Iterable[str]
    if equals and key in GROUPS:
        names = search.options(key)
        own = [name for name in names if key != "experiment" or not model or name.startswith(f"{model}/")]
        candidates = [f"{key}={name}" for name in own]
    elif equals:
        candidates = [f"{key}={value}" for value in _values(model, key)]
    else:
        candidates = [f"{name}=" for name in (*(group for group in GROUPS if group != "model"), *keys(model))]
    return [name for name in candidates if name.startswith(incomplete)]


def keys(model: str = "") -> list[str]:
    """The dotted keys of a run of `model` (of any run, where no such model is)."""
    return list(_hints(model))


def _hints(model: str) -> dict[str, object]:
    import dataclasses

    from genai import registry
    from genai.schema import Config, hints
    from genai.search_path import SearchPath
    from genai.settings import component_schema

    search = SearchPath.of()
    types = dict(hints(Config))
    found: dict[str, object] = {}
    for name, hint in types.items():
        groups = registry.components(name) if name in registry.TABLES else {}
        if name == "model" and model in groups:
            hint = component_schema("model", model, search)
        schemas = [hint] if name == "model" else [hint, *(component_schema(name, choice, search) for choice in groups)]
        for schema in schemas:
            if isinstance(schema, type) and dataclasses.is_dataclass(schema):
                found |= {
                    f"{name}.{key}": inner for key, inner in hints(schema).items() if key != "name" or name == "run"
                }
            else:
                found[name] = schema
    found.pop("experiment", None)
    return found


def _values(model: str, key: str) -> list[str]:
    from typing import Annotated, Literal, get_args, get_origin

    hint = _hints(model).get(key)
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    values: list[str] = []
    for part in (hint, *get_args(hint)):
        if part is bool:
            values += ["true", "false"]
        elif get_origin(part) is Literal:
            values += [str(value).lower() if isinstance(value, bool) else str(value) for value in get_args(part)]
        elif part is type(None):
            values.append("null")
    return values
