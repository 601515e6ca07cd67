"""The dataclasses of all settings as one JSON Schema, so that editors complete and check YAML."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from genai import registry
from genai.schema import Config, PathText, Range, hints
from genai.search_path import SearchPath
from genai.settings import component_schema

_SCALARS = {str: "string", PathText: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a whole run; model, net, data and optim take any of the components."""
    search = SearchPath.of()
    properties = {}
    for name, hint in hints(Config).items():
        if name in registry.TABLES:
            choices = [_component(name, choice, search) for choice in registry.components(name)]
            properties[name] = {"anyOf": choices}
        else:
            properties[name] = _of(hint)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "genai train",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _component(group: str, name: str, search: SearchPath) -> dict[str, Any]:
    made = _of(component_schema(group, name, search))
    made["properties"]["name"] = {"const": name}
    return {"title": name, **made}


def _of(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        inner = {name: _of(kind) for name, kind in hints(hint).items()}
        return {"type": "object", "properties": inner, "additionalProperties": False}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is Annotated:
        return _of(arguments[0]) | _bounds([a for a in arguments[1:] if isinstance(a, Range)])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(argument) for argument in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if origin is list:
        return {"type": "array", "items": _of(arguments[0])}
    if origin is tuple and Ellipsis not in arguments:
        return {"type": "array", "prefixItems": [_of(a) for a in arguments], "minItems": len(arguments), "items": False}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0])}
    return {}


def _bounds(ranges: list[Range]) -> dict[str, float]:
    found: dict[str, float] = {}
    for bound in ranges:
        if bound.low > -math.inf:
            found["exclusiveMinimum" if bound.above else "minimum"] = bound.low
        if bound.high < math.inf:
            found["maximum"] = bound.high
    return found
