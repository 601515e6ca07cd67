"""A number is predicted as scikit-learn does, in its own unit; networks learn means, medians and quantiles of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import QuantileRegressor, Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from genai.__main__ import run as genai
from genai.config import compose_train
from genai.contract import Request
from genai.data import packaged
from genai.errors import ConfigError
from genai.factory import build_model, open_trained
from genai.metrics.regression import figures
from harness import config_of, forked, train
from numbers_to_predict import dataset, diabetes

NET = ["data=digits", "net=mlp", "net.width=32", "net.layers=2", "trainer.max_minutes=null", "dtype=fp32"]
KERNEL = ["experiment=discriminative/kernel_svm", "model.hinge=plain", "optim=lbfgs", "dtype=fp64"]
NETWORK = [*NET, "trainer.max_steps=3"]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, np.ndarray, np.ndarray]]:
    """A model of all patients, their rows and their numbers."""

    def train_it(*overrides: str) -> tuple[Any, np.ndarray, np.ndarray]:
        data, x, y = diabetes()
        monkeypatch.setattr(packaged, "open_digits", lambda config: data)
        config = config_of("discriminative", tmp_path / "run", "data=digits", *overrides)
        assert forked(lambda: train(config)) == 0
        return open_trained(tmp_path / "run", threads=1), x, y

    return train_it


def predicted(trained: Any, x: np.ndarray) -> np.ndarray:
    """(N, quantiles) in data units."""
    spec = trained.model.spec
    given = spec.cond["input"]
    rows = torch.from_numpy((x - np.array(given.offset)) / np.array(given.scale))
    request = Request(len(x), {"input": rows.to(next(trained.model.parameters()).dtype)}, [], torch.device("cpu"))
    with torch.no_grad():
        found: np.ndarray = trained.model.draw(request).numpy() * spec.scale[0] + spec.offset[0]
    return found


@pytest.mark.parametrize("C", [1.0, 0.01])
def test_ridge_regression_is_scikit_learn_s(C: float, trained: Any) -> None:
    model, x, y = trained("experiment=discriminative/ridge", f"model.C={C}")
    z = StandardScaler().fit_transform(x)
    expected = Ridge(alpha=1 / C).fit(z, y).predict(z)
    np.testing.assert_allclose(predicted(model, x)[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "peer"),
    [
        (["experiment=discriminative/svr"], SVR(kernel="linear", tol=1e-6)),
        (["experiment=discriminative/svr", "model.C=0.1", "model.epsilon=20"], SVR(kernel="linear", C=0.1, epsilon=20)),
        ([*KERNEL, "model.C=100"], SVR(C=100, tol=1e-6)),
    ],
)
def test_support_vector_regression_is_scikit_learn_s(overrides: list[str], peer: SVR, trained: Any) -> None:
    """In the unit of the numbers. At the edges of a plain loss predictions of equal objectives differ a little."""
    model, x, y = trained(*overrides)
    z = StandardScaler().fit_transform(x)
    rest = predicted(model, x)[:, 0] - peer.fit(z, y).predict(z)
    assert np.abs(rest).max() < 0.05 * y.std()


def test_quantiles_fit_as_well_as_those_of_a_linear_program(trained: Any) -> None:
    """Of a plane; a network that has learned for a while fits them no worse, and none crosses another."""
    settings = ["model.loss=quantile", "model.quantiles=[0.1,0.5,0.75]", "trainer.max_steps=400", "optim.lr=0.02"]
    model, x, y = trained(*NET, *settings, "trainer.batch_size=all", "trainer.ema_half_life_samples=null")
    found = predicted(model, x)
    assert (np.diff(found, axis=1) > 0).all()
    z = StandardScaler().fit_transform(x)
    for column, level in enumerate((0.1, 0.5, 0.75)):
        peer = QuantileRegressor(quantile=level, alpha=0).fit(z, y).predict(z)
        ours, theirs = (np.maximum(level * r, (level - 1) * r).mean() for r in (y - found[:, column], y - peer))
        assert ours < theirs * 1.02, level


@pytest.mark.parametrize(("loss", "expected"), [("mse", 50.0), ("huber", 5 * 217.945 / 95)])
def test_a_few_that_are_far_off_move_huber_s_mean_less(loss: str, expected: float) -> None:
    """Of 95 zeros and five thousands, with a deviation s of 218, it is where 95 b = 5 s."""
    x, y = np.random.default_rng(0).normal(size=(100, 2)), np.r_[np.zeros(95), np.full(5, 1000.0)]
    data = dataset(x, y, range(100), [])
    model: Any = build_model(compose_train("discriminative", [*NETWORK, f"model.loss={loss}"]), data.spec)
    batch, bias = data.train.fetch(torch.arange(100)), model.head.bias
    for _ in range(200):
        (slope,) = torch.autograd.grad(model.updates()[0].loss(batch, 0)["loss"], bias)
        bias.data -= 0.3 * slope
    assert float(bias.detach()) * data.spec.scale[0] + data.spec.offset[0] == pytest.approx(expected, abs=0.1)


def test_figures_of_numbers_are_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(5, 3, 200)
    found = real + rng.normal(0, 1, 200)
    measured = figures(found, real)
    assert measured["mae"] == pytest.approx(mean_absolute_error(real, found))
    assert measured["mse"] == pytest.approx(mean_squared_error(real, found))
    assert measured["rmse"] == pytest.approx(mean_squared_error(real, found) ** 0.5)
    assert measured["r2"] == pytest.approx(r2_score(real, found))
    assert figures(real[:1], real[:1])["r2"] == 1
    assert figures(real[:1] + 1, real[:1])["r2"] == 0
    assert figures(np.full(7, 0.3) + 1e-9, np.full(7, 0.3))["r2"] == 0  # whose variance is rounding


def test_numbers_far_from_zero_are_told_apart(tmp_path: Path) -> None:
    """Targets around a million that differ by cents: written as they are, and no figure of rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    rows = [f"{a:.6f},{1e6 + a / 2:.2f}" for a in x]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]))
    given = ["experiment=discriminative/ridge", f"data.path={tmp_path}/t.csv", "data.target=y", "model.C=1e6"]
    run, out = tmp_path / "run", tmp_path / "out"
    assert genai(["train", "discriminative", *given, f"run.dir={run}", "threads=1", "--quiet"]) == 0
    assert genai(["sample", str(run), "--input", f"{tmp_path}/t.csv", "--out", str(out), "--quiet"]) == 0
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        made = list(csv.DictReader(file))
    assert [float(row["y"]) for row in made] == [round(1e6 + a / 2, 2) for a in x]  # all, not what was held out alone
    assert max(abs(float(row["predicted"]) - float(row["y"])) for row in made) < 0.01
    assert genai(["eval", str(run), "--quiet"]) == 0
    (written,) = (run / "eval").glob("*.json")
    assert json.loads(written.read_text())["rmse"] < 0.005


def test_held_out_terms_are_in_data_units_however_they_are_batched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training logs, what `genai eval` writes and what follows from predictions.csv agree."""
    data, _, _ = diabetes(held_out=100)
    monkeypatch.setattr(packaged, "open_digits", lambda config: data)
    run = tmp_path / "run"
    settings = ["experiment=discriminative/ridge", "data=digits", "threads=1", "--quiet"]
    assert genai(["train", "discriminative", *settings, f"run.dir={run}"]) == 0
    assert genai(["sample", str(run), "--out", str(tmp_path / "out"), "sampling.batch_size=7", "--quiet"]) == 0
    assert genai(["eval", str(run), "sampling.batch_size=33", "--quiet"]) == 0
    with open(tmp_path / "out/predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["input", "predicted", "progress"]
    found, real = (np.array([float(row[name]) for row in rows]) for name in ("predicted", "progress"))
    assert real[:3].tolist() == data.valid.y[:3].mul(data.spec.scale[0]).add(data.spec.offset[0]).round().tolist()  # type: ignore[union-attr]
    measured = json.loads((run / "eval/diabetes.json").read_text())
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for name, value in (
        ("mae", mean_absolute_error(real, found)),
        ("mse", mean_squared_error(real, found)),
        ("r2", r2_score(real, found)),
    ):
        assert measured[name] == pytest.approx(value, rel=1e-4)
        assert logged[f"valid/{name}"] == pytest.approx(value, rel=1e-4)
    assert measured["rmse"] == pytest.approx(measured["mse"] ** 0.5)
    with Image.open(run / "eval/diabetes.predicted.png") as picture:
        assert min(picture.size) > 300


def test_numbers_that_are_not_known_are_predicted_and_not_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _, _ = diabetes(held_out=20)
    monkeypatch.setattr(packaged, "open_digits", lambda config: data)
    run = tmp_path / "run"
    settings = [*NETWORK, "model.loss=quantile", "threads=1", "--quiet"]
    assert genai(["train", "discriminative", *settings, f"run.dir={run}"]) == 0
    data.valid.y[:] = torch.nan  # type: ignore[union-attr]
    assert genai(["sample", str(run), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    header = (tmp_path / "out/predictions.csv").read_text().splitlines()[0]
    assert header == "input,predicted,quantile(0.1),quantile(0.5),quantile(0.9)"
    assert genai(["eval", str(run), "--quiet"]) == 3
    assert "no column progress to compare with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (["model.kind=logistic"], "model.kind=ridge"),
        (["model.kind=linear_svm"], "model.kind=svr"),
        (["model.label_smoothing=0.1"], "model.label_smoothing=0"),
        (["model.loss=quantile", "model.quantiles=[0.9,0.1]"], "model.quantiles=[0.1, 0.9]"),
        (["model.loss=quantile", "model.quantiles=[]"], "model.quantiles=[0.1, 0.5, 0.9]"),
    ],
)
def test_what_numbers_have_not_is_refused(overrides: list[str], fix: str) -> None:
    data, _, _ = diabetes()
    with pytest.raises(ConfigError) as caught:
        build_model(compose_train("discriminative", [*NETWORK, *overrides]), data.spec)
    assert fix in caught.value.fix


@pytest.mark.parametrize("overrides", [["model.kind=ridge"], ["model.kind=svr"], ["model.loss=huber"]])
def test_what_classes_have_not_is_refused(overrides: list[str], tmp_path: Path) -> None:
    assert forked(lambda: train(config_of("discriminative", tmp_path / "r", *NETWORK, *overrides))) == 2


@torch.no_grad()
def test_the_explained_share_of_halves_is_that_of_the_whole() -> None:
    data, _, _ = diabetes()
    model = build_model(compose_train("discriminative", NETWORK), data.spec)
    halves = [model.evaluate(data.train.fetch(torch.arange(start, start + 50))) for start in (0, 50)]
    mean = model.conclude({name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]})
    batch = data.train.fetch(torch.arange(100))
    whole = model.conclude(model.evaluate(batch))
    assert all(torch.allclose(mean[name], whole[name], rtol=1e-4, atol=1e-6) for name in whole)
    expected = r2_score(batch.x, torch.zeros(100))  # a network begins with the mean of all
    assert float(whole["r2"]) == pytest.approx(expected, abs=1e-5)
