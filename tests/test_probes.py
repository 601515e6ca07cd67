"""Small models of different kinds, as a plug-in, that trainer, checkpoint, sampler and evaluation must carry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import genai
from genai.api import train_config
from genai.config import compose_train
from genai.console import Console
from genai.data.source import open_data
from genai.errors import CheckpointError
from genai.factory import open_trained
from harness import config_of, contents, last_checkpoint, metrics, train

QUIET = Console(quiet=True)


def test_a_lazy_penalty_and_a_late_update_are_taken_when_they_are_due(tmp_path: Path) -> None:
    train(config_of("probe_gan", tmp_path / "run", "trainer.max_steps=7", "trainer.eval_every=7"))
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "r1/loss" in line] == [1, 4, 7]
    assert [line["step"] for line in lines if "generator/loss" in line] == [2, 3, 4, 5, 6, 7]
    out = genai.sample(tmp_path / "run", count=9, out=tmp_path / "out", format="npz", console=QUIET)
    assert np.load(out / "samples.npz", allow_pickle=False)["samples"].shape == (9, 2)
    assert set(genai.evaluate(tmp_path / "run", console=QUIET)) >= {"real_logit", "step", "checkpoint_sha256"}


def test_two_updates_of_one_child_share_its_optimizer(tmp_path: Path) -> None:
    train(config_of("probe_gan", tmp_path / "run", "trainer.max_steps=4"))
    steps = {name: int(t) for name, t in contents(last_checkpoint(tmp_path / "run")).items() if name.endswith("/step")}
    assert {n.split(":")[1].split(".")[0]: v for n, v in steps.items() if "0.weight" in n} == {
        "discriminator": 4 + 2,  # every step, and the penalty at steps 0 and 3
        "generator": 3,
    }


def test_masked_micro_batches_weigh_by_what_counts_in_them(tmp_path: Path) -> None:
    """Accumulating unequal micro-batches equals one batch, and equals the loss worked out by hand."""
    overrides = ["trainer.max_steps=5", "optim=sgd", "optim.momentum=0", "dtype=fp32"]
    train(config_of("probe_chars", tmp_path / "one", *overrides))
    train(config_of("probe_chars", tmp_path / "four", *overrides, "trainer.accumulate=4"))
    one, four = contents(last_checkpoint(tmp_path / "one")), contents(last_checkpoint(tmp_path / "four"))
    for name in one:
        if name.startswith("model:"):
            torch.testing.assert_close(one[name], four[name], rtol=1e-5, atol=1e-7)
    losses = [[line["net/loss"] for line in metrics(tmp_path / name)] for name in ("one", "four")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_weights_are_not_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with equal shares instead of weights the losses differ."""
    from genai.trainer import Trainer

    overrides = ["trainer.max_steps=3", "trainer.accumulate=4"]
    train(config_of("probe_chars", tmp_path / "right", *overrides))
    monkeypatch.setattr(Trainer, "_shares", lambda self, batches: [1 / len(batches)] * len(batches))
    train(config_of("probe_chars", tmp_path / "wrong", *overrides))
    assert metrics(tmp_path / "right") != metrics(tmp_path / "wrong")


def test_full_batch_lbfgs_in_fp64_finds_the_optimum_of_scikit_learn(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    decay = 0.1
    config = config_of("probe_softmax", tmp_path / "run", "trainer.max_steps=60", "trainer.grad_tolerance=1e-6",
                       f"model.decay={decay}")  # fmt: skip
    train(config)
    last = metrics(tmp_path / "run")[-1]
    assert last["net/grad_norm"] < 1e-6
    assert last["step"] < 60
    data = open_data(config.data, predicts="target")
    batch = data.train.fetch(torch.arange(len(data.train)))
    x, y = batch.cond["input"].flatten(1).double(), batch.x
    reference = linear_model.LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=10_000).fit(
        x.numpy(), y.numpy()
    )

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + 0.5 * decay * weight.square().sum())

    ours = contents(last_checkpoint(tmp_path / "run"))
    weight, bias = ours["model:net.weight"], ours["model:net.bias"]
    assert weight.dtype == torch.float64
    theirs = torch.from_numpy(reference.coef_), torch.from_numpy(reference.intercept_)
    assert objective(weight, bias) == pytest.approx(objective(*theirs), abs=1e-9)
    torch.testing.assert_close(weight, theirs[0], atol=1e-4, rtol=0)
    figures = genai.evaluate(tmp_path / "run", console=QUIET)
    assert data.valid is not None
    held_out = data.valid.fetch(torch.arange(len(data.valid)))
    expected = reference.score(held_out.cond["input"].flatten(1).numpy(), held_out.x.numpy())
    assert figures["accuracy"] == pytest.approx(expected, abs=1e-9)


def test_latents_need_their_first_stage_no_more_once_training_has_begun(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(config_of("probe_autoencoder", first))
    train(
        config_of(
            "probe_gan", second, "data=digits", f"data.codec={first}", "trainer.max_steps=20", "trainer.save_every=10"
        )
    )
    shutil.rmtree(first)
    out = genai.sample(second, count=5, out=tmp_path / "out", format="npz", console=QUIET)
    samples = np.load(out / "samples.npz", allow_pickle=False)["samples"]
    assert samples.shape == (5, 8, 8, 1)
    assert samples.dtype == np.uint8
    assert samples.std() > 5
    assert "real_logit" in genai.evaluate(second, console=QUIET)
    genai.resume(second, "trainer.max_steps=25", console=QUIET)
    assert last_checkpoint(second).name == "step_00000025"
    trained = open_trained(second, threads=1)
    assert trained.spec.shape == (12,)
    assert trained.output.shape == (1, 8, 8)
    stored = json.loads((second / "config.json").read_text())
    assert str(tmp_path) not in json.dumps({k: v for k, v in stored.items() if k != "run"})


def test_early_stopping_keeps_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(config_of("probe_softmax", folder, "optim=adam", "optim.lr=0.3", "trainer.max_steps=400",
                    "trainer.batch_size=32", "trainer.eval_every=5", "trainer.patience=3", "trainer.save_every=0",
                    "trainer.keep=1"))  # fmt: skip
    lines = [line for line in metrics(folder) if "valid/nll_nats" in line]
    best = min(lines, key=lambda line: line["valid/nll_nats"])
    info = json.loads((folder / "run.json").read_text())
    assert lines[-1]["step"] < 400
    assert lines.index(best) == len(lines) - 4
    assert info["best"]["step"] == best["step"]
    kept = sorted(int(p.name[5:]) for p in folder.glob("checkpoints/step_*"))
    assert kept == [best["step"], lines[-1]["step"]]
    figures = genai.evaluate(folder, step="best", console=QUIET)
    assert figures["nll_nats"] == pytest.approx(best["valid/nll_nats"], rel=1e-12)


def test_training_starts_from_the_weights_of_another_run(tmp_path: Path) -> None:
    train(config_of("probe_gan", tmp_path / "first", "trainer.max_steps=5"))
    train(config_of("probe_gan", tmp_path / "second", f"model.init_from={tmp_path / 'first'}", "trainer.max_steps=0"))
    first, second = contents(last_checkpoint(tmp_path / "first")), contents(last_checkpoint(tmp_path / "second"))
    for name in first:
        if name.startswith("ema:"):
            assert torch.equal(first[name], second[name.replace("ema:", "model:")]), name


def test_training_on_other_classes_starts_from_all_weights_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(60) % 3)
    small = ("net.width=8", "trainer.max_minutes=null", f"data.path={tmp_path / 'mine.npz'}")
    train(config_of("gan", tmp_path / "first", "data=digits", *small[:2], "trainer.max_steps=3"))
    start = f"model.init_from={tmp_path / 'first'}"
    train_config(config_of("gan", tmp_path / "second", *small, "trainer.max_steps=0", start), console=Console())
    assert "tensors do not fit and start anew: generator" in capsys.readouterr().err
    first, second = contents(last_checkpoint(tmp_path / "first")), contents(last_checkpoint(tmp_path / "second"))
    equal = [
        name
        for name in first
        if name.startswith("ema:") and torch.equal(first[name], second[name.replace("ema:", "model:")])
    ]
    assert len(equal) > 10
    with pytest.raises(CheckpointError, match="does not fit the model"):
        train(config_of("gan", tmp_path / "third", *small[1:], "trainer.max_steps=0", start, "net.width=12"))


def test_a_plugins_keys_are_checked_by_its_yaml() -> None:
    from genai.errors import ConfigErrors

    with pytest.raises(ConfigErrors, match=r"did you mean 'model\.noise'"):
        compose_train("probe_gan", ["model.noize=3"])
    with pytest.raises(ConfigErrors, match="expected a whole number"):
        compose_train("probe_gan", ["model.noise=many"])
