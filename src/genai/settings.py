"""A whole configuration from plain data, typed by the components it names; and what may change when a run goes on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, cast, get_args

from genai import registry
from genai.errors import CheckpointError, ConfigError, ConfigErrors
from genai.schema import (
    Config,
    DataConfig,
    ModelConfig,
    NetConfig,
    OptimConfig,
    PathText,
    hints,
    plain,
    read,
    schema_of_defaults,
)
from genai.search_path import SearchPath

BASES: dict[str, type] = {"model": ModelConfig, "net": NetConfig, "data": DataConfig, "optim": OptimConfig}
AUTO = "auto"  # the net that the model names for the kind of data
BY_MODALITY = "by_modality"  # in a model's YAML: modality -> settings that replace the others for such data


def from_plain(values: Any, search: SearchPath, *, mistakes: Sequence[ConfigError] = ()) -> Config:
    """The Config of plain data. Raises ConfigErrors with `mistakes` and all that it finds itself."""
    found = list(mistakes)
    config: Config | None = None
    try:
        config = read(_typed_by(values, search, found), values)
    except ConfigErrors as errors:
        found += errors.mistakes
    if config is not None:
        found += _contradictions(config)
    if found:
        unique = list({str(mistake): mistake for mistake in found}.values())
        raise ConfigErrors(unique)
    assert config is not None
    return Config(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Config)})


def _contradictions(config: Config) -> list[ConfigError]:
    """Settings that are right one by one and wrong together."""
    trainer, found = config.trainer, []
    ends = (trainer.max_steps, trainer.max_samples, trainer.max_minutes, trainer.patience, trainer.grad_tolerance)
    if all(end is None for end in ends):
        fix = "type trainer.max_minutes=5 or trainer.max_steps=1000"
        found.append(ConfigError("no end is set for this training", fix=fix))
    num_micro = trainer.devices * trainer.accumulate
    if trainer.batch_size != "all" and trainer.batch_size < num_micro:
        what = f"trainer.batch_size {trainer.batch_size} cannot be cut into {num_micro:,} micro-batches"
        found.append(ConfigError(f"{what} (devices x accumulate)", fix=f"type trainer.batch_size={num_micro}"))
    if config.data.path and config.run.dir and os.path.realpath(config.data.path) == os.path.realpath(config.run.dir):
        what = f"run.dir is the data's own folder, {config.run.dir}, where previews would become data"
        found.append(ConfigError(what, fix="type run.dir=PATH for another place"))
    return found


def read_config(values: Any, *, path: object = None) -> Config:
    """The Config of a config.json at `path`, already plain. Raises CheckpointError for what does not fit."""
    try:
        return from_plain(values, SearchPath())
    except ConfigError as error:
        raise CheckpointError(
            f"config.json does not fit: {error.lines()[0].split(' - ')[0]}",
            path=path,
            fix="use the version or the plug-in that wrote the run",
        ) from error


def component_schema(group: str, name: str, search: SearchPath) -> type:
    """The dataclass of a component; one made from its YAML where a plug-in states none. Raises ConfigError."""
    component = registry.find(group, name)
    if component.schema:
        return cast(type, registry.load(component.schema))
    return _schema_of_yaml(group, name, search)


@cache
def _schema_of_yaml(group: str, name: str, search: SearchPath) -> type:
    base, defaults = BASES[group], defaults_of(group, name, search)
    defaults.pop(BY_MODALITY, None)
    return schema_of_defaults(name, defaults, base) if defaults.keys() - hints(base).keys() else base


def defaults_of(group: str, name: str, search: SearchPath) -> dict[str, Any]:
    """What a component's YAML sets; {} where there is no such file."""
    import yaml  # type: ignore[import-untyped]

    file = search.file(group, name)
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not readable as YAML: {error}", path=file) from error
    inner = content.get(group) if isinstance(content, dict) else None
    content = inner if isinstance(inner, dict) else content
    return content if isinstance(content, dict) else {}


class TextKeys(NamedTuple):
    """Dotted keys that hold a text, those of them that hold a path, and keys that hold a list of texts."""

    texts: set[str]
    paths: set[str]
    lists: set[str]


def text_keys(model: str, search: SearchPath) -> TextKeys:
    """Of a run of `model`."""
    types = dict(hints(Config))
    if model in registry.components("model"):
        types["model"] = component_schema("model", model, search)
    keys = TextKeys(set(), set(), set())
    _collect_text_keys(types, "", keys)
    return keys


def to_yaml(config: Config) -> str:
    import yaml

    return str(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=120))


# -- what may change when a run goes on ------------------------------------------------------------------------------

Kind = Literal["harmless", "schedule", "impossible"]

_HARMLESS = {"experiment", "device", "dtype", "compile", "deterministic", "threads", "data.path", "data.workers"}
_SCHEDULE = {f"trainer.{name}" for name in ("max_steps", "max_samples", "max_minutes", "batch_size")}
_IMPOSSIBLE = {"optim.name"}


@dataclass(frozen=True)
class Change:
    """One setting that differs from the run's: harmless, one that rebuilds the schedule, or impossible."""

    key: str
    old: Any
    new: Any
    kind: Kind

    def __str__(self) -> str:
        effect = "rebuilds the schedule" if self.kind == "schedule" else self.kind
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)} ({effect})"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def differences(old: Config, new: Config) -> list[Change]:
    """Every setting that differs, in the order of the settings. Raises ConfigErrors for those a run cannot take."""
    before, after = flat(plain(old)), flat(plain(new))
    keys = list(dict.fromkeys([*before, *after]))
    pairs = [(key, before.get(key), after.get(key)) for key in keys]
    changes = [Change(key, one, other, _kind(key, one, other)) for key, one, other in pairs if one != other]
    fix = "start a new run; model.init_from=RUN takes the weights along"
    impossible = [
        ConfigError(
            f"'{change.key}' cannot change from {_shown(change.old)} to {_shown(change.new)} in a run that goes on",
            fix=fix,
        )
        for change in changes
        if change.kind == "impossible"
    ]
    if impossible:
        raise ConfigErrors(impossible)
    return changes


def flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Dotted key -> value of nested mappings."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{at}{key}.")
        else:
            result[f"{at}{key}"] = list(value) if isinstance(value, tuple) else value
    return result


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key of nested mappings; what is no mapping on the way is replaced."""
    *parents, last = key.split(".")
    for parent in parents:
        node = values.get(parent)
        if not isinstance(node, dict):
            node = values[parent] = {}
        values = node
    values[last] = value


def _kind(key: str, old: Any, new: Any) -> Kind:
    if key in _IMPOSSIBLE:
        return "impossible"
    if key == "trainer.ema_half_life_samples" and (old is None or new is None):
        return "impossible"  # an average cannot begin or end half-way
    if key in _SCHEDULE or key.startswith("optim."):
        return "schedule"
    return "harmless" if key in _HARMLESS or key.startswith(("trainer.", "sampling.")) else "impossible"


# -- types of the chosen components ------------------------------------------------------------------------------------


def _typed_by(values: Any, search: SearchPath, mistakes: list[ConfigError]) -> type[Config]:
    """Config with the types of the components that `values` names; Any in place of one that does not exist."""
    types = dict(hints(Config))
    for group in BASES:
        node = values.get(group) if isinstance(values, Mapping) else None
        name = node.get("name") if isinstance(node, Mapping) else None
        if not isinstance(name, str):
            continue
        if group == "net" and name == AUTO:
            types[group] = Any
            continue
        try:
            types[group] = component_schema(group, name, search)
        except ConfigError as error:
            mistakes.append(error)
            types[group] = Any
    made = dataclasses.make_dataclass("Config", [], bases=(Config,), frozen=True, kw_only=True)
    made.__schema_hints__ = types  # type: ignore[attr-defined]
    return made


def _collect_text_keys(types: Mapping[str, Any], at: str, keys: TextKeys) -> None:
    for name, hint in types.items():
        kinds = set(get_args(hint) or [hint]) - {type(None)}
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            _collect_text_keys(hints(hint), f"{at}{name}.", keys)
        elif PathText in kinds:
            keys.texts.add(at + name)
            keys.paths.add(at + name)
        elif kinds in ({str}, {str, tuple[str, str]}):
            keys.texts.add(at + name)
        elif kinds in ({tuple[str, ...]}, {str, tuple[str, ...]}) or hint == tuple[str, ...]:
            keys.lists.add(at + name)
