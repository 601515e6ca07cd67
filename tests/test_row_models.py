"""Models of table rows beside closed forms: conditionals of the copula, the likelihood of columns, a denoiser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from genai.config import compose_train
from genai.contract import Batch, Request, Spec
from genai.data.source import Dataset, open_data
from genai.factory import build_model
from genai.models import CopulaConfig
from genai.models.copula import Copula
from genai.models.likelihood import Columns
from genai.nets import MlpConfig
from genai.schema import DataConfig, PathText, SamplingConfig
from harness import config_of, forked, train
from test_tables import mixed, table


def opened(path: Path) -> Dataset:
    return open_data(DataConfig(name="path", path=PathText(str(path)), drop=(), valid_fraction=0), predicts="data")


def request(count: int, seed: int = 0) -> Request:
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    return Request(
        count=count, cond={}, generators=generators, device=torch.device("cpu"), sampling=SamplingConfig(steps=4)
    )


def copula_of(data: Dataset) -> Copula:
    model = Copula(spec=data.spec, config=CopulaConfig(name="copula", nets={}), net=MlpConfig(name="mlp"))
    model.prepare(data.train.fetch, len(data.train), 0)
    return model.eval()


def gaussian(path: Path) -> tuple[Path, np.ndarray]:
    """Three columns, normal but for a monotone change of each."""
    covariance = np.array([[1.0, 0.8, -0.3], [0.8, 1.0, 0.1], [-0.3, 0.1, 1.0]])
    z = np.random.RandomState(0).multivariate_normal(np.zeros(3), covariance, 4000)
    values = np.stack([np.exp(z[:, 0]), z[:, 1] ** 3, 7 + z[:, 2]], axis=1)
    return table(path, ["a", "b", "c"], [[f"{v:.9f}" for v in row] for row in values]), covariance


def test_a_copula_finds_the_correlations_of_ranks(tmp_path: Path) -> None:
    path, covariance = gaussian(tmp_path / "a.csv")
    model = copula_of(opened(path))
    assert np.allclose(model.correlation.numpy(), covariance, atol=0.03)
    x = model.draw(request(4000)).double().numpy()
    assert np.allclose(np.corrcoef(x.T), covariance, atol=0.04)


def test_a_copula_fills_in_by_the_conditional_of_normal_scores(tmp_path: Path) -> None:
    """Mean and deviation of one given the two others: regression."""
    path, _ = gaussian(tmp_path / "a.csv")
    data = opened(path)
    model = copula_of(data)
    r = model.correlation.double().numpy()
    given = torch.tensor([[0.5, 0.0, -1.2]]).expand(6000, -1)
    missing = torch.tensor([[False, True, False]]).expand(6000, -1)
    drawn = model.impute(given, missing, request(6000))[:, 1].double().numpy()
    weights = np.linalg.solve(r[np.ix_([0, 2], [0, 2])], r[[0, 2], 1])
    assert drawn.mean() == pytest.approx(weights @ [0.5, -1.2], abs=0.03)
    assert drawn.std() == pytest.approx(np.sqrt(1 - weights @ r[[0, 2], 1]), abs=0.02)


def test_a_copula_is_known_after_one_look_whatever_its_budget(tmp_path: Path) -> None:
    config = config_of("copula", tmp_path / "run", "trainer.max_minutes=5", "trainer.max_steps=null")
    assert forked(lambda: train(config)) == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["steps"] == 1


def test_a_copula_finds_rows_with_holes_as_likely_as_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    z = np.random.RandomState(0).multivariate_normal(np.zeros(2), [[1.0, 0.9], [0.9, 1.0]], 3000)
    cells = [[f"{a:.9f}", "" if i % 2 else f"{b:.9f}"] for i, (a, b) in enumerate(z)]
    data = opened(table(path, ["a", "b"], cells))
    model = copula_of(data)
    whole = model.evaluate(data.train.fetch(torch.arange(0, 3000, 2)))["copula_nats"]
    halves = model.evaluate(data.train.fetch(torch.arange(1, 3000, 2)))["copula_nats"]
    assert float(whole) == pytest.approx(0.5 * np.log(1 - 0.9**2), abs=0.06)
    assert abs(float(halves)) < 0.02  # of one number alone: it is as likely as beside an independent one


def test_a_copula_draws_categories_as_often_as_they_are_met(tmp_path: Path) -> None:
    data = opened(mixed(tmp_path / "a.csv", 2000))
    real = data.train.fetch(torch.arange(len(data.train))).x
    model = copula_of(data)
    drawn = model.draw(request(4000))
    _, groups = model.rows.split(drawn)
    _, expected = model.rows.split(real)
    assert torch.allclose(groups.mean(0), expected.mean(0), atol=0.03)
    assert torch.equal(groups.sum(1), torch.full((4000,), float(len(model.rows.sizes))))


def test_the_likelihood_of_columns_is_gaussian_and_categorical(tmp_path: Path) -> None:
    data = opened(mixed(tmp_path / "a.csv"))
    x = data.train.fetch(torch.arange(50)).x
    likelihood = Columns(data.spec)
    torch.manual_seed(0)
    with torch.no_grad():
        likelihood.tenth_log_sigma.copy_(0.02 * torch.randn(likelihood.rows.numbers))
    output = torch.randn(50, x.shape[1])
    found = likelihood.log_prob(x, output).detach().numpy()
    n, sigma = likelihood.rows.numbers, likelihood.log_sigma.exp().detach().numpy()
    there = likelihood.rows.there(x).numpy()
    expected = (norm.logpdf(x[:, :n].numpy(), output[:, :n].numpy(), sigma) * there).sum(1)
    start = n
    for size in likelihood.rows.sizes:
        logits, own = output[:, start : start + size].numpy(), x[:, start : start + size].numpy()
        expected += (logits * own).sum(1) - logsumexp(logits, axis=1)
        start += size
    assert np.allclose(found, expected, atol=1e-4)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Spec, Batch]:
    path = mixed(tmp_path_factory.mktemp("rows") / "a.csv")
    config = compose_train("diffusion", [f"data.path={path}", "data.drop=[]", "net.width=32"])
    data = open_data(config.data, predicts="data")
    torch.manual_seed(0)
    model = build_model(config, data.spec).eval()
    with torch.no_grad():  # its last layer starts at 0
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, data.spec, data.train.fetch(torch.arange(64))


def test_what_is_known_of_a_row_stays_and_groups_are_one_category(
    diffusion: tuple[torch.nn.Module, Spec, Batch],
) -> None:
    model, _, batch = diffusion
    rows = model.denoiser.rows  # type: ignore[union-attr]
    chosen = torch.rand(64, rows.elements, generator=torch.Generator().manual_seed(1)) < 0.5  # type: ignore[union-attr]
    missing = rows.spread(chosen.float()) > 0  # type: ignore[operator, union-attr]
    made = model.impute(batch.x, missing, request(64))  # type: ignore[operator]
    assert torch.equal(made[~missing], batch.x[~missing])
    _, groups = rows.split(made)  # type: ignore[operator, union-attr]
    assert set(groups.unique().tolist()) == {0.0, 1.0}
    assert not made[:, [rows.numbers + i for i in rows.missing_at]][
        missing[:, [rows.numbers + i for i in rows.missing_at]]
    ].any()  # type: ignore[operator, union-attr]


def test_a_denoiser_does_not_see_what_noise_says_of_known_elements(
    diffusion: tuple[torch.nn.Module, Spec, Batch],
) -> None:
    model, _, batch = diffusion
    rows = model.denoiser.rows  # type: ignore[union-attr]
    is_known = torch.zeros(64, rows.elements)  # type: ignore[arg-type, union-attr]
    is_known[:, 0] = 1.0
    noised = batch.x + torch.randn_like(batch.x)
    other = noised.clone()
    other[:, 0] += 5.0
    sigma = torch.full((64,), 0.7)
    one, two = (model.denoiser.outputs(x, sigma, None, batch.x, is_known) for x in (noised, other))  # type: ignore[operator, union-attr]
    assert torch.allclose(one[:, 1:], two[:, 1:], atol=1e-5)
    _, logs = rows.split(one)  # type: ignore[operator, union-attr]
    sums = torch.cat([part.exp().sum(1, keepdim=True) for part in logs.split(rows.sizes, dim=1)], dim=1)  # type: ignore[union-attr]
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
