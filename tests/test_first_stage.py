"""A VAE as the first stage of another model: what it learns instead of data, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import genai
from genai.console import Console
from genai.data.codec import Codec
from genai.data.source import open_data
from genai.device import start
from genai.errors import CheckpointError, ConfigError
from genai.factory import adopt_codec, build_model, open_codec, open_dataset, open_trained
from genai.models.vae import Vae
from genai.run import RunFolder
from harness import config_of, train

QUIET = Console(quiet=True)
SMALL = ("data=digits", "net.width=8", "trainer.max_minutes=null", "dtype=fp32")
FORMS = {
    "map": ("model.downsample=4", "model.latent_dim=3"),
    "other": ("model.downsample=4", "model.latent_dim=3", "seed=1"),
    "fsq": ("model.downsample=4", "model.latents=fsq"),
    "vq": ("model.downsample=4", "model.latents=vq", "model.codes=16"),
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stages")
    for name, form in FORMS.items():
        train(config_of("vae", root / name, *SMALL, *form, "trainer.max_steps=60"))
    return root


@pytest.fixture(scope="module")
def second(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second") / "run"
    train(config_of("gan", folder, *SMALL, "net.patch=1", f"data.codec={stages / 'map'}", "trainer.max_steps=3"))
    return folder


def adopted(stage: Path, tmp_path: Path) -> Codec:
    run = RunFolder.create(config_of("vae", tmp_path / "adopting", *SMALL, "trainer.max_steps=1").run, model="vae")
    adopt_codec(stage, run)
    codec = open_codec(run.codec, start("cpu", threads=1))
    run.close()
    return codec


@pytest.mark.parametrize("form", FORMS)
def test_latents_are_what_encode_writes_and_decoding_them_is_a_reconstruction(
    form: str, stages: Path, tmp_path: Path
) -> None:
    config = config_of("vae", tmp_path / "unused", *SMALL, "trainer.max_steps=1")
    codec = adopted(stages / form, tmp_path)
    plain = open_data(config.data, predicts="data")
    data = open_dataset(config, codec)
    assert data.valid is not None
    assert plain.valid is not None
    x = data.valid.to(torch.device("cpu")).fetch(torch.arange(10)).x
    tokens = form in ("fsq", "vq")
    assert (data.spec.kind, data.spec.shape) == (("token", (4,)) if tokens else ("real", (3, 2, 2)))
    assert x.dtype == (torch.int64 if tokens else torch.float32)
    assert not tokens or 0 <= int(x.min()) <= int(x.max()) < data.spec.vocab
    genai.sample(stages / form, task="encode", count=10, out=tmp_path / "z", format="npz", console=QUIET)
    np.testing.assert_allclose(np.load(tmp_path / "z" / "samples.npz")["samples"], x, atol=1e-5)
    genai.sample(stages / form, task="reconstruct", count=10, out=tmp_path / "x", format="npz", console=QUIET)
    grey = (codec.decode(x) * 127.5 + 127.5).round()[:, 0]
    assert np.abs(np.load(tmp_path / "x" / "samples.npz")["samples"][..., 0] - grey.numpy()).max() <= 1


def test_latents_of_a_map_are_standard_over_the_training_data(stages: Path, tmp_path: Path) -> None:
    trained = open_trained(stages / "map", threads=1)
    data = open_dataset(trained.config, None)
    model = trained.model
    assert isinstance(model, Vae)
    drawn = model.autoencoder.encode(data.train.fetch(torch.arange(1000)).x).sample()
    z = model.autoencoder.bottleneck.to_latent(drawn).movedim(1, 0).flatten(1)
    assert z.mean(1).abs().max() < 0.25  # the encoder moved while it was measured
    assert (z.std(1) - 1).abs().max() < 0.25


def test_a_run_on_another_first_stage_than_its_own_is_refused(stages: Path, second: Path, tmp_path: Path) -> None:
    changed, theirs = tmp_path / "changed", tmp_path / "theirs"
    train(config_of("gan", theirs, *SMALL, "net.patch=1", f"data.codec={stages / 'other'}", "trainer.max_steps=1"))
    shutil.copytree(second, changed)
    shutil.rmtree(changed / "codec")
    shutil.copytree(theirs / "codec", changed / "codec")
    refused = pytest.raises(CheckpointError, match="another first stage")
    with refused:
        genai.sample(changed, out=tmp_path / "out", console=QUIET)
    with refused:
        genai.evaluate(changed, console=QUIET)
    with refused:
        genai.resume(changed, "trainer.max_steps=5", console=QUIET)
    with pytest.raises(ConfigError, match="learned from other latents - give both the same"):
        train(config_of("gan", tmp_path / "on", *SMALL, "net.patch=1", f"data.codec={stages / 'other'}",
                        "trainer.max_steps=1", f"model.init_from={second}"))  # fmt: skip
    genai.resume(second, "trainer.max_steps=4", console=QUIET)


@pytest.mark.parametrize(
    ("stage", "data", "says"),
    [
        ("map", "fashion_mnist", r"trained on image \(1, 8, 8\), the data are image \(1, 28, 28\) - type data.size=8"),
        ("map", "moons", r"the data are points \(2,\) - name other data, or another run"),
        ("map", "emoji", r"the data are image \(3, 64, 64\) - name other data, or another run"),
        ("fsq", "digits", "ids out of 240, this model needs numbers - name a first stage of numbers"),
    ],
)
def test_a_first_stage_for_other_data_or_of_ids_is_refused(
    stage: str, data: str, says: str, stages: Path, tmp_path: Path
) -> None:
    settings = ["trainer.max_minutes=null", "trainer.max_steps=1", f"data={data}", f"data.codec={stages / stage}"]
    with pytest.raises(ConfigError, match=says):
        train(config_of("gan", tmp_path / "run", *settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("data=moons", "model.downsample=4"), r"points have no positions.* - type model\.latents=gaussian"),
        (("data=digits", "model.downsample=4", "net=mlp"), "net 'mlp' has no maps"),
        (("data=digits", "model.downsample=1"), r"no power of two times net\.patch=2 - type net\.patch=1"),
        (("data=digits", "model.latents=fsq"), r"there is no map - type model\.downsample=auto"),
    ],
)
def test_settings_that_make_no_map_are_refused(settings: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        train(config_of("vae", tmp_path / "run", "trainer.max_minutes=null", "trainer.max_steps=1", *settings))


@pytest.mark.parametrize("form", ["map", "fsq", "vq"])
def test_a_first_stage_and_what_stands_on_it_compute_in_fp64(form: str, tmp_path: Path) -> None:
    wide = ("data=digits", "net.width=8", "trainer.max_minutes=null", "dtype=fp64", "trainer.max_steps=2",
            "trainer.preview_every=1")  # fmt: skip
    train(config_of("vae", tmp_path / "first", *wide, *FORMS[form]))
    genai.sample(tmp_path / "first", count=2, out=tmp_path / "out", console=QUIET)
    genai.sample(tmp_path / "first", count=2, task="reconstruct", out=tmp_path / "again", console=QUIET)
    if form == "map":
        train(config_of("gan", tmp_path / "second", *wide, "net.patch=1", f"data.codec={tmp_path / 'first'}"))
        genai.sample(tmp_path / "second", count=2, out=tmp_path / "second out", console=QUIET)


def test_black_and_white_latents_are_the_same_for_the_same_picture(tmp_path: Path) -> None:
    train(config_of("vae", tmp_path / "run", *SMALL, "model.likelihood=bernoulli", "trainer.max_steps=2"))
    made = []
    for size in (4, 64):
        out = genai.sample(tmp_path / "run", f"sampling.batch_size={size}", task="encode", count=20,
                           out=tmp_path / str(size), format="npz", console=QUIET)  # fmt: skip
        made.append(np.load(out / "samples.npz")["samples"])
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)


def test_a_first_stage_without_a_prior_reconstructs_and_draws_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of("vae", run, *SMALL, *FORMS["map"], "model.prior=none", "trainer.max_steps=2",
                    "trainer.preview_every=1"))  # fmt: skip
    by_itself = genai.sample(run, count=5, out=tmp_path / "itself", format="npz", console=QUIET)
    asked = genai.sample(run, count=5, task="reconstruct", out=tmp_path / "asked", format="npz", console=QUIET)
    found, expected = (np.load(out / "samples.npz")["samples"] for out in (by_itself, asked))
    assert np.array_equal(found, expected)
    assert json.loads((by_itself / "samples.json").read_text())["options"]["task"] == "reconstruct"
    with Image.open(run / "previews" / "00000002.png") as preview:  # 32 held-out pictures above what becomes of them
        assert preview.size == (8 * 58 + 2, 8 * 58 + 2)
        first = np.asarray(preview.convert("L"))[2 : 2 + 56 : 7, 2 : 2 + 56 : 7]
    data = open_data(config_of("vae", run, *SMALL, "trainer.max_steps=1").data, predicts="data")
    assert data.valid is not None
    assert np.array_equal(first, (data.valid.fetch(torch.arange(1)).x * 127.5 + 127.5).round()[0, 0])
    for task in ("generate", "interpolate", "vary"):
        with pytest.raises(ConfigError, match=r"nothing can be drawn from it alone - train a model on its latents"):
            genai.sample(run, task=task, out=tmp_path / "out", console=QUIET)  # type: ignore[arg-type]


def test_sounds_become_a_map_of_latents_and_sounds_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["data=spoken_digits", "data.valid_fraction=0.02", "net.width=8", "net.blocks=1"]
    small += ["trainer.max_minutes=null", "trainer.max_steps=3"]
    train(config_of("vae", run, *small))
    trained = open_trained(run, threads=1)
    assert isinstance(trained.model, Vae)
    assert (trained.spec.shape, trained.model.latent_spec().shape) == ((1, 8192), (12, 256))
    out = genai.sample(run, count=2, out=tmp_path / "out", console=QUIET)
    assert {path.name for path in out.iterdir()} == {"00000.wav", "00001.wav", "overview.png", "samples.json"}
    figures = genai.evaluate(run, console=QUIET)
    assert {"log_spectral_distance", "l1", "mse", "rate_nats"} <= figures.keys()
    train(config_of("vae", tmp_path / "fsq", "experiment=vae/fsq", *small))
    tokens = open_trained(tmp_path / "fsq", threads=1).model
    assert isinstance(tokens, Vae)
    assert (tokens.latent_spec().kind, tokens.latent_spec().shape) == ("token", (256,))


def test_compiling_reaches_the_networks_that_are_called(tmp_path: Path) -> None:
    """They lie inside a module that only holds them, and compiling that would change nothing."""
    config = config_of("vae", tmp_path / "unused", *SMALL, "trainer.max_steps=1")
    model = build_model(config, open_dataset(config, None).spec)
    dataclasses.replace(start("cpu", threads=1), compiled=True).compile(model)
    assert isinstance(model, Vae)
    for net in (model.autoencoder.encoder, model.autoencoder.decoder):
        assert net._compiled_call_impl is not None


def test_latents_are_drawn_anew_from_their_gaussians(stages: Path, tmp_path: Path) -> None:
    codec = adopted(stages / "map", tmp_path)
    config = config_of("vae", tmp_path / "unused", *SMALL, "trainer.max_steps=1")
    data = open_dataset(config, codec)
    batch = data.train.to(torch.device("cpu")).fetch(torch.arange(4))
    model = codec.stage
    assert isinstance(model, Vae)
    x = open_dataset(config, None).train.fetch(torch.arange(4)).x
    torch.manual_seed(0)
    with torch.no_grad():
        posterior = model.autoencoder.encode(x)
        drawn = torch.stack([model.autoencoder.bottleneck.to_latent(posterior.sample()) for _ in range(4000)])
    torch.testing.assert_close(batch.x, drawn.mean(0), rtol=0.0, atol=0.1)
    assert batch.spread is not None
    torch.testing.assert_close(batch.spread, drawn.std(0), rtol=0.1, atol=0.0)
    again = torch.stack([batch.drawn().x for _ in range(4000)])
    torch.testing.assert_close(again.std(0), batch.spread, rtol=0.1, atol=0.0)
