"""Builds what a run needs from its settings: the data (through its codec), the model, and trained models again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from genai import checkpoint as checkpoints
from genai import registry
from genai.checkpoint import Checkpoint
from genai.config import read_config
from genai.contract import FirstStage, Model, Spec, TakesGuide
from genai.data.codec import Codec, LatentSplit
from genai.data.source import NOUNS, Dataset, SeenBy, modality_of, open_data
from genai.data.tokens import read_tokenizer
from genai.device import Runtime, memory_errors, start
from genai.errors import CheckpointError, ConfigError, ConfigErrors, DataError, to_resume
from genai.registry import find, load
from genai.run import RunFolder, home
from genai.schema import Config, SamplingConfig, plain, read


@dataclass(frozen=True)
class Trained:
    """A model read back, with all that is needed to draw from it."""

    model: Model
    spec: Spec  # what the model sees
    config: Config
    checkpoint: Checkpoint
    run: RunFolder | None  # None for a checkpoint that stands alone
    codec: Codec | None
    runtime: Runtime

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the data it learned from, whether or not the model is told the label."""
        return self.spec.cond["label"].names if "label" in self.spec.cond else self.spec.names

    @property
    def output(self) -> Spec:
        """What its samples are once decoded."""
        spec = self.model.spec
        return spec if self.codec is None else self.codec.decoded(spec)

    def decode(self, x: Tensor) -> Tensor:
        """Model units -> the units of `output`."""
        return x if self.codec is None else self.codec.decode(x)


def build_model(config: Config, spec: Spec) -> Model:
    """The untrained model that `config` names, for data as `spec` says."""
    model: type[Model] = load(find("model", config.model.name).target)
    return model.suited(spec)(spec=spec, config=config.model, net=config.net)


def require(model: Model, capability: type, lacks: str) -> None:
    """Raises ConfigError, with the models that have it, for a model without a capability; `lacks` says it in words."""
    if not isinstance(model, capability):
        models = registry.components("model").items()
        able = [name for name, c in models if issubclass(registry.load(c.target).suited(model.spec), capability)]
        raise ConfigError(f"this model {lacks}", fix=f"models that do: {', '.join(able) or 'none'}")


def check_sampling(model: Model, sampling: SamplingConfig, before: SamplingConfig) -> None:
    """Raises ConfigError for settings of sampling that say nothing to this model, or that it cannot go by.

    Told from those `before` them, the run's own, which may hold a default that is another one by now."""
    own = plain(before)
    given = [key for key, value in plain(sampling).items() if value != own[key]]
    if unused := [key for key in given if key not in model.sampling_keys | {"batch_size"}]:
        models = registry.components("model").items()
        able = [name for name, found in models if unused[0] in registry.load(found.target).sampling_keys]
        what = f"sampling.{unused[0]} says nothing to this model"
        raise ConfigError(what, fix=f"leave it out; models that go by it: {', '.join(able) or 'none'}")
    model.check_sampling(sampling)


def take_guide(trained: Trained, guide: Path) -> None:
    """Gives the model the one at `guide` to be led away from. Raises ConfigError for one of other data."""
    require(trained.model, TakesGuide, "is not guided")
    runtime = trained.runtime
    weaker = open_trained(guide, device=str(runtime.device), dtype=runtime.precision, threads=runtime.threads)
    assert isinstance(trained.model, TakesGuide)
    trained.model.take_guide(weaker.model)


def predicts(config: Config) -> Any:
    return load(find("model", config.model.name).target).predicts


def open_dataset(config: Config, codec: Codec | None, *, tokenizer: str = "") -> Dataset:
    """The training data as the model sees it: latents where there is a codec, text as ids by a `tokenizer` that a model
    learned with before."""
    # In the units that the codec learned: those of audio follow from the data.
    seen_by = None if codec is None else SeenBy(codec.spec, (), False)
    return _through(codec, open_data(config.data, predicts=predicts(config), seen_by=seen_by, tokenizer=tokenizer))


def open_evaluation_data(trained: Trained, config: Config, *, another: bool, whole: bool = False) -> Dataset:
    """Held-out data in the units that the model learned in: the run's own split or, of `another` set, its test part or
    all of it. The set of the training at another path is still that set, unless the `whole` of it is asked for."""
    units = trained.spec if trained.codec is None else trained.codec.spec
    # Pictures of any size and colours are brought to what it learned, as sounds of any rate and length are, and clips.
    seen = units.seen
    if another and (units.modality == "ratings" or seen.modality == "table"):  # whatever its columns hold
        config = replace(config, data=replace(config.data, drop=config.data.drop or ()))
    if another and seen.modality == "text" and seen is not units:
        config = replace(config, data=replace(config.data, context=seen.shape[-1]))
    as_text, as_table = seen.modality == "text", config.data.drop is not None
    modality = modality_of(config.data.name, config.data.path, as_text=as_text, as_table=as_table) if another else ""
    unlike = modality != seen.modality and {modality, seen.modality} & {"text", "table"}
    if modality and unlike and seen.modality in NOUNS and units.modality != "ratings":
        what = f"the model learned from {NOUNS[seen.modality]}, not from {NOUNS[modality]}"
        raise DataError(what, path=config.data.path, fix=f"give data.path {NOUNS[seen.modality]}")
    if modality == units.seen.modality and modality in ("image", "video"):
        channels, *length, height, width = units.seen.shape
        size, channels = config.data.size or (height, width), config.data.channels or channels
        adapted = replace(config.data, size=size, channels=cast("Literal[1, 3]", channels))
        if length:
            adapted = replace(adapted, frames=config.data.frames or length[0])
        config = replace(config, data=adapted)

    def opened(hold_out_all: bool) -> Dataset:
        seen_by = SeenBy(units, trained.class_names, hold_out_all, trained.spec.prompt_length)
        return _through(trained.codec, open_data(config.data, predicts=predicts(config), seen_by=seen_by))

    if whole:
        return opened(hold_out_all=True).heard_by(trained.model.spec)
    data = opened(hold_out_all=False)
    split = None if trained.run is None else trained.run.info.split
    if config.data == trained.config.data and split is not None and split.sha256 != data.fingerprint:
        where = config.data.path or config.data.name
        fix = "put the data back, or name others by --input PATH"
        raise DataError("the data or its split is not what this run was trained on", path=where, fix=fix)
    if another and (split is None or split.sha256 != data.fingerprint):
        data = opened(hold_out_all=True)
    return data.heard_by(trained.model.spec)


def _through(codec: Codec | None, data: Dataset) -> Dataset:
    if codec is None:
        return data
    return replace(
        data,
        spec=codec.encoded(data.spec),
        train=LatentSplit(data.train, codec),
        valid=None if data.valid is None else LatentSplit(data.valid, codec),
        fingerprint=data.fingerprint + ":" + codec.sha256,
    )


def open_trained(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    step: str = "auto",
    raw: bool = False,
) -> Trained:
    """A trained model from a run folder or a checkpoint folder, on the device, in evaluation mode.

    `dtype` auto is fp32, or fp64 for a model trained in it: bfloat16 would move samples by several grey levels between
    devices. `step` is latest, best, a number or auto (see `locate`); `raw` takes the weights without their moving
    average. Raises CheckpointError.
    """
    run, checkpoint = locate(path, step=step)
    config, spec = checked_config(checkpoint), checked_spec(checkpoint)
    if dtype == "auto":
        dtype = "fp64" if config.dtype == "fp64" else "fp32"
    runtime = start(device, dtype, threads=threads)
    with memory_errors("use a machine with more memory"):
        model = build_model(config, spec)
        runtime.place(model)
        checkpoints.load_weights(model, checkpoint, "model" if raw or not checkpoint.has("ema") else "ema")
    codec = None
    if config.data.codec is not None:
        if run is None:
            raise CheckpointError("the first stage is not beside this checkpoint", path=path, fix="name its run folder")
        codec = open_codec(run.codec, runtime)
        require_first_stage(spec, codec.sha256, run)
    return Trained(model.eval().requires_grad_(False), spec, config, checkpoint, run, codec, runtime)


def locate(path: Path, *, step: str = "auto") -> tuple[RunFolder | None, Checkpoint]:
    """The run folder (None for a checkpoint that stands alone) and the checkpoint that `path` and `step` name; "auto":
    the best of a run that ends where nothing better comes, of others the latest."""
    folder = home(path)
    if folder != path:
        if step not in ("auto", "latest"):
            what = f"a checkpoint is named by its folder, and another one by --step {step}"
            raise ConfigError(what, fix="leave --step out, or name the run")
        run = None if folder is None else RunFolder.read(folder)
        return run, checkpoints.named(path, run_id=None if run is None else run.id)
    run = RunFolder.read(path)
    if step == "auto":
        step = "best" if run.info.best is not None and _ends_early(run) else "latest"
    if step == "latest":
        checkpoint = checkpoints.newest(run.checkpoints, warn=None, run_id=run.id)
        if checkpoint is None:
            trains = run.info.status == "running"
            fix = "wait, it is being trained" if trains else f"type {to_resume(path)}"
            raise CheckpointError("this run has no checkpoint yet", path=path, fix=fix)
        return run, checkpoint
    if step == "best":
        if run.info.best is None:
            raise CheckpointError("no best checkpoint: this run watched no metric", path=path, fix="type --step latest")
        number = run.info.best.step
    elif step.isdecimal():
        number = int(step)
    else:
        raise ConfigError(f"--step is '{step}', expected latest, best or a number", fix="type --step latest")
    return run, checkpoints.named(run.checkpoints / f"step_{number:08d}", run_id=run.id)


def _ends_early(run: RunFolder) -> bool:
    trainer = run.document("config.json").get("trainer")
    return isinstance(trainer, dict) and trainer.get("patience") is not None


def checked_config(checkpoint: Checkpoint) -> Config:
    return read_config(checkpoint.json("config.json"), path=checkpoint.path / "config.json")


def checked_spec(checkpoint: Checkpoint) -> Spec:
    path = checkpoint.path / "spec.json"
    try:
        spec = read(Spec, checkpoint.json("spec.json"))
    except ConfigErrors as error:
        raise CheckpointError(f"damaged spec: {error.lines()[0]}", path=path) from error
    if (text := spec.seen).tokenizer:
        try:
            vocab = read_tokenizer(text.tokenizer).vocab
        except Exception as error:  # of the library that reads it
            raise CheckpointError(f"damaged tokenizer: {' '.join(str(error).split())[:80]}", path=path) from error
        if vocab != text.vocab:
            raise CheckpointError(f"the tokenizer has {vocab:,} ids, the model {text.vocab:,}", path=path)
    return spec


# -- codecs: a trained first stage that travels inside the run ---------------------------------------------------------


def adopt_codec(source: Path, run: RunFolder, *, threads: int | None = None) -> None:
    """Copies the averaged weights of the run at `source` into this run's codec folder; where that run itself learned
    from latents, those of its first stage."""
    trained = open_trained(source, device="cpu", threads=threads)
    if trained.run is not None and trained.codec is not None:
        found = checkpoints.newest(trained.run.codec, warn=None)
        assert found is not None
        _keep_codec(run, trained.codec.stage, found, checked_config(found), trained.codec.spec)
        return
    if not isinstance(trained.model, FirstStage):
        raise ConfigError(
            f"data.codec names a {trained.config.model.name}, which has no latents",
            path=source,
            fix="name a first stage's run",
        )
    _keep_codec(run, trained.model, trained.checkpoint, trained.config, trained.spec)


def _keep_codec(run: RunFolder, stage: Any, source: Checkpoint, config: Config, spec: Spec) -> None:
    checkpoints.save(
        run.codec,
        step=source.step,
        model=config.model.name,
        run_id=source.manifest.run_id,  # a copy: equal first stages are equal files in every run
        tensors={"model": stage.state_dict()},
        documents={"config": plain(config), "spec": plain(spec)},
    )


def require_first_stage(spec: Spec, sha256: str, run: RunFolder) -> None:
    """Raises CheckpointError where the run's codec folder does not hold what its model was trained on."""
    if spec.first_stage != sha256:
        what = "this run was trained on the latents of another first stage"
        raise CheckpointError(what, path=run.codec, fix="restore the run's own codec folder")


def require_continuable(model: Model, config: Config, source: Checkpoint, spec: Spec) -> None:
    """Raises ConfigError where the weights of `source` would mean something else in the model."""
    if checked_spec(source).first_stage != spec.first_stage:
        what = "model.init_from names a run that learned from other latents"
        raise ConfigError(what, fix="give both the same data.codec, or leave model.init_from out")
    before = checked_config(source).model
    if before.name != config.model.name:
        what = f"model.init_from names a {before.name}, this is a {config.model.name}"
        raise ConfigError(what, fix=f"name a run of a {config.model.name}")
    for key in sorted(model.weights_go_by):
        theirs, own = getattr(before, key, None), getattr(config.model, key)
        if theirs != own:
            what = f"model.init_from names a run of model.{key}={theirs}, this is {own}"
            raise ConfigError(what, fix=f"type model.{key}={theirs}")


def open_codec(folder: Path, runtime: Runtime) -> Codec:
    checkpoint = checkpoints.newest(folder, warn=None)
    if checkpoint is None:
        raise CheckpointError(
            "the first stage of this run is missing", path=folder, fix="restore the run's codec folder"
        )
    config, spec = checked_config(checkpoint), checked_spec(checkpoint)
    model = build_model(config, spec)
    runtime.place(model)
    checkpoints.load_weights(model, checkpoint, "model")
    stage = model.eval().requires_grad_(False)
    if not isinstance(stage, FirstStage):
        raise CheckpointError("the first stage of this run has no latents", path=folder)
    return Codec(stage, spec, checkpoint.sha256, runtime.device, runtime.dtype)
