"""The only file that talks to Hydra: what was typed becomes a checked Config, once or for every job of a sweep."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from genai import registry
from genai.data.source import asks_for_table, asks_for_text, foreign_settings, modality_of
from genai.errors import ConfigError, ConfigErrors, DataError, Interrupted, SecurityError
from genai.overrides import BUDGETS, Arguments, read_arguments
from genai.schema import Config, DataConfig, Dtype, SamplingConfig, Threads, hints, plain, read
from genai.search_path import SHIPPED, SearchPath, where
from genai.settings import (
    AUTO,
    BY_MODALITY,
    Change,
    assign,
    component_schema,
    defaults_of,
    differences,
    flat,
    from_plain,
    read_config,
    text_keys,
    to_yaml,
)

__all__ = [
    "Change",
    "Outcome",
    "VerbConfig",
    "change_config",
    "compose_data",
    "compose_train",
    "compose_verb",
    "differences",
    "read_config",
    "run_hydra",
    "to_yaml",
    "where",
]

T = TypeVar("T")
_NO_LOGGING = {"version", "root", "disable_existing_loggers"}  # keys of Hydra's logging: none


# -- one run -----------------------------------------------------------------------------------------------------------


def compose_train(model: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Config:
    """The checked configuration of one run. Raises ConfigErrors with every mistake, or DataError."""
    search = SearchPath.of(config_dirs)
    arguments = read_arguments(model, overrides, search, sweep=False)
    return _finish(_compose("train", arguments.hydra(search, model)), model, search, arguments, arguments.mistakes)


def _finish(
    values: dict[str, Any], model: str, search: SearchPath, arguments: Arguments, mistakes: Sequence[ConfigError] = ()
) -> Config:
    """Resolves what follows from the kind of data, and checks. Mistakes of the configuration are told before those of
    the data."""
    found = list(mistakes)
    no_data: DataError | None = None
    described = values.get("model")
    stated = described.pop(BY_MODALITY, None) if isinstance(described, dict) else None
    stated = stated if isinstance(stated, dict) else {}
    is_auto = isinstance(values.get("net"), dict) and values["net"].get("name") == AUTO
    if is_auto or stated:
        try:
            modality = _modality_of(values, model)
            values = _for_modality(stated, modality, values, search, arguments)
            if modality == "text" and _modality_of(values) == "table":  # to a model that reads nothing else
                assign(values, "data.documents", "file")
            if modality == "text" and _is_a_table_to(values):
                modality = "table"
                assign(values, "data.drop", [])
            for key in _foreign(modality, values):  # what a preset says for data of another kind
                if f"data.{key}" not in arguments.settings:
                    assign(values, f"data.{key}", None)
            if is_auto:
                net, defaults = values["net"], defaults_of("net", _net_for(modality, values, model, search), search)
                values = {**values, "net": _merged(defaults, {k: v for k, v in net.items() if k != "name"})}
        except ConfigError as error:
            found.append(error)
        except DataError as error:
            no_data = error
    for group in ("net", "optim"):
        values[group] = _without_foreign(values.get(group), group, search, arguments)
    config = from_plain(values, search, mistakes=found)
    if no_data is not None:
        raise no_data
    return config


def _without_foreign(chosen: Any, group: str, search: SearchPath, arguments: Arguments) -> Any:
    """The settings of a component without those that a preset makes for another one, as where it is used with data of
    another kind. What was typed stays, and so does what no component has: both are mistakes to be told."""
    names = registry.components(group)
    if not isinstance(chosen, dict) or chosen.get("name") not in names:
        return chosen
    known = {name: hints(component_schema(group, name, search)) for name in names}
    others = {key for name in names for key in known[name]} - known[chosen["name"]].keys()
    return {k: v for k, v in chosen.items() if k not in others or f"{group}.{k}" in arguments.settings}


def _for_modality(
    stated: Mapping[str, Any], modality: str, values: dict[str, Any], search: SearchPath, arguments: Arguments
) -> dict[str, Any]:
    """The values with what the model states for this kind of data, where neither a preset nor what was typed says
    otherwise; what it states of its net is for the net that it would take itself."""
    preset = values.get("experiment")
    said = flat(defaults_of("experiment", preset, search)) if preset else {}
    of_another = values.get("net", {}).get("name") not in (AUTO, _usual_net(modality, values))
    values = copy.deepcopy(values)
    for key, value in flat(stated.get(modality) or {}).items():
        if key not in said and key not in arguments.settings and not (of_another and key.startswith("net.")):
            assign(values, key, value)
    return values


def _modality_of(values: Mapping[str, Any], model: str = "") -> str:
    """What the samples of the data are, to a model of that name; empty where a plug-in does not say. Raises DataError
    where the path is none."""
    data = values.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise ConfigError(f"'{model}' names no data set of its own", fix="add data=NAME or data.path=PATH")
    if data.get("codec") is not None:
        return "latent"
    nets = values.get("model", {}).get("nets")
    reads_text_alone = bool(model) and isinstance(nets, dict) and "text" in nets and "image" not in nets
    as_text = asks_for_text(data) or reads_text_alone
    path = data.get("path")
    as_table = asks_for_table(data)
    return modality_of(data["name"], None if path is None else str(path), as_text=as_text, as_table=as_table)


def _is_a_table_to(values: Mapping[str, Any]) -> bool:
    """Whether what may be texts is a table of values to a model that reads no texts."""
    path, nets = values["data"].get("path"), values["model"].get("nets")
    if path is None or not isinstance(nets, dict) or "table" not in nets or "text" in nets:
        return False
    return not asks_for_text(values["data"]) and str(path).lower().endswith((".csv", ".tsv", ".tab", ".parquet", ".pq"))


def _foreign(modality: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    path = values["data"].get("path")
    return foreign_settings(modality, None if path is None else str(path))


def _usual_net(modality: str, values: Mapping[str, Any]) -> str | None:
    """The net that the model states for this kind of data; for latents as for pictures where it states none."""
    nets = values.get("model", {}).get("nets")
    if not isinstance(nets, dict):
        return None
    if modality == "latent" and modality not in nets:
        modality = "image"
    if not modality and len(set(nets.values())) == 1:
        return str(next(iter(nets.values())))
    return str(nets[modality]) if modality in nets else None


def _net_for(modality: str, values: Mapping[str, Any], model: str, search: SearchPath) -> str:
    usual = _usual_net(modality, values)
    if usual is not None:
        return usual
    nets = values.get("model", {}).get("nets")
    if not isinstance(nets, dict):
        raise ConfigError(f"'{model}' names no nets (model.nets)", fix="add net=NAME")
    modality = "image" if modality == "latent" else modality
    what = f"{modality} data" if modality else f"data={values['data']['name']}"
    stated = {name: defaults_of("model", name, search).get("nets") for name in registry.components("model")}
    able = [name for name, theirs in stated.items() if modality in (theirs or ())]
    fix = f"train {' or '.join(able)}, or add net=NAME" if able else "add net=NAME"
    raise ConfigError(f"'{model}' names no net for {what}, only for {', '.join(nets)}", fix=fix)


def _merged(defaults: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(defaults)
    for key, value in given.items():
        inner = result.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome(Generic[T]):
    """How one job ended: its value or its error, the settings that were typed for it, and its time."""

    overrides: list[str]
    value: T | None = None
    error: Exception | None = None
    seconds: float = 0.0

    def __float__(self) -> float:
        """What a sweeper that optimises reads."""
        if self.error is not None:
            raise self.error
        return float(self.value)  # type: ignore[arg-type]


class _StopSweep(BaseException):
    """Carries a signal through Hydra, which goes on after any Exception."""


def run_hydra(
    model: str,
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    task: Callable[[Config], T],
    multirun: bool,
    failed: Callable[[Exception], object] = lambda error: None,
) -> list[Outcome[T]]:
    """Runs `task` through Hydra's own run or multirun, so that its sweepers and launchers work.

    The whole sweep is checked before its first job starts, and a job that fails is told to `failed` and does not stop
    the others. A signal does: the outcomes so far are returned, the last of which holds the Interrupted. A single run
    raises its error.
    """
    search = SearchPath.of(config_dirs)
    arguments = read_arguments(model, overrides, search, sweep=multirun)
    if multirun:
        _check_sweep(model, arguments, search)
    elif arguments.mistakes or search.given:  # a given folder is looked at before Hydra acts on it
        compose_train(model, overrides, config_dirs)
    outcomes: list[Outcome[T]] = []

    def job(values: Any) -> Outcome[T]:
        outcome: Outcome[T] = Outcome(_typed_overrides())
        outcomes.append(outcome)
        started = time.monotonic()
        try:
            outcome.value = task(_finish(_to_plain(values, _hydra_config()), model, search, arguments))
        except Exception as error:
            outcome.error = error
            if multirun:
                failed(error)
        outcome.seconds = time.monotonic() - started
        if multirun and isinstance(outcome.error, Interrupted):
            raise _StopSweep
        return outcome

    with _session("train") as hydra:
        try:
            if multirun:
                batches = hydra.multirun("train", job, [*arguments.hydra(search, model), "hydra.mode=MULTIRUN"])
                # Jobs of other processes come back through Hydra; sweepers that optimise return nothing.
                done = [item.return_value for batch in batches or () for item in batch]
                return done or outcomes
            hydra.run("train", job, arguments.hydra(search, model))
        except _StopSweep:
            return outcomes
        except Exception as error:
            raise _of_hydra(error) from error
    if outcomes[0].error is not None:
        raise outcomes[0].error
    return outcomes


def _check_sweep(model: str, arguments: Arguments, search: SearchPath) -> None:
    """Composes the first job, then puts every value of the sweep in its place: all mistakes before anything runs."""
    values = _compose("train", arguments.hydra(search, model, first_job=True))
    found = list(arguments.mistakes)
    several = any(len(options) > 1 for options in (*arguments.swept.values(), *arguments.swept_choices.values()))
    for key in ("run.name", "run.dir"):
        named = str(arguments.values.get(key) or "")
        if (several or arguments.ranges) and named and "${" not in named:
            found.append(ConfigError(f"'{key}' would be that of every job of the sweep", fix="leave it out"))
    variants = [values]
    for key, options in arguments.swept.items():
        for option in options[1:]:
            variant = copy.deepcopy(values)
            assign(variant, key, option)
            variants.append(variant)
    for variant in variants:
        try:
            _finish(variant, model, search, arguments, found)
        except ConfigErrors as errors:
            found = errors.mistakes
        except DataError:
            continue  # one path of several: its job will say so
    if found:
        raise ConfigErrors(found)


def _hydra_config() -> Any:
    """What Hydra says of the job that it runs."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


def _typed_overrides() -> list[str]:
    """What was typed for this job, for people to read: without the marks that Hydra's grammar needs."""
    from omegaconf import OmegaConf

    items = cast("list[str]", OmegaConf.to_container(_hydra_config().overrides.task))
    task = [item.lstrip("+").replace("\\", "") for item in items]
    added = {f"{key}=null" for key in BUDGETS}  # in place of default budgets
    return [item for item in task if not item.startswith("model=") and item not in added]


# -- settings on top of a run ------------------------------------------------------------------------------------------


_FLAGS = {"seed", "count", "label", "out", "step"}  # of `genai sample`, which some type as settings
_SPLIT = ("valid_fraction", "split_seed")  # settings of data that say what is held out


@dataclass(frozen=True, kw_only=True)
class VerbConfig:
    """What `genai sample` or `genai eval` goes by, besides the run's own settings."""

    sampling: dict[str, Any] | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    threads: Threads | None = None
    data: dict[str, Any] | None = None  # with a name: another set in place of the run's

    def sampling_of(self, config: Config) -> SamplingConfig:
        """The run's settings of sampling with these."""
        return read(SamplingConfig, {**plain(config.sampling), **(self.sampling or {})}, at="sampling.")

    def with_data(self, config: Config) -> tuple[Config, bool]:
        """The run's Config with these data settings, and whether they name another set than the one it was trained on.

        Raises ConfigErrors with every mistake.
        """
        values, given = plain(config), self.data or {}
        own = values["data"]
        if given.get("path") is not None and own["path"] is not None and _same_file(given["path"], own["path"]):
            given = {key: value for key, value in given.items() if key not in ("name", "path")}  # as it was trained on
        another = "name" in given and (given["name"], given.get("path")) != (own["name"], own["path"])
        if another:
            # Another set is brought to the shape that the model learned on, and read by the same columns, unless told
            # otherwise.
            unsaid = {key for key in ("size", "channels", "codec", "fit") if given.get(key) is None}
            columns = {
                key for key in ("field", "given", "target") if given.get(key) is None and own.get(key) is not None
            }
            path = given.get("path")
            unsaid |= columns - set(foreign_settings("text", None if path is None else str(path)) if columns else ())
            kept = {key: own.get(key) for key in unsaid}
            values["data"] = {**given, **kept, **{key: own[key] for key in _SPLIT}}
        else:
            changed = given.keys() - {"name", *_SPLIT}
            values["data"] = own | {key: given[key] for key in changed if given[key] is not None}
        return from_plain(values, SearchPath.of()), another


def compose_verb(verb: Literal["sample", "eval"], overrides: Sequence[str]) -> VerbConfig:
    """The settings typed for a verb on a run. Raises ConfigErrors with every mistake that shows without the run."""
    search = SearchPath.of()
    groups = ("sampling", "data") if verb == "eval" else ("sampling",)
    arguments = read_arguments(None, overrides, search, sweep=False, groups=groups)
    values = _compose(verb, arguments.hydra(search, None))
    mistakes = list(arguments.mistakes)
    for key in _FLAGS & values.keys() if verb == "sample" else ():
        mistakes.append(ConfigError(f"'{key}' is no setting here", fix=f"type --{key} {values.pop(key)}"))
    if verb == "sample" and "data" in values:
        mistakes.append(ConfigError("sampling reads no data set", fix="drop the data settings"))
        del values["data"]
    for key in _SPLIT:
        if f"data.{key}" in arguments.settings and verb == "eval":
            what = f"'data.{key}' is the run's: with another one, samples that it learned from would count as held out"
            mistakes.append(ConfigError(what, fix="leave it out, or type --input PATH"))
    if isinstance(values.get("data"), dict) and "data.fit" not in arguments.settings:
        values["data"]["fit"] = None  # the YAML's is not what was typed
    for cls, part, at in ((VerbConfig, values, ""), (SamplingConfig, values.get("sampling") or {}, "sampling.")):
        try:
            read(cls, part, at=at)
        except ConfigErrors as errors:
            mistakes += errors.mistakes
    if mistakes:
        raise ConfigErrors(mistakes)
    return read(VerbConfig, values)


def compose_data(name_or_path: str, overrides: Sequence[str]) -> DataConfig:
    """The settings of a set, named or at a path. Raises ConfigErrors with every mistake."""
    search = SearchPath.of()
    name_or_path = name_or_path.removeprefix("data.path=").removeprefix("data=")
    choice = f"data={name_or_path}" if name_or_path in search.options("data") else f"data.path={name_or_path}"
    arguments = read_arguments(None, [choice, *overrides], search, sweep=False, groups=("data",))
    values = _compose("eval", arguments.hydra(search, None)).get("data") or {}
    mistakes = list(arguments.mistakes)
    mistakes += [
        ConfigError(f"'{key}' is no setting of data", fix="type data.KEY=VALUE")
        for key in arguments.settings
        if not key.startswith("data.")
    ]
    config: Any = None
    try:
        config = read(component_schema("data", str(values.get("name")), search), values, at="data.")
    except ConfigErrors as errors:
        mistakes += errors.mistakes
    except ConfigError as error:
        mistakes.append(error)
    if mistakes:
        raise ConfigErrors(mistakes)
    return cast(DataConfig, config)


def change_config(config: Config, overrides: Sequence[str]) -> tuple[Config, list[Change]]:
    """A run's settings with those typed for its resumption, and what that changes.

    Raises ConfigErrors with every mistake, among them the changes that a run cannot take.
    """
    search = SearchPath.of()
    keys = text_keys(config.model.name, search)
    arguments = read_arguments(None, overrides, search, sweep=False, groups=(), keys=keys)
    mistakes = arguments.mistakes
    values = plain(config)
    for key, value in arguments.values.items():
        if "${" in str(value):
            mistakes.append(ConfigError(f"'{key}' holds an interpolation", fix=f"type the value: {key}=VALUE"))
        else:
            assign(values, key, value)
    changed = from_plain(values, search, mistakes=mistakes)
    return changed, differences(config, changed)


def _same_file(one: Any, other: Any) -> bool:
    try:
        return Path(one).resolve() == Path(other).resolve()
    except (OSError, RuntimeError, ValueError):
        return False


# -- Hydra -------------------------------------------------------------------------------------------------------------


@contextmanager
def _session(job: str) -> Iterator[Any]:
    """Hydra's one session of this process: the object whose run, multirun and compose_config we call."""
    from hydra import initialize_config_module, version
    from hydra.core.global_hydra import GlobalHydra

    if not os.environ.get("GENAI_RUNS"):  # set to nothing means not set
        os.environ.pop("GENAI_RUNS", None)
    GlobalHydra.instance().clear()  # a session left behind refuses a second one
    base = {"version_base": "1.3"} if version.__version__.startswith("1.3") else {}
    with initialize_config_module(SHIPPED, job_name=job, **base):
        yield GlobalHydra.instance().hydra


def _compose(root: str, overrides: list[str]) -> dict[str, Any]:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    with _session(root) as hydra:
        try:
            config = hydra.compose_config(root, overrides, RunMode.RUN, from_shell=False, with_log_configuration=False)
            _refuse_code(config.hydra)
            with open_dict(config.hydra):
                config.hydra.job.num, config.hydra.job.id = 0, "0"
            HydraConfig.instance().set_config(config)  # for ${hydra:...}
            of_hydra = config.hydra
            with open_dict(config):
                del config["hydra"]
            return _to_plain(config, of_hydra)
        except (ConfigError, SecurityError):
            raise
        except Exception as error:
            raise _of_hydra(error) from error


def _refuse_code(config: Any) -> None:
    """Raises SecurityError where a YAML makes Hydra call something that is not one of its installed plug-ins."""
    targets = [str(config[part].get("_target_", "")) for part in ("launcher", "sweeper")]
    named = [target for target in targets if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins."))]
    named += [str(name) for name in config.callbacks]
    named += [part for part in ("job_logging", "hydra_logging") if set(config[part]) - _NO_LOGGING]
    if named:
        raise SecurityError(f"a YAML makes Hydra call '{named[0][:60]}'", fix="remove it from the folders of configs")


def _to_plain(config: Any, of_hydra: Any) -> dict[str, Any]:
    """A composed configuration as plain data, with the preset that Hydra chose under `experiment`."""
    from omegaconf import OmegaConf

    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except Exception as error:  # an interpolation that leads nowhere
        raise _of_hydra(error) from error
    assert isinstance(values, dict)
    preset = of_hydra.runtime.choices.get("experiment")
    if preset not in (None, "null"):
        if values.get("experiment") is not None:  # what it says was put below its group
            raise ConfigError(f"the preset '{preset}' sets nothing", fix="begin it with the line # @package _global_")
        values["experiment"] = preset
    return cast(dict[str, Any], values)


def _of_hydra(error: Exception) -> ConfigError:
    """Hydra's own complaint as ours: every failure of composing is about what was typed or a YAML."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = ", ".join(lines[:2]) if lines else type(error).__name__
    return ConfigErrors([ConfigError(f"the configuration cannot be composed: {text[:300]}")])
