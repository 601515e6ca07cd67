"""What becomes of an input: itself again, its latent, samples like it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genai
from genai import contract, device
from genai.console import Console
from genai.errors import ConfigError, DataError
from genai.factory import open_dataset, open_trained
from harness import config_of, train

QUIET = Console(quiet=True)
SMALL = ("data=digits", "net.width=8", "trainer.max_minutes=null", "trainer.max_steps=3", "trainer.ema_rampup=10")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    train(config_of("vae", folder, *SMALL, "model.latent_dim=5", "dtype=fp32"))
    return folder


def made(run: Path, out: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    genai.sample(run, out=out, format="npz", console=QUIET, **options)
    arrays = np.load(out / "samples.npz", allow_pickle=False)
    return arrays["samples"], arrays["labels"]


def held_out(run: Path, count: int) -> tuple[torch.Tensor, list[int]]:
    trained = open_trained(run, threads=1)
    split = open_dataset(trained.config, None).valid
    assert split is not None
    batch = split.fetch(torch.arange(count))
    return batch.x, batch.cond["label"].tolist()


def test_what_is_reconstructed_and_encoded_is_the_run_s_held_out_data(run: Path, tmp_path: Path) -> None:
    x, labels = held_out(run, 6)
    trained = open_trained(run, threads=1)
    pictures, told = made(run, tmp_path / "pictures", task="reconstruct", count=6)
    assert told.tolist() == labels
    latents, told = made(run, tmp_path / "latents", task="encode", count=6)
    assert told.tolist() == labels
    with torch.no_grad():
        z = trained.model.to_latent(x)  # type: ignore[operator]
        again = trained.model.from_latent(z)  # type: ignore[operator]
    np.testing.assert_allclose(latents, z.numpy(), atol=1e-5)
    grey = (again * trained.spec.scale[0] + trained.spec.offset[0]).round().clamp(0, 255).numpy()
    assert np.abs(pictures[..., 0] - grey[:, 0]).max() <= 1
    everything, _ = made(run, tmp_path / "all", task="encode")
    assert len(everything) == 180  # a tenth of 1,797
    np.testing.assert_allclose(everything[:6], latents, atol=1e-5)


def test_an_input_of_one_s_own_is_read_and_shown_above_what_becomes_of_it(run: Path, tmp_path: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    out = genai.sample(run, task="reconstruct", input=tmp_path, out=tmp_path / "out", console=QUIET)
    files = [f"0000{i}.png" for i in range(5)]
    assert sorted(path.name for path in out.iterdir()) == [*files, "grid.png", "samples.json"]
    grid = np.asarray(Image.open(out / "grid.png").convert("L"))
    side = 8 * 7 + 2
    for i in range(5):
        assert grid[30, 2 + i * side + 28] == 50 * i
    assert json.loads((out / "samples.json").read_text())["options"]["input"] == str(tmp_path)


def test_so_many_are_drawn_of_each_input(run: Path, tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    out = genai.sample(run, task="vary", input=tmp_path, count=2, out=tmp_path / "out", format="npz", console=QUIET)
    with np.load(out / "samples.npz") as arrays:
        drawn = arrays["samples"]
    assert len(drawn) == 6
    assert not np.array_equal(drawn[0], drawn[1])


def test_pictures_of_another_size_and_colour_are_brought_to_the_model_s(run: Path, tmp_path: Path) -> None:
    """Though nothing said what size that is when it was trained."""
    for i in range(3):
        Image.new("RGB", (40 + i, 36), (80 * i, 80 * i, 80 * i)).save(tmp_path / f"{i}.png")
    out = genai.sample(run, task="encode", input=tmp_path, out=tmp_path / "out", format="npz", console=QUIET)
    found = np.load(out / "samples.npz")["samples"]
    trained = open_trained(run, threads=1)
    grey = torch.tensor([0.0, 80.0, 160.0])[:, None, None, None].expand(3, 1, 8, 8) / 127.5 - 1
    with torch.no_grad():
        np.testing.assert_allclose(found, trained.model.to_latent(grey), atol=1e-4)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"the data are points .* - name data of that kind"):
        genai.evaluate(run, "data=grid25", console=QUIET)


def test_variations_lead_from_the_input_to_new_samples(run: Path, tmp_path: Path) -> None:
    reconstructed, _ = made(run, tmp_path / "again", task="reconstruct", count=4)
    nearest, _ = made(run, tmp_path / "nearest", task="vary", count=4, strength=0.0)
    assert np.abs(nearest.astype(int) - reconstructed).max() <= 1
    trained = open_trained(run, threads=1)
    _, labels = held_out(run, 4)
    with torch.no_grad():
        request = contract.Request(
            count=4,
            cond={"label": torch.tensor(labels)},
            generators=[torch.Generator().manual_seed(device.mix(7, i)) for i in range(4)],
            device=torch.device("cpu"),
        )
        fresh = trained.model.draw(request)
    furthest, _ = made(run, tmp_path / "furthest", task="vary", count=4, strength=1.0, seed=7)
    grey = (fresh * trained.spec.scale[0] + trained.spec.offset[0]).round().clamp(0, 255).numpy()
    assert np.abs(furthest[..., 0] - grey[:, 0]).max() <= 1
    assert not np.array_equal(made(run, tmp_path / "half", task="vary", count=4, seed=7)[0], furthest)


@pytest.mark.parametrize("linear", [True, False])
def test_a_way_through_inputs_leads_from_one_reconstruction_to_the_next(
    run: Path, tmp_path: Path, linear: bool
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "inputs.npz", images=levels)
    options: dict[str, Any] = {"input": tmp_path / "inputs.npz", "count": 3, "format": "npz", "console": QUIET}
    path = f"sampling.path={'linear' if linear else 'spherical'}"
    genai.sample(run, "sampling.frames=2", path, task="interpolate", out=tmp_path / "way", **options)
    made = np.load(tmp_path / "way" / "samples.npz")["samples"][..., 0].astype(float)
    assert made.shape == (6, 8, 8)
    trained = open_trained(run, threads=1)
    with torch.no_grad():
        z = trained.model.known(torch.from_numpy(levels)[:, None] / 127.5 - 1)  # type: ignore[operator]
        following = z.roll(-1, 0)
        middle = (z + following) / 2
        if not linear:  # the sum of two vectors halves their angle; between it and either are equal shares
            angle = torch.acos(torch.cosine_similarity(z, following))[:, None]
            middle = middle / (angle / 2).cos()
        ways = trained.model.from_vector(torch.stack([z, middle], dim=1).flatten(0, 1))  # type: ignore[operator]
    grey = (ways[:, 0] * 127.5 + 127.5).round().clamp(0, 255).numpy()
    assert np.abs(made - grey).max() <= 1


def test_a_traversal_leads_along_the_axes_of_a_principal_component_analysis(run: Path, tmp_path: Path) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    pictures = genai.sample(run, "sampling.frames=5", task="traverse", count=3, out=tmp_path / "out", console=QUIET)
    made = np.stack([np.asarray(Image.open(pictures / f"{i:05d}.png")) for i in range(15)]).astype(float)
    trained = open_trained(run, threads=1)
    x, _ = held_out(run, 180)
    with torch.no_grad():
        z = trained.model.to_latent(x)  # type: ignore[operator]
        axes = decomposition.PCA(3).fit(z.numpy())
        for row, (axis, variance) in enumerate(zip(axes.components_, axes.explained_variance_, strict=True)):
            at = float((z[0].numpy() - axes.mean_) @ axis)
            expected = []
            for deviations in (-2.5, -1.25, 0.0, 1.25, 2.5):
                moved = z[0] + torch.tensor(axis) * (deviations * variance**0.5 - at)
                value = trained.model.from_latent(moved[None].float())[0, 0]  # type: ignore[operator]
                expected.append((value * trained.spec.scale[0] + trained.spec.offset[0]).clamp(0, 255).numpy())
            found = made[5 * row : 5 * row + 5]
            # The sign of an axis is nobody's.
            assert min(np.abs(found - order).max() for order in (expected, expected[::-1])) <= 1


def test_what_cannot_be_is_refused_with_what_to_type(run: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], words: str, **options: Any) -> None:
        with pytest.raises(kind, match=words):
            genai.sample(options.pop("run", run), out=tmp_path / "out", console=QUIET, **options)
        assert not (tmp_path / "out").exists()

    refused(ConfigError, "takes no input", input=tmp_path)
    refused(ConfigError, "takes the labels of its input", task="interpolate", input=tmp_path, labels=[1])
    refused(ConfigError, "takes the labels of its input", task="encode", labels=[1])
    refused(ConfigError, "strength", task="vary", strength=1.5)
    refused(DataError, "no such file.* - check --input", task="encode", input=tmp_path / "missing")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    gan = tmp_path / "gan"
    train(config_of("gan", gan, *SMALL))
    refused(ConfigError, "this model has no latents - models that do: .*vae", run=gan, task="encode")
    refused(ConfigError, "varies no input - models that do: .*vae", run=gan, task="vary")
    np.savez(tmp_path / "two.npz", images=np.zeros((2, 8, 8), np.uint8))
    inputs = {"task": "interpolate", "input": tmp_path / "two.npz"}
    refused(ConfigError, "draws nothing between two inputs - models that do: .*vae", run=gan, **inputs)
    refused(ConfigError, "leads nowhere - type -n 2", count=1, **inputs)


def test_the_bound_of_an_evaluation_says_its_unit_and_how_many_samples(run: Path, tmp_path: Path) -> None:
    figures = genai.evaluate(run, "sampling.importance_samples=20", console=QUIET)
    assert figures["nll_nats_bound_s20"] < figures["nll_nats_bound"]
    assert "bits_per_dim_bound_s20" not in figures  # of a density
    assert not any("_s1" in name for name in genai.evaluate(run, console=QUIET))
    gan = tmp_path / "gan"
    train(config_of("gan", gan, *SMALL))
    with pytest.raises(ConfigError, match=r"says nothing to this model - .*vae"):
        genai.evaluate(gan, "sampling.importance_samples=2", console=QUIET)
