"""Every model that can be named keeps the contract: a model is tested by existing, plug-ins too."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from genai import registry, sampler
from genai.config import compose_train
from genai.contract import Model
from genai.data.source import Dataset
from genai.device import start
from genai.factory import build_model, open_dataset, open_trained
from genai.optim import global_norm
from genai.schema import Config, SamplingConfig
from harness import config_of, contents, differences, forked, last_checkpoint, metrics, train

NAMES = sorted(registry.components("model"))
# Forms of a model that share little but its name count as models, too.
MODELS = [
    *NAMES,
    "vae model.latents=fsq model.downsample=4",
    "vae model.latents=vq model.downsample=4 model.codes=16 model.latent_dim=4",
    "vae model.downsample=4 model.latent_dim=2 model.adversarial=0.5 model.likelihood=laplace",
    "vae data=penguins net.width=32",
    "gan data=penguins net.width=32 trainer.batch_size=30",
    "diffusion data=penguins net.width=32",
    "discriminative experiment=discriminative/logistic optim.max_iter=2",
    "discriminative experiment=discriminative/kernel_svm model.num_features=100 optim.max_iter=1",
    "diffusion net=dit net.width=32 net.layers=2 net.patch=2 model.objective=flow model.weighting=learned",
]
SMALL = ["trainer.max_minutes=null", "trainer.max_steps=4", "trainer.save_every=2"]


def small(model: str, folder: Path, *overrides: str) -> Config:
    """On the model's own default set where it is small, else on one that is."""
    name, *form = model.split()
    default = compose_train(name, []).data.name
    pictures, text = default == "fashion_mnist" and "data=" not in model, default == "shakespeare"
    steps = "steps" in registry.load(registry.find("model", name).target).sampling_keys
    cheap = [*(["data=digits"] if pictures else []), *(["sampling.steps=4"] if steps else [])]
    cheap += ["net.width=32", "net.heads=2", "net.layers=1", "sampling.max_tokens=33"] if text else []
    return config_of(name, folder, *SMALL, *form, *cheap, *overrides)


def opened(model: str, tmp_path: Path) -> tuple[Config, Dataset, Model]:
    config = small(model, tmp_path / "unused")
    data = open_dataset(config, None)
    torch.manual_seed(0)
    built = build_model(config, data.spec)
    start(config.device, config.dtype, threads=1).place(built)
    return config, data, built


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a model that nothing interrupted, which no test may change."""
    root = tmp_path_factory.mktemp("whole")

    @functools.cache
    def trained(model: str) -> Path:
        config = small(model, root / str(MODELS.index(model)))
        assert forked(lambda: train(config)) == 0
        return Path(str(config.run.dir))

    return trained


def test_every_config_is_a_model_and_every_model_has_a_config() -> None:
    shipped = {path.stem for path in (Path(__file__).parent.parent / "configs" / "model").glob("*.yaml")}
    assert shipped <= set(NAMES)
    assert {m for m in NAMES if not m.startswith("probe_")} == shipped


@pytest.mark.parametrize("model", MODELS)
def test_each_update_lowers_its_own_loss(model: str, tmp_path: Path) -> None:
    """Alone, on one batch and one noise: what an update differentiates is what it states."""
    config, data, built = opened(model, tmp_path)
    runtime = start(config.device, config.dtype, threads=1)
    batch = data.train.fetch(torch.arange(min(32, len(data.train)))).to(runtime.device, runtime.dtype)
    for update in built.updates():
        learner = built.get_submodule(update.trains)
        built.requires_grad_(False)
        learner.requires_grad_(True)
        parameters = list(learner.parameters())
        before = [p.detach().clone() for p in parameters]
        losses = []
        for _ in range(2):
            runtime.seed(1)
            loss = update.loss(batch, 0)["loss"]
            assert loss.ndim == 0
            losses.append(loss.item())
            built.zero_grad()
            loss.backward()
            assert all(p.grad is None for p in built.parameters() if not p.requires_grad)
            norm = global_norm([p.grad for p in parameters if p.grad is not None])
            with torch.no_grad():  # a step so small that the loss must fall by what the gradient says
                for p in parameters:
                    if p.grad is not None:
                        p -= 1e-3 / (norm * norm + 1e-3) * losses[0] * p.grad if norm > 1e-12 else 0.0
        if losses[0] > 1e-9 and norm > 1e-9:
            assert losses[1] < losses[0], update.prefix
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                p.copy_(value)


@pytest.mark.parametrize("model", MODELS)
def test_training_moves_every_child_that_an_update_names(
    model: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    _, _, built = opened(model, tmp_path)
    first = {name: value.clone() for name, value in built.state_dict().items()}
    folder = whole(model)
    last = contents(last_checkpoint(folder))
    for child in {update.trains for update in built.updates()}:
        moved = [n for n in first if n.startswith(child) and not torch.equal(first[n], last[f"model:{n}"])]
        assert moved, child
    assert all(np.isfinite(v) for line in metrics(folder) for v in line.values())


@pytest.mark.parametrize("model", MODELS)
def test_resume_is_bit_exact(model: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    halves = tmp_path / "halves"
    config = small(model, halves)
    steps = json.loads((whole(model) / "run.json").read_text())["steps"]  # one, where there is nothing to train
    assert forked(lambda: train(config), faults=f"kill@step:{min(3, steps - 1)}") == -9
    assert forked(lambda: train(config, resume=True)) == 0
    assert differences(whole(model), halves) == []
    assert metrics(whole(model)) == metrics(halves)


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_is_the_model(model: str, whole: Callable[[str], Path]) -> None:
    folder = whole(model)
    trained = open_trained(folder, threads=1)
    data = open_dataset(trained.config, None)
    assert trained.spec == data.spec
    stored = contents(last_checkpoint(folder))
    kind = "ema" if any(name.startswith("ema:") for name in stored) else "model"
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, stored[f"{kind}:{name}"].to(value.dtype)), name


@pytest.mark.parametrize("model", MODELS)
def test_samples_do_not_depend_on_the_batch(model: str, tmp_path: Path) -> None:
    _, data, built = opened(model, tmp_path)
    if built.predicts != "data":
        pytest.skip("this model predicts: it draws for an input")
    built.eval()
    runtime = start("cpu", threads=1)
    if next(chain(built.parameters(), built.buffers())).dtype == torch.float64:
        runtime = dataclasses.replace(runtime, precision="fp64")

    def drawn(count: int, batch_size: int) -> torch.Tensor:
        plan = sampler.plan(built.spec, seed=5, count=count)
        return torch.cat(list(sampler.draw(built, plan, runtime, SamplingConfig(batch_size=batch_size))))

    whole, again, single = drawn(7, 16), drawn(3, 16), drawn(7, 2)
    assert whole.shape == (7, *data.spec.shape)
    assert torch.equal(whole[:3], again)
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(whole.double()).all()


@pytest.mark.parametrize("model", MODELS)
def test_held_out_terms_are_finite_scalars(model: str, tmp_path: Path) -> None:
    config, data, built = opened(model, tmp_path)
    runtime = start(config.device, config.dtype, threads=1)
    split = data.valid or data.train
    batch = split.fetch(torch.arange(min(8, len(split)))).to(runtime.device, runtime.dtype)
    terms = built.conclude(built.evaluate(batch))
    assert terms
    for name, value in terms.items():
        assert value.ndim == 0, name
        assert torch.isfinite(value), name
    assert built.stop_metric is None or built.stop_metric in terms
