"""Runs of diffusion from training to files: edits, prompts, latents, few steps, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genai
from genai.console import Console
from genai.errors import ConfigError, DataError, NonFiniteError
from genai.factory import check_sampling, open_trained
from genai.sampler import generated
from genai.schema import SamplingConfig
from harness import config_of, metrics, train

QUIET = Console(quiet=True)
FEW = ("trainer.max_minutes=null", "trainer.max_steps=2", "dtype=fp32")
TINY = (*FEW, "net.width=8", "net.multipliers=[1,2]", "sampling.steps=3")
LONGER = (*(text for text in TINY if "max_steps" not in text), "optim.warmup_samples=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained as long as what it is told makes a difference."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(config_of("diffusion", folder, *LONGER, "data=digits", "trainer.max_steps=100"))
    return folder


def sampled(run: Path, folder: Path, *overrides: str, **options: Any) -> dict[str, np.ndarray]:
    genai.sample(run, *overrides, out=folder, format="npz", console=QUIET, **options)
    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def white(path: Path, size: tuple[int, int], rows: slice) -> Path:
    mask = np.zeros(size, np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(path)
    return path


def test_imputed_pictures_keep_what_the_mask_leaves(run: Path, tmp_path: Path) -> None:
    mask = white(tmp_path / "mask.png", (8, 8), slice(4, 8))
    options: dict[str, Any] = {"task": "impute", "mask": mask, "count": 5}
    made = sampled(run, tmp_path / "a", "sampling.repeats=2", **options)["samples"]
    own = sampled(run, tmp_path / "b", task="vary", strength=0.0, count=5)["samples"]
    assert np.array_equal(made[:, :4], own[:, :4])
    assert not np.array_equal(made[:, 4:], own[:, 4:])
    array = np.zeros((8, 8), bool)
    array[4:] = True
    np.save(tmp_path / "mask.npy", array)
    again = sampled(run, tmp_path / "c", "sampling.repeats=2", **{**options, "mask": tmp_path / "mask.npy"})["samples"]
    assert np.array_equal(made, again)
    genai.sample(run, out=tmp_path / "files", console=QUIET, **options)
    assert (tmp_path / "files" / "grid.png").exists()


def test_masks_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], says: str, **options: Any) -> None:
        with pytest.raises(error, match=says):
            genai.sample(run, out=tmp_path / "out", console=QUIET, **options)

    mask = white(tmp_path / "mask.png", (9, 8), slice(4, 8))
    refused(DataError, "a mask of 9 x 8, the model's samples are 8 x 8", task="impute", mask=mask)
    refused(DataError, "no such file", task="impute", mask=tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "archive.npy.npz", np.zeros((8, 8)))
    (tmp_path / "archive.npy.npz").rename(tmp_path / "archive.npy")
    np.save(tmp_path / "texts.npy", np.full((8, 8), "white"))
    for name in ("empty", "archive", "texts"):
        refused(DataError, "not a readable .npy array", task="impute", mask=tmp_path / f"{name}.npy")
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "none.npy", np.zeros((8, 8)))
    refused(DataError, "not a readable .npy array", task="impute", mask=tmp_path / "nan.npy")
    refused(DataError, "nothing is missing", task="impute", mask=tmp_path / "none.npy")
    refused(DataError, "a mask is a picture", task="impute", mask=tmp_path / "text.png")
    refused(ConfigError, "needs to be told what is missing - type --mask", task="impute")
    refused(ConfigError, "--mask is of --task impute alone", mask=mask)
    vae, mask = tmp_path / "vae", white(tmp_path / "mask.png", (8, 8), slice(4, 8))
    train(config_of("vae", vae, *FEW, "data=digits"))
    with pytest.raises(ConfigError, match=r"imputes nothing - models that do: .*diffusion"):
        genai.sample(vae, task="impute", mask=mask, out=tmp_path / "out", console=QUIET)


@pytest.mark.parametrize("solver", ["unipc", "euler", "heun", "ancestral", "dpmpp_2m", "sde_2m", "consistency"])
def test_a_sample_does_not_depend_on_how_many_are_drawn(run: Path, tmp_path: Path, solver: str) -> None:
    name = f"sampling.solver={solver}"
    many = sampled(run, tmp_path / "a", name, count=7)["samples"]
    few = sampled(run, tmp_path / "b", name, count=3)["samples"]
    assert np.array_equal(many[:3], few)


def test_levels_of_noise_are_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["sampling.print_grid=true", "sampling.steps=3", "sampling.sigma_max=10", "sampling.grid=log"]
    genai.sample(run, *settings, out=tmp_path / "a", console=Console())
    assert "levels of noise: 10 0.1414 0.002 0" in capsys.readouterr().err


def test_settings_that_say_nothing_to_a_model_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sampling\.truncation says nothing to this model - .*: gan, vae"):
        genai.sample(run, "sampling.truncation=0.5", console=QUIET)
    with pytest.raises(ConfigError, match=r"sampling\.importance_samples says nothing"):
        genai.evaluate(run, "sampling.importance_samples=2", console=QUIET)
    with pytest.raises(ConfigError, match=r"sampling\.steps says nothing to this model"):
        train(config_of("gan", tmp_path / "gan", *FEW, "data=digits", "sampling.steps=3"))
    assert not (tmp_path / "gan").exists()
    for interval in ("[100,200]", "[3,2]"):
        with pytest.raises(ConfigError, match="no level of noise lies in"):
            genai.sample(run, "sampling.guidance=2", f"sampling.guidance_interval={interval}", console=QUIET)
    with pytest.raises(ConfigError, match=r"between 0 and 1,000"):
        genai.sample(run, "sampling.guidance=1e30", console=QUIET)
    with pytest.raises(ConfigError, match=r"--strength is of --task vary alone"):
        genai.sample(run, strength=0.4, console=QUIET)
    with pytest.raises(ConfigError, match=r"--label -1: there are 10 classes"):
        genai.sample(run, labels=["-1"], console=QUIET)
    with pytest.raises(ConfigError, match="sigma_min=5 is not below"):
        genai.sample(run, "sampling.sigma_min=5", "sampling.sigma_max=4", console=QUIET)


def test_a_default_of_sampling_that_was_another_one_is_not_taken_for_a_setting_of_the_run(run: Path) -> None:
    model = open_trained(run).model
    older = replace(SamplingConfig(), truncation=0.5)
    check_sampling(model, replace(older, steps=3), older)
    with pytest.raises(ConfigError, match=r"sampling\.truncation says nothing"):
        check_sampling(model, replace(older, truncation=0.6), older)


def test_a_guide_is_another_run_on_the_same_data(run: Path, tmp_path: Path) -> None:
    plain = sampled(run, tmp_path / "a", count=4)["samples"].astype(int)
    itself = sampled(run, tmp_path / "b", "sampling.guidance=3", f"sampling.guide={run}", count=4)["samples"]
    assert np.abs(plain - itself).max() <= 1  # away from itself leads nowhere
    free = sampled(run, tmp_path / "c", "sampling.guidance=3", count=4)["samples"]
    assert np.abs(plain - free).max() > 20
    other = tmp_path / "points"
    train(config_of("diffusion", other, *FEW, "data=moons"))
    with pytest.raises(ConfigError, match=r"sampling\.guide names a model of other data"):
        genai.sample(run, f"sampling.guide={other}", "sampling.guidance=2", console=QUIET)
    gan = tmp_path / "gan"
    train(config_of("gan", gan, *FEW, "data=digits"))
    with pytest.raises(ConfigError, match=r"says nothing to this model"):
        genai.sample(gan, f"sampling.guide={run}", console=QUIET)
    guide = ("sampling.guidance=2", f"sampling.guide={run}")
    with pytest.raises(ConfigError, match=r"sampling\.guide is of genai sample alone"):
        train(config_of("diffusion", tmp_path / "led", *TINY, "data=digits", *guide))
    assert not (tmp_path / "led").exists()


def test_likelihood_is_measured_where_it_is_asked_for(run: Path) -> None:
    figures = genai.evaluate(run, "sampling.likelihood_steps=2", console=QUIET)
    assert 0 < figures["bits_per_dim_bound"] < 20
    assert "bits_per_dim_bound" not in genai.evaluate(run, console=QUIET)


def test_losses_are_logged_by_the_level_of_noise(run: Path) -> None:
    line = metrics(run)[-1]
    parts = [line[f"denoiser/noise_{i}"] for i in range(8)]
    assert np.mean(parts) == pytest.approx(line["denoiser/weighted_mse"], rel=1e-5)


def test_prompts_and_labels_reach_a_model_of_both(tmp_path: Path) -> None:
    folder = tmp_path / "emoji"
    settings = ("data.size=16", "model.text_width=50", "trainer.max_steps=20")
    train(config_of("diffusion", folder, *LONGER, "data=emoji", *settings))
    found = sampled(folder, tmp_path / "a", prompts=["red heart", "green apple"], labels=["Symbols"], count=2)
    red, green = found["samples"][:2].astype(int), found["samples"][2:].astype(int)
    assert np.abs(red - green).max() > 5  # of one draw of noise
    flags = sampled(folder, tmp_path / "b", prompts=["red heart"], labels=["Flags"], count=2)["samples"]
    assert np.abs(red - flags).max() > 5
    assert found["samples"].shape == (4, 16, 16, 3)
    assert found["prompts"].tolist() == ["red heart", "red heart", "green apple", "green apple"]
    unsaid = sampled(folder, tmp_path / "b", prompts=["red heart"], count=2)
    assert "labels" not in unsaid  # which a model that was trained with dropout may lack
    only = tmp_path / "only"
    train(config_of("diffusion", only, *TINY, "data=emoji", "data.size=16", "model.conditions=[prompt]"))
    with pytest.raises(ConfigError, match="trained without labels"):
        genai.sample(only, labels=["Symbols"], prompts=["red heart"], console=QUIET)
    digits = tmp_path / "digits"
    train(config_of("diffusion", digits, *TINY, "data=digits"))
    with pytest.raises(ConfigError, match="trained without text"):
        genai.sample(digits, prompts=["three"], console=QUIET)


def test_latent_diffusion_draws_without_the_run_of_its_first_stage(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(config_of("vae", first, *FEW, "data=digits", "net.width=8", "model.downsample=2", "model.latent_dim=2"))
    train(config_of("diffusion", second, *TINY, "data=digits", f"data.codec={first}"))
    shutil.rmtree(first)
    assert sampled(second, tmp_path / "a", count=3)["samples"].shape == (3, 8, 8, 1)
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    assert record["options"]["sampling"]["steps"] == 3
    mask = white(tmp_path / "mask.png", (8, 8), slice(4, 8))
    with pytest.raises(ConfigError, match="draws latents, of which a mask"):
        genai.sample(second, task="impute", mask=mask, console=QUIET)
    third = tmp_path / "third"  # goes on from the run, by the first stage that it holds
    train(config_of("diffusion", third, *TINY, "data=digits", f"data.codec={second}", f"model.init_from={second}"))
    assert sampled(third, tmp_path / "b", count=3)["samples"].shape == (3, 8, 8, 1)


def test_samples_that_are_no_numbers_are_not_written(run: Path, tmp_path: Path) -> None:
    trained = open_trained(run)
    with torch.no_grad():
        next(trained.model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="not finite"):
        generated(trained, SamplingConfig(), "generate", seed=0, count=2, labels=None)


def test_a_trained_run_is_tuned_to_few_steps(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    settings = ("model.consistency=true", f"model.init_from={run}", "sampling.solver=consistency", "sampling.steps=1")
    train(config_of("diffusion", folder, *TINY[:-1], "data=digits", *settings))
    one, two = (
        sampled(folder, tmp_path / str(n), f"sampling.steps={n}", count=3)["samples"].astype(int) for n in (1, 2)
    )
    assert np.abs(one - two).max() > 20
    before = sampled(run, tmp_path / "before", "sampling.solver=consistency", "sampling.steps=2", count=3)["samples"]
    assert np.abs(two - before).mean() < 5  # two steps of tuning leave most of what it had learned
    vae = tmp_path / "vae"
    train(config_of("vae", vae, *FEW, "data=digits"))
    with pytest.raises(ConfigError, match=r"names a vae, this is a diffusion - name a run of a diffusion"):
        train(config_of("diffusion", tmp_path / "other", *TINY, "data=digits", f"model.init_from={vae}"))
    with pytest.raises(ConfigError, match=r"of model\.objective=edm, this is flow"):
        train(config_of("diffusion", folder / "flow", *TINY[:-1], "data=digits", *settings, "model.objective=flow"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("data=digits", "net=dit", "net.patch=3"), r"no multiple of net\.patch=3 - type net\.patch=[24]"),
        (
            ("data=digits", "net.multipliers=[1,1,1,1,1]"),
            r"halve a length of 8 to nothing - type net\.multipliers=\[1,1,1,1\]$",
        ),
        (("data=digits", "net.patch=16"), r"halve a length of 8 to nothing - type net\.patch=1$"),
        (("data=digits", "net=conv"), "removes no noise - type net=unet"),
        (("data=moons", "model.mirror=true"), r"model\.mirror is of pictures"),
        (("data=digits", "model.objective=jit", "model.consistency=true"), r"start from a run with model\.objective="),
        (("data=digits", "model.consistency=true"), r"name the run by model\.init_from=RUN"),
        (("data=digits", "net.multipliers=[]"), r"type net\.multipliers=\[1,2\]"),
        (("data=digits", "net=dit", "net.width=8", "net.heads=4"), r"type net\.width=32"),
        (("data=digits", "model.condition_dropout=0", "sampling.guidance=2"), r"type sampling\.guidance=1"),
        (("data=digits", "sampling.sigma_min=5", "sampling.sigma_max=4"), "is not below"),
    ],
)
def test_what_does_not_fit_the_data_is_told(settings: tuple[str, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        train(config_of("diffusion", tmp_path / "run", *FEW, *settings))
    assert not (tmp_path / "run").exists()


def test_widths_that_heads_do_not_divide_are_trained(tmp_path: Path) -> None:
    train(config_of("diffusion", tmp_path / "run", *FEW, "data=digits", "net.width=29", "sampling.steps=1"))


def test_another_net_does_not_take_the_settings_of_the_usual_one(tmp_path: Path) -> None:
    assert config_of("diffusion", tmp_path, "data=digits").net.width == 16
    for net in ("dit", "mlp"):
        assert config_of("diffusion", tmp_path, "data=digits", f"net={net}").net.width == 128
