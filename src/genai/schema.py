"""Settings as dataclasses, and the one reader that turns plain YAML or JSON data into them with every mistake named.

Imports no torch: a configuration is checked before torch is loaded. Models, nets and data keep their own dataclasses in
their packages' __init__; a plug-in without one is checked against its YAML (see `schema_of_defaults`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin

from genai.errors import ConfigError, ConfigErrors

T = TypeVar("T")
PathText = NewType("PathText", str)  # a path: never parsed by Hydra's grammar


HIGHER_IS_BETTER = frozenset(
    [
        *("accuracy", "r2", "auc", "precision", "recall", "density", "coverage"),
        *("ndcg_at_10", "hit_rate_at_10", "recall_at_10", "coverage_at_10"),
    ]
)  # held-out metrics; all others are better when lower


@dataclass(frozen=True)
class Range:
    """Bounds of a number: low <= value <= high, or low < value where `above`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __str__(self) -> str:
        low = f"above {self.low:,.9g}" if self.above else f"at least {self.low:,.9g}"
        if self.high == math.inf:
            return low
        high = f"{self.high:,.9g}"
        return f"between {self.low:,.9g} and {high}" if not self.above else f"{low} and at most {high}"


Count = Annotated[int, Range(low=1)]
Natural = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(low=0, above=True)]
NonNegative = Annotated[float, Range(low=0)]
Fraction = Annotated[float, Range(low=0, high=1)]
Level = Annotated[float, Range(low=1e-6, high=1e6)]  # of noise
Side = Annotated[int, Range(low=4, high=4096)]  # pixels
Threads = Annotated[int, Range(low=1, high=4096)]


class _Misfit(Exception):
    """A value that does not fit its type; the text says what was expected."""


def read(cls: type[T], plain: Any, *, at: str = "") -> T:
    """An instance of the dataclass `cls` from plain data.

    Raises ConfigErrors with every unknown key (and the nearest valid one), wrong type and value out of bounds.
    """
    mistakes: list[ConfigError] = []
    value = _read_dataclass(cls, plain, at, mistakes)
    if mistakes:
        raise ConfigErrors(mistakes)
    return typing.cast(T, value)


def unknown(kind: str, got: str, valid: Iterable[str], *, prefix: str = "") -> ConfigError:
    """The error for a name that does not exist, with the nearest that does."""
    names = sorted(valid)
    near = difflib.get_close_matches(got.rsplit(".", 1)[-1] if prefix else got, names, 1, cutoff=0.5)
    fix = f"did you mean '{prefix}{near[0]}'?" if near else f"choose one of: {', '.join(prefix + n for n in names)}"
    return ConfigError(f"unknown {kind} '{got}'", fix=fix)


@cache
def hints(cls: type) -> dict[str, Any]:
    """Field name -> type of a dataclass, with annotations resolved."""
    if (made := getattr(cls, "__schema_hints__", None)) is not None:
        return typing.cast(dict[str, Any], made)
    return typing.get_type_hints(cls, include_extras=True)


def schema_of_defaults(name: str, defaults: Mapping[str, Any], base: type) -> type:
    """A dataclass for a component that states its settings by its YAML alone: each key of `defaults` and its type."""
    known = hints(base)
    extra = []
    for key, value in defaults.items():
        if key not in known:
            hint = Any if value is None else int | float if type(value) is float else type(value)
            extra.append((key, hint, field(default_factory=lambda value=value: value)))  # type: ignore[misc]
    made = dataclasses.make_dataclass(name.title(), extra, bases=(base,), frozen=True, kw_only=True)
    made.__schema_hints__ = {**known, **{key: hint for key, hint, _ in extra}}  # type: ignore[attr-defined]
    return made


def _read_dataclass(cls: type, plain: Any, at: str, mistakes: list[ConfigError]) -> Any:
    if not isinstance(plain, Mapping):
        where = at.rstrip(".") or "the configuration"
        mistakes.append(ConfigError(f"{where} is {_show(plain)}, expected settings", fix="write KEY: VALUE lines"))
        return None
    fields = {f.name: f for f in dataclasses.fields(cls)}
    given = {}
    for key, value in plain.items():
        if key not in fields:
            mistakes.append(unknown("key", f"{at}{key}", fields, prefix=at))
            continue
        path = f"{at}{key}"
        hint = hints(cls)[key]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            given[key] = _read_dataclass(hint, value, path + ".", mistakes)
            continue
        try:
            given[key] = _read_value(hint, value)
        except _Misfit as misfit:
            fix = f"type {path}={'[A,B]' if 'a list' in str(misfit) else 'VALUE'}"
            mistakes.append(ConfigError(f"'{path}' is {_show(value)}, expected {misfit}", fix=fix))
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in plain:
            mistakes.append(ConfigError(f"'{at}{name}' is missing", fix=f"add {at}{name}"))
    return None if mistakes else cls(**given)


def _read_value(hint: Any, value: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        number = _read_value(args[0], value)
        for bound in (a for a in args[1:] if isinstance(a, Range)):
            if not bound.low <= number <= bound.high or (bound.above and number == bound.low):
                raise _Misfit(f"a number {bound}")
        return number
    if origin in (Union, types.UnionType):
        return _read_union(args, value)
    if origin is Literal:
        if value in args and type(value) is type(args[args.index(value)]):
            return value
        raise _Misfit("one of " + ", ".join(str(a) for a in args))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _Misfit("a mapping")
        return {str(k): _read_value(args[1], v) for k, v in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise _Misfit("a list")
        inner = args if origin is tuple and Ellipsis not in args else (args[0],) * len(value)
        if len(inner) != len(value):
            raise _Misfit(f"a list of {len(inner)} values")
        try:
            return origin(_read_value(h, v) for h, v in zip(inner, value, strict=True))
        except _Misfit as misfit:
            raise _Misfit(f"a list in which each is {misfit}") from misfit
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        inner_mistakes: list[ConfigError] = []
        made = _read_dataclass(hint, value, "", inner_mistakes)
        if inner_mistakes:
            raise _Misfit(f"a {hint.__name__}: {inner_mistakes[0].what}")
        return made
    return _read_scalar(hint, value)


def _read_union(args: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in args:
        return None
    expected = []
    for hint in args:
        if hint is type(None):
            expected.append("null")
            continue
        try:
            return _read_value(hint, value)
        except _Misfit as misfit:
            expected.append(str(misfit))
    raise _Misfit(" or ".join(expected))


def _read_scalar(hint: Any, value: Any) -> Any:
    if hint in (str, PathText):
        # A number or a boolean may be a file's or a column's name; nothing else becomes text by itself.
        is_text = isinstance(value, str) or (isinstance(value, int | float) and hint is PathText)
        if is_text and (hint is str or value != ""):  # Path("") would be the current folder
            return str(value)
        raise _Misfit("a path" if hint is PathText else "text")
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise _Misfit("true or false")
    if hint is int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, int) and not isinstance(value, bool) and abs(whole) < 2**63:
            return whole
        raise _Misfit("a whole number" if not isinstance(whole, int) or isinstance(value, bool) else "at most 63 bits")
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and abs(value) <= sys.float_info.max:  # false for NaN too
            return float(value)
        raise _Misfit("a number")
    raise TypeError(f"a schema holds {hint!r}, which the reader does not know")


def _show(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- the settings that every model shares ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base of every model's settings."""

    name: str
    nets: dict[str, str]  # which net each modality of data gets while net=auto
    init_from: PathText | None = None  # a run or checkpoint whose weights training starts from


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Base of every net's settings."""

    name: str


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: str
    path: PathText | None = None
    size: Side | tuple[Side, Side] | None = None  # pixels a side, or [height, width]
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how a picture is brought to that size
    channels: Literal[1, 2, 3] | None = None  # 1 grey or mono, 2 stereo, 3 RGB; null: as the files are
    frames: Count | None = None  # of a clip, its first ones; null: all
    seconds: Annotated[float, Range(low=0, high=600, above=True)] | None = None  # of a sound; null: of the longest
    sample_rate: Annotated[int, Range(low=100, high=768_000)] | None = None  # null: the most common of the files
    tokens: Literal["characters", "bytes", "bpe"] | None = None  # of text; null: characters, unless they are too many
    vocab_size: Annotated[int, Range(low=2, high=1_000_000)] | None = None  # pieces that bpe learns; null: 4,096
    context: Annotated[int, Range(low=1, high=1 << 20)] | None = None  # ids that are seen at once; null: 256
    documents: Literal["file", "line", "paragraph"] | None = None  # what a sample of a text is like; null: a file
    # column or key that holds the text, or two of them; null: text, content, ..., or the only one
    field: str | tuple[str, str] | None = None
    target: str | None = None  # column of a table that is predicted, or that samples are told
    drop: tuple[str, ...] | None = None  # columns of a table that are left out
    categories: tuple[str, ...] | None = None  # columns of a table whose numbers stand for kinds of things
    given: str | tuple[str, ...] | None = None  # columns or keys whose values a text answers to
    items: PathText | None = None  # of ratings: a table of the items, with titles and what else is known of them
    min_rating: float | None = None  # of ratings: lower ones are left out; null: every row counts
    valid_fraction: Annotated[float, Range(low=0, high=0.9)] = 0.1  # held out where the set has no test split
    split_seed: Natural = 0
    workers: Natural = 0  # processes that read a set too large for memory
    on_bad: Literal["error", "skip"] = "error"
    codec: PathText | None = None  # a run whose latents the model learns


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Base of every optimizer's settings. Schedules are counted in samples."""

    name: str
    lr: Positive
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup_samples: Natural = 0
    decay_fraction: Fraction = 1.0  # the last part of training over which lr falls
    final_lr_ratio: Fraction = 0.0  # lr at the end over lr at the top


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    max_steps: Natural | None = None
    max_samples: Natural | None = None
    max_minutes: Positive | None = None
    batch_size: Count | Literal["all"] = 64  # of all devices together
    batch_tokens: Count | None = None  # of sequences: ids of a step, in place of batch_size
    accumulate: Count = 1  # micro-batches a device
    devices: Count = 1
    clip_norm: Positive | None = None
    ema_half_life_samples: Natural | None = None  # null: no moving average of the weights
    ema_rampup: NonNegative = 0.05  # the half-life is at most this fraction of the samples seen
    grad_tolerance: Positive | None = None  # stop when the norm of the gradient falls below
    eval_every: Natural = 500  # steps; 0: only at the end
    save_every: Natural = 500
    save_minutes: Positive | None = 10.0
    preview_every: Natural = 500
    log_every: Count = 10  # steps between lines of metrics.jsonl
    log_seconds: Positive = 10.0  # between plain lines where no person looks
    keep: Count = 2  # checkpoints beside the best
    stop_metric: str | None = None  # null: what the model states
    patience: Count | None = None  # evaluations without a better stop_metric before stopping
    timeout_seconds: Positive = 600.0  # how long processes wait for each other


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    batch_size: Annotated[int, Range(low=1, high=1 << 20)] = 64
    truncation: Annotated[float, Range(low=0, high=1, above=True)] = 1.0
    frames: Annotated[int, Range(low=2, high=1000)] = 8  # of an interpolation, from one sample to the next
    path: Literal["spherical", "linear"] = "spherical"  # between latents
    importance_samples: Annotated[int, Range(low=1, high=1_000_000)] = 1  # of a bound on log p(x), for each sample
    solver: Literal["unipc", "euler", "heun", "ancestral", "dpmpp_2m", "sde_2m", "consistency"] = "unipc"
    steps: Annotated[int, Range(low=1, high=10_000)] = 20  # levels of noise; heun evaluates twice at each
    grid: Literal["karras", "uniform_t", "log"] = "karras"  # how the levels lie
    sigma_min: Level | None = None  # lowest level, in deviations of the data; null: the model's
    sigma_max: Level | None = None
    shift: Level = 1.0  # of all levels
    eta: Fraction = 1.0  # fresh noise of ancestral and sde_2m; 0: none
    churn: NonNegative = 0.0  # fresh noise of heun
    guidance: Annotated[float, Range(low=0, high=1000)] = (
        1.0  # how far the condition is followed beyond the model without it; 1: off
    )
    guidance_interval: tuple[NonNegative, NonNegative] | None = None  # levels of noise between which it is on
    guide: PathText | None = None  # a run that guidance leads away from, in place of the model without condition
    repeats: Annotated[int, Range(low=1, high=1000)] = 10  # of a step that imputes
    # Of which the mean or the mode fills in a cell of a table; auto: 32, of fewer than 45,000 rows more, 100 at most.
    draws: Annotated[int, Range(low=1, high=10_000)] | Literal["auto"] = 32
    print_grid: bool = False
    temperature: NonNegative = 1.0  # of the next id; 0: always the likeliest
    top_k: Count | None = None  # likeliest ids that it is one of; null: all
    top_p: Annotated[float, Range(low=0, high=1, above=True)] = 1.0  # share that the likeliest ids hold together
    min_p: Fraction = 0.0  # of the likeliest id's probability, that an id must have
    repetition_penalty: Positive = 1.0  # of ids that were drawn before; 1: none
    max_tokens: Annotated[int, Range(low=1, high=1 << 20)] | None = None  # of a sample; null: a context and one more
    stop: tuple[str, ...] = ()  # texts at which a sample ends
    log_probs: bool = False  # of drawn ids go into samples.jsonl
    likelihood_steps: Annotated[int, Range(low=0, high=10_000)] = 0  # that lead x to noise, for log p(x); 0: not asked


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    root: PathText = PathText("runs")
    name: str | None = None
    dir: PathText | None = None


Dtype = Literal["auto", "fp32", "bf16", "fp64"]
Task = Literal[
    "generate", "interpolate", "reconstruct", "encode", "vary", "impute", "traverse", "predict"
]  # of samples


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole training run. The types of model, net and optim are replaced by those of the chosen components."""

    model: ModelConfig
    net: NetConfig
    data: DataConfig
    optim: OptimConfig
    trainer: TrainerConfig
    sampling: SamplingConfig
    run: RunConfig
    experiment: str | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    compile: Literal["auto", True, False] = "auto"
    deterministic: bool = False
    seed: Natural = 0
    threads: Threads | None = None  # null: as many as the machine or its container has


def plain(value: Any) -> Any:
    """A settings object as JSON data."""
    return dataclasses.asdict(value)
