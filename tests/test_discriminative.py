"""Linear and kernel machines are those of scikit-learn; what an input is brought to first is kept with the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from genai.data import packaged
from genai.data.source import Part, Source
from genai.errors import ConfigError
from genai.factory import open_trained
from genai.nets.kernels import Nystroem, RandomFourier, Standardised
from harness import config_of, contents, differences, forked, last_checkpoint, metrics, train

SETS = {"digits": load_digits, "breast_cancer": load_breast_cancer, "wine": load_wine}


@pytest.fixture
def trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, np.ndarray, np.ndarray]]:
    """A model of the whole of a set of scikit-learn, its rows and their classes."""

    def trained(name: str, *overrides: str) -> tuple[Any, np.ndarray, np.ndarray]:
        x, y = SETS[name](return_X_y=True)
        part = Part(x.astype(np.float32), y.astype(np.int64))
        source = Source(name, "points", part, classes=int(y.max()) + 1)
        monkeypatch.setattr(packaged, "open_digits", lambda config: source)
        config = config_of("discriminative", tmp_path / "run", "data=digits", "data.valid_fraction=0", *overrides)
        assert forked(lambda: train(config)) == 0
        return open_trained(tmp_path / "run", threads=1), part.x.astype(np.float64), y

    return trained


def predicted(trained: Any, x: np.ndarray) -> np.ndarray:
    given = trained.model.spec.cond["input"]
    scaled = (torch.from_numpy(x) - torch.tensor(given.offset)) / torch.tensor(given.scale)
    request = type("Request", (), {"cond": {"input": scaled.to(next(trained.model.parameters()).dtype)}})
    with torch.no_grad():
        return trained.model.draw(request).numpy()


@pytest.mark.parametrize("name", SETS)
def test_logistic_regression_is_scikit_learn_s(name: str, trained_on: Any) -> None:
    trained, x, y = trained_on(name, "experiment=discriminative/logistic")
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(StandardScaler().fit_transform(x), y)
    assert np.abs(predicted(trained, x) - expected.predict_proba(StandardScaler().fit_transform(x))).max() < 1e-3


@pytest.mark.parametrize("name", SETS)
def test_no_linear_support_vector_machine_has_a_lower_objective(name: str, trained_on: Any) -> None:
    """scikit-learn's counts its bias as a weight, so that ours is a little lower."""
    trained, x, y = trained_on(name, "experiment=discriminative/linear_svm")
    z = StandardScaler().fit_transform(x)

    def objective(scores: np.ndarray, weights: np.ndarray) -> float:
        side = np.where(scores.shape[1] == 1, y[:, None], y[:, None] == np.arange(scores.shape[1])) * 2.0 - 1
        return float(0.5 * (weights**2).sum() + (np.maximum(0, 1 - side * scores) ** 2).sum())

    peer = LinearSVC(C=1.0, tol=1e-8, max_iter=100_000, intercept_scaling=100.0).fit(z, y)
    theirs = objective(peer.decision_function(z).reshape(len(z), -1), peer.coef_)
    scores = predicted(trained, x)
    ours = objective(scores if scores.shape[1] > 2 else scores[:, 1:], trained.model.head.weight.detach().numpy())
    assert ours <= theirs * (1 + 1e-3)


def test_a_landmark_for_each_row_gives_the_kernel_itself() -> None:
    rows = torch.randn(60, 5, dtype=torch.float64)
    features = Nystroem(5, scaled=True, features=60, gamma="scale").double()
    features.prepare(rows, torch.Generator().manual_seed(0))
    z = StandardScaler().fit_transform(rows.numpy())
    new = torch.randn(7, 5, dtype=torch.float64)
    expected = rbf_kernel((new.numpy() - rows.numpy().mean(0)) / rows.numpy().std(0), z, gamma=1 / (5 * z.var()))
    found = features(new) @ features(rows).T
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_random_features_give_the_kernel_on_average() -> None:
    rows = torch.randn(50, 5, dtype=torch.float64)
    features = RandomFourier(5, scaled=False, features=20_000, gamma=0.1).double()
    features.prepare(rows, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(
        (features(rows) @ features(rows).T).numpy(), rbf_kernel(rows.numpy(), gamma=0.1), atol=0.03
    )


def test_a_value_that_never_changes_keeps_its_unit() -> None:
    rows = torch.tensor([[1.0, 3.0], [2.0, 3.0]], dtype=torch.float64)
    scale = Standardised(2, scaled=True).double()
    scale.prepare(rows, torch.Generator())
    assert torch.equal(scale(rows), torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("form", ["model.features=nystroem", "model.features=exact"])
@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_newton_s_method_and_lbfgs_find_the_same_kernel_machine(
    name: str, form: str, trained_on: Any, tmp_path: Path
) -> None:
    """Two classes and three; sums of kernels, and features whose products are the kernel, are one function."""
    newton, x, _ = trained_on(name, "experiment=discriminative/kernel_svm", "dtype=fp64", form)
    expected = predicted(newton, x)
    shutil.rmtree(tmp_path / "run")
    long = ["optim=lbfgs", "model.features=nystroem", "trainer.grad_tolerance=1e-8"]
    searched, x, _ = trained_on(name, "experiment=discriminative/kernel_svm", "dtype=fp64", *long)
    np.testing.assert_allclose(expected, predicted(searched, x), atol=1e-3)


def test_newton_s_method_needs_squares(tmp_path: Path) -> None:
    for overrides in (["model.kind=logistic"], ["model.kind=linear_svm", "model.hinge=plain"]):
        config = config_of("discriminative", tmp_path / "run", "data=digits", "optim=newton", *overrides, "optim.lr=1")
        with pytest.raises(ConfigError, match="losses made of squares") as caught:
            train(config)
        assert caught.value.fix == "type optim=lbfgs"


@pytest.mark.parametrize("form", [[], ["model.num_features=300"], ["model.features=random", "model.num_features=500"]])
def test_a_kernel_machine_tells_more_than_a_line(form: list[str], tmp_path: Path) -> None:
    """Held-out digits, of which an RBF machine of scikit-learn gets 0.98 right."""
    run = tmp_path / "run"
    overrides = ["experiment=discriminative/kernel_svm", "data=digits", *form]
    assert forked(lambda: train(config_of("discriminative", run, *overrides))) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["valid/accuracy"] > 0.97


OF_TEXTS = {"text", "text_linear", "molecules"}  # in test_text_classes.py
PRESETS = sorted(
    path.stem
    for path in (Path(__file__).parent.parent / "configs/experiment/discriminative").glob("*")
    if path.stem not in OF_TEXTS
)
FEW = ["net.width=8", "net.max_width=16"]
SMALL = {"cnn": FEW, "spoken_digits": FEW, "ridge": ["optim=lbfgs"]}  # of Newton's method ridge takes one step alone
DATA = {"ridge": "diabetes", "svr": "diabetes", "spoken_digits": "spoken_digits"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(preset: str, tmp_path: Path) -> None:
    """Bit for bit, also in the middle of L-BFGS: an iteration is a step, of four."""
    data = DATA.get(preset, "digits")
    experiment = [f"experiment=discriminative/{preset}", f"data={data}", *SMALL.get(preset, [])]
    optimizer = config_of("discriminative", tmp_path, *experiment).optim.name
    iterations = ["optim.max_iter=1"] if optimizer in ("lbfgs", "newton") else []
    few = ["trainer.max_minutes=null", "trainer.max_samples=null", "trainer.max_steps=4", "trainer.save_every=2"]
    overrides = [*experiment, *few, *iterations, "trainer.eval_every=1"]
    whole, halves = (config_of("discriminative", tmp_path / name, *overrides) for name in ("whole", "halves"))
    assert forked(lambda: train(whole)) == 0
    assert forked(lambda: train(halves), faults="kill@step:3") == -9
    assert forked(lambda: train(halves, resume=True)) == 0
    assert differences(tmp_path / "whole", tmp_path / "halves") == []
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")
    assert metrics(tmp_path / "whole")[-1]["step"] == 4  # it had not come to its end before
    if optimizer == "lbfgs":  # a negative control: the history that the other half needs is there
        assert any("optim:" in name for name in contents(last_checkpoint(tmp_path / "whole")))


def test_spoken_digits_are_told_apart_by_their_spectra(tmp_path: Path) -> None:
    """By few steps of a small network, far better than one in ten."""
    few = ["net.width=16", "net.patch=4", "trainer.max_samples=4000", "trainer.eval_every=0", "dtype=fp32"]
    config = config_of("discriminative", tmp_path / "run", "experiment=discriminative/spoken_digits", *few)
    assert forked(lambda: train(config)) == 0
    assert metrics(tmp_path / "run")[-1]["valid/accuracy"] > 0.7
