"""Classes that are rare, probabilities that mean what they say, and the best of a training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from torch.nn.functional import cross_entropy

from genai.__main__ import run as genai
from genai.config import compose_train
from genai.contract import Request
from genai.errors import ConfigError
from genai.factory import build_model, open_dataset, open_trained
from genai.metrics.classification import figures
from genai.models.calibration import TEMPERATURES, concluded, measured
from harness import config_of, differences, forked, last_checkpoint, metrics, train
from test_discriminative import predicted, trained_on  # noqa: F401  # a fixture

SMALL = ["data=digits", "net=mlp", "net.width=32", "net.layers=1", "trainer.max_minutes=null", "dtype=fp32"]


@pytest.mark.parametrize(
    ("preset", "peer"),
    [
        ("logistic", LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=10_000)),
        ("kernel_svm", None),
    ],
)
def test_balanced_classes_are_scikit_learn_s(preset: str, peer: Any, trained_on: Any) -> None:  # noqa: F811
    """On wine, whose classes are not of one size; a kernel machine moves towards libsvm's, whose hinge is another."""
    model, x, y = trained_on("wine", f"experiment=discriminative/{preset}", "model.class_weights=balanced")
    z = StandardScaler().fit_transform(x)
    counts = np.bincount(y)
    np.testing.assert_allclose(model.model.target.weights, len(y) / (3 * counts), rtol=1e-5)
    if peer is not None:
        assert np.abs(predicted(model, x) - peer.fit(z, y).predict_proba(z)).max() < 1e-3
    else:
        assert (predicted(model, x).argmax(1) == SVC(C=10, class_weight="balanced").fit(z, y).predict(z)).all()


def test_a_balanced_machine_of_two_classes_has_no_higher_objective_than_scikit_learn_s(trained_on: Any) -> None:  # noqa: F811
    model, x, y = trained_on("breast_cancer", "experiment=discriminative/linear_svm", "model.class_weights=balanced")
    z = StandardScaler().fit_transform(x)
    weight = (len(y) / (2 * np.bincount(y)))[y]

    def objective(scores: np.ndarray, weights: np.ndarray) -> float:
        missing = np.maximum(0, 1 - (2 * y - 1) * scores)
        return float(0.5 * (weights**2).sum() + (weight * missing**2).sum())

    peer = LinearSVC(tol=1e-8, max_iter=100_000, intercept_scaling=100.0, class_weight="balanced").fit(z, y)
    theirs = objective(peer.decision_function(z), peer.coef_)
    ours = objective(predicted(model, x)[:, 1], model.model.head.weight.detach().numpy())
    assert ours <= theirs * (1 + 1e-3)


def test_the_temperature_is_the_likeliest_and_its_figures_are_those_of_the_probabilities() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3000, 5, generator=rng, dtype=torch.float64)
    y = torch.multinomial((logits / 2.5).softmax(1), 1, generator=rng)[:, 0]
    temperatures = torch.cat([torch.ones(1), TEMPERATURES])
    halves = [measured(logits[start::2], y[start::2], temperatures) for start in (0, 1)]
    found = concluded({name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]})
    best = minimize_scalar(lambda t: float(cross_entropy(logits / t, y)), bounds=(0.1, 10), method="bounded")
    assert float(found["temperature"]) == pytest.approx(best.x, rel=0.03)
    assert float(found["nll_nats"]) == pytest.approx(best.fun, abs=1e-4)
    for suffix, temperature in (("", float(found["temperature"])), ("_uncalibrated", 1.0)):
        expected = figures((logits / temperature).softmax(1).numpy(), y.numpy(), probable=True)
        for name in ("nll_nats", "ece"):
            assert float(found[name + suffix]) == pytest.approx(expected[name], abs=1e-6), name
    assert found["ece"] < 0.02 < 0.1 < found["ece_uncalibrated"]


CALIBRATED = [*SMALL, "model.calibrate=true", "trainer.max_steps=300", "trainer.eval_every=100", "optim.lr=0.01"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    assert forked(lambda: train(config_of("discriminative", folder, *CALIBRATED, "trainer.save_every=100"))) == 0
    return folder


def test_samples_and_figures_are_calibrated_as_training_decided_at_its_last_evaluation(
    run: Path, tmp_path: Path
) -> None:
    last = metrics(run)[-1]
    trained = open_trained(run, threads=1)
    assert float(trained.model.target.temperature) == pytest.approx(last["valid/temperature"])
    assert last["valid/temperature"] != 1
    assert genai(["sample", str(run), "--out", str(tmp_path), "--quiet"]) == 0
    assert genai(["eval", str(run), "--quiet"]) == 0
    written = json.loads((run / "eval/digits.json").read_text())
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    own = np.array([float(row[f"p({row['label']})"]) for row in rows])
    for name, expected in (("nll_nats", -np.log(own).mean()), ("nll_nats_uncalibrated", None), ("ece", None)):
        assert written[name] == pytest.approx(last[f"valid/{name}"], rel=1e-4), name
        assert expected is None or written[name] == pytest.approx(expected, rel=1e-3)
    assert "temperature" not in written  # that of other data would not be what the model has
    assert written["nll_nats"] <= written["nll_nats_uncalibrated"]


def test_the_temperature_decides_neither_the_class_nor_which_checkpoint_is_best(run: Path) -> None:
    trained = open_trained(run, threads=1)
    assert trained.model.stop_metric == "nll_nats_uncalibrated"
    data = open_dataset(trained.config, None)
    batch = data.valid.fetch(torch.arange(100))  # type: ignore[union-attr]
    scores = trained.model.scores(batch.cond["input"])
    assert torch.equal(trained.model.target.answers(scores).argmax(1), scores.argmax(1))
    lines = [line for line in metrics(run) if "valid/temperature" in line]
    best = min(lines, key=lambda line: line["valid/nll_nats_uncalibrated"])
    assert json.loads((run / "run.json").read_text())["best"]["step"] == best["step"]
    kept = open_trained(run, threads=1, step="best")
    assert float(kept.model.target.temperature) == pytest.approx(best["valid/temperature"])


def test_a_calibrated_training_goes_on_exactly(run: Path, tmp_path: Path) -> None:
    config = config_of("discriminative", tmp_path / "halves", *CALIBRATED, "trainer.save_every=100")
    assert forked(lambda: train(config), faults="kill@step:250") == -9
    assert forked(lambda: train(config, resume=True)) == 0
    assert differences(run, tmp_path / "halves") == []
    assert metrics(run) == metrics(tmp_path / "halves")


def test_support_vector_machines_are_given_probabilities(tmp_path: Path) -> None:
    overrides = ["experiment=discriminative/linear_svm", "model.calibrate=true"]
    config = config_of("discriminative", tmp_path / "run", *overrides)
    assert forked(lambda: train(config)) == 0
    last = metrics(tmp_path / "run")[-1]
    assert last["valid/nll_nats"] < 0.5
    assert last["valid/nll_nats"] < last["valid/nll_nats_uncalibrated"]
    assert genai(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "p(3)" in (tmp_path / "out/predictions.csv").read_text().splitlines()[0]


def test_mixup_learns_what_lies_between_two_samples() -> None:
    """The loss is that of the mixed input for both labels, each by its share."""
    config = compose_train("discriminative", [*SMALL, "model.mixup=0.5", "trainer.max_steps=1"])
    data = open_dataset(config, None)
    model: Any = build_model(config, data.spec)
    torch.nn.init.normal_(model.head.weight)
    batch = data.train.fetch(torch.arange(32))
    torch.manual_seed(5)
    found = model.updates()[0].loss(batch, 0)["loss"]
    torch.manual_seed(5)
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    order = torch.randperm(32)
    x = batch.cond["input"]
    scores = model.scores(share * x + (1 - share) * x[order])
    expected = share * cross_entropy(scores, batch.x) + (1 - share) * cross_entropy(scores, batch.x[order])
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, cross_entropy(model.scores(x), batch.x))


def test_a_picture_and_its_mirror_image_are_given_one_answer() -> None:
    config = compose_train("discriminative", [*SMALL, "model.mirror_answers=true", "trainer.max_steps=1"])
    data = open_dataset(config, None)
    model: Any = build_model(config, data.spec)
    torch.nn.init.normal_(model.head.weight)
    x = data.train.fetch(torch.arange(32)).cond["input"]

    def said(x: torch.Tensor) -> torch.Tensor:
        return model.draw(Request(len(x), {"input": x}, [], torch.device("cpu")))

    torch.testing.assert_close(said(x), said(x.flip(3)))
    assert not torch.allclose(model.scores(x), model.scores(x.flip(3)))


@pytest.mark.parametrize(("metric", "data"), [("accuracy", "digits"), ("r2", "diabetes")])
def test_a_training_stops_on_a_named_metric_and_keeps_the_best_weights(metric: str, data: str, tmp_path: Path) -> None:
    """Higher is better of both: a network that learns its rows by heart, at a rate that is too high, stops."""
    net = ["net=mlp", "net.width=64", "net.layers=2", "dtype=fp32", "optim.lr=0.05", "optim.schedule=constant"]
    limits = ["trainer.max_minutes=null", "trainer.max_steps=3000", "trainer.eval_every=20", "trainer.patience=4"]
    run = tmp_path / "run"
    overrides = [f"data={data}", *net, *limits, f"trainer.stop_metric={metric}", "trainer.save_every=0"]
    assert forked(lambda: train(config_of("discriminative", run, *overrides))) == 0
    values = {line["step"]: line[f"valid/{metric}"] for line in metrics(run) if f"valid/{metric}" in line}
    best = max(values, key=lambda step: (values[step], -step))
    info = json.loads((run / "run.json").read_text())
    assert (info["best"]["step"], info["best"]["metric"]) == (best, metric)
    assert info["steps"] == best + 4 * 20 < 3000  # four evaluations without a better one
    kept = open_trained(run, threads=1, step="best")
    assert kept.checkpoint.step == best
    assert kept.checkpoint.path != last_checkpoint(run)
    assert genai(["eval", str(run), "--step", "best", "--quiet"]) == 0
    written = json.loads(next((run / "eval").glob("*.json")).read_text())
    assert written[metric] == pytest.approx(values[best], rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "fix"),
    [
        (["model.mixup=0.2", "model.kind=logistic"], "model.mixup=0.0"),
        (["model.loss=huber", "model.kind=ridge", "data=diabetes"], "model.loss=mse"),
        (["model.label_smoothing=0.5", "model.kind=linear_svm"], "model.label_smoothing=0.0"),
        (["model.hinge=plain", "model.kind=logistic"], "model.hinge=squared"),
        (["model.augment=[mirror]", "model.kind=logistic"], "'model.augment=[]'"),
        (["model.C=2"], "model.C=1.0"),
        (["data=diabetes", "model.mirror_answers=true"], "model.mirror_answers=false"),
        (["data=diabetes", "model.calibrate=true"], "model.calibrate=false"),
        (["data=diabetes", "model.class_weights=balanced"], "model.class_weights=none"),
    ],
)
def test_what_says_nothing_here_is_refused(overrides: list[str], fix: str, tmp_path: Path) -> None:
    given = {text.split("=")[0] for text in overrides}
    small = [text for text in SMALL if text.split("=")[0] not in given]
    config = config_of("discriminative", tmp_path / "run", *small, "trainer.max_steps=1", *overrides)
    with pytest.raises(ConfigError) as caught:
        train(config)
    assert caught.value.fix == f"type {fix}"
