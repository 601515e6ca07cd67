"""Solvers on denoisers known in closed form: mixtures of Gaussians, and a Gaussian."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from genai.solvers import flow, steps
from genai.solvers.grid import Grid, sigmas
from genai.solvers.inpaint import inpaint

CENTRES = torch.tensor([[-1.2, 0.3], [0.9, 0.8], [0.4, -1.1]], dtype=torch.float64)
DEVIATION = 0.3
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]], dtype=torch.float64)


def mixture(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] of three Gaussians of equal weight."""
    variance = DEVIATION**2 + sigma**2
    shares = (-torch.cdist(x, CENTRES).square() / (2 * variance)).softmax(1)
    return x + sigma**2 * (shares @ CENTRES - x) / variance


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] of a Gaussian of that covariance around 0."""
    noised = COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64)
    return x @ torch.linalg.solve(noised, COVARIANCE)


def karras(count: int) -> list[float]:
    return sigmas("karras", count, sigma_min=0.002, sigma_max=80.0)


def start(count: int = 500, dim: int = 2) -> Tensor:
    return 80 * torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def normal(seed: int, like: Tensor) -> steps.Noise:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, dtype=like.dtype, generator=generator)


def test_euler_is_ddim_in_the_variance_preserving_form() -> None:
    """Song et al. 2021 (DDIM), equation 12 with sigma_t = 0: on y = sqrt(alpha) x0 + sqrt(1 - alpha) eps."""
    x = ours = start()
    grid = karras(30)
    for a, b in pairwise(grid):
        alpha, beta = 1 / (1 + a * a), 1 / (1 + b * b)
        y = math.sqrt(alpha) * x
        x0 = mixture(y / math.sqrt(alpha), a)
        eps = (y - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
        x = (math.sqrt(beta) * x0 + math.sqrt(1 - beta) * eps) / math.sqrt(beta)
    torch.testing.assert_close(steps.euler(mixture, ours, grid), x, rtol=0.0, atol=1e-10)


def test_euler_is_a_step_of_a_rectified_flow() -> None:
    """On z = (1 - t) x0 + t eps, t = sigma / (1 + sigma), z' = z + (t' - t) (eps - x0)."""
    grid = karras(30)
    z = start() / (1 + grid[0])
    for a, b in pairwise(grid):
        t, u = a / (1 + a), b / (1 + b)
        x0 = mixture(z * (1 + a), a)
        z = z + (u - t) * ((z - (1 - t) * x0) / t - x0)
    torch.testing.assert_close(steps.euler(mixture, start(), grid), z, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("levels", [(5.0, 3.0), (0.4, 0.01)])
def test_an_ancestral_step_is_a_draw_from_the_posterior_of_ddpm(levels: tuple[float, float]) -> None:
    """Ho et al. 2020, equation 7, between two levels of the variance-preserving form."""
    a, b = levels
    x, x0 = torch.tensor([[1.7]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64)
    alpha, before = 1 / (1 + a * a), 1 / (1 + b * b)  # cumulative
    beta = 1 - alpha / before
    mean = math.sqrt(before) * beta / (1 - alpha) * x0 + math.sqrt(alpha / before) * (1 - before) / (1 - alpha) * (
        math.sqrt(alpha) * x
    )
    deviation = math.sqrt((1 - before) / (1 - alpha) * beta)
    for z in (0.0, 1.0):
        step = steps.ancestral_step(x, x0, a, b, lambda z=z: torch.full_like(x, z), eta=1.0)
        torch.testing.assert_close(step * math.sqrt(before), mean + z * deviation, rtol=1e-12, atol=1e-12)


def test_without_fresh_noise_the_sde_is_the_ode() -> None:
    x = start()
    made = steps.ancestral(mixture, x, karras(20), normal(1, x), eta=0.0)
    torch.testing.assert_close(made, steps.euler(mixture, x, karras(20)), rtol=1e-9, atol=1e-9)


@functools.cache
def fine() -> Tensor:
    """Where start() comes to."""
    x = start()
    return steps.heun(mixture, x, karras(2000), normal(0, x))


@pytest.mark.parametrize("evaluations", [18, 32, 64])
def test_unipc_is_closer_than_dpmpp_2m_and_that_than_euler(evaluations: int) -> None:
    x, reference = start(), fine()

    def error(solver: Callable[..., Tensor]) -> float:
        return float((solver(mixture, x, karras(evaluations)) - reference).square().mean().sqrt())

    found = [error(solver) for solver in (steps.unipc, steps.dpmpp_2m, steps.euler)]
    assert found[0] < 0.9 * found[1]
    assert found[1] < 0.9 * found[2]


@functools.cache
def evenly(solver: Callable[..., Tensor], count: int) -> Tensor:
    """On an even grid of ln(sigma), on which twice the count halves the step everywhere."""
    x = 3 * torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = [math.exp(math.log(3.0) + i / count * math.log(0.1 / 3.0)) for i in range(count + 1)]
    return solver(mixture, x, grid)


@pytest.mark.parametrize(("solver", "order"), [(steps.euler, 1), (steps.dpmpp_2m, 2), (steps.unipc, 3)])
def test_the_error_falls_by_the_order(solver: Callable[..., Tensor], order: int) -> None:
    """Towards one end for all of them, which the solver of the highest order finds."""
    reference = evenly(steps.unipc, 2048)
    coarse, half = ((evenly(solver, count) - reference).square().mean().sqrt() for count in (32, 64))
    assert order - 0.2 < math.log2(coarse / half) < order + 0.2


def test_one_evaluation_a_step_and_heun_two() -> None:
    calls: list[float] = []

    def counted(x: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        return mixture(x, sigma)

    x, found = start(4), {}
    for name in ("euler", "dpmpp_2m", "unipc"):
        getattr(steps, name)(counted, x, karras(12))
        found[name], calls = len(calls), []
    for name in ("heun", "ancestral", "consistency"):
        getattr(steps, name)(counted, x, karras(12), normal(0, x))
        found[name], calls = len(calls), []
    assert found == dict.fromkeys(["euler", "dpmpp_2m", "unipc", "ancestral", "consistency"], 12) | {"heun": 23}


@pytest.mark.parametrize(
    "solver",
    [
        lambda d, x, grid, noise: steps.heun(d, x, grid, noise, churn=40.0),
        lambda d, x, grid, noise: steps.ancestral(d, x, grid, noise),
        lambda d, x, grid, noise: steps.dpmpp_2m(d, x, grid, noise, eta=1.0),
        lambda d, x, grid, noise: steps.unipc(d, x, grid),
    ],
    ids=["heun with churn", "ancestral", "sde_2m", "unipc"],
)
def test_samples_are_of_the_distribution(solver: Callable[..., Tensor]) -> None:
    x = start(20_000, 3)
    made = solver(gaussian, x, karras(1000), normal(1, x))
    torch.testing.assert_close(made.T.cov(), COVARIANCE, rtol=0.0, atol=0.03)
    torch.testing.assert_close(made.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0.0, atol=0.03)


@pytest.mark.parametrize("kind", ["karras", "uniform_t", "log"])
def test_a_grid_falls_from_the_highest_level_to_nothing(kind: Grid) -> None:
    for count in (1, 2, 3, 20, 1000):
        levels = sigmas(kind, count, sigma_min=0.002, sigma_max=80.0)
        assert len(levels) == count + 1
        assert levels[0] == pytest.approx(80.0)
        assert levels[-1] == 0.0
        assert all(a > b for a, b in pairwise(levels))
        if count > 1:
            assert levels[-2] == pytest.approx(0.002)


def test_a_shift_is_that_of_flow_time() -> None:
    """Esser et al. 2024, equation 23: t -> s t / (1 + (s - 1) t)."""
    s = 3.0
    plain, shifted = (sigmas("uniform_t", 9, sigma_min=0.01, sigma_max=50.0, shift=k) for k in (1.0, s))
    for a, b in zip(plain[:-1], shifted[:-1], strict=True):
        t = a / (1 + a)
        assert b / (1 + b) == pytest.approx(s * t / (1 + (s - 1) * t))


def test_karras_grid_is_that_of_the_paper() -> None:
    """Karras et al. 2022, equation 5, at N = 3."""
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert sigmas("karras", 3, sigma_min=0.002, sigma_max=80.0) == pytest.approx([80.0, middle, 0.002, 0.0])


def test_inversion_is_undone_by_a_solver() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    levels = karras(400)
    noise = flow.invert(mixture, x, levels[-2::-1])
    torch.testing.assert_close(steps.unipc(mixture, noise, levels), x, rtol=0.0, atol=5e-3)


def test_likelihood_of_a_gaussian_is_right_to_a_hundredth_of_a_bit() -> None:
    x = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = x @ torch.linalg.cholesky(COVARIANCE).T
    truth = torch.from_numpy(multivariate_normal(cov=COVARIANCE.numpy()).logpdf(x.numpy()))
    # All probes there are: their mean is the trace.
    probes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)

    def found(count: int) -> Tensor:
        rising = karras(count)[-2::-1]
        return torch.stack([flow.log_likelihood(gaussian, x, rising, p.expand_as(x)) for p in probes]).mean(0)

    torch.testing.assert_close(found(400), truth, rtol=0.0, atol=1e-2 * math.log(2))
    assert (found(20) - truth).abs().max() > 1e-2 * math.log(2)


def conditional(known: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the last value of the Gaussian given the first two."""
    first, cross = COVARIANCE[:2, :2], COVARIANCE[:2, 2]
    weights = torch.linalg.solve(first, cross)
    return weights @ torch.tensor(known, dtype=torch.float64), (COVARIANCE[2, 2] - weights @ cross).sqrt()


def test_inpainting_of_a_gaussian_comes_to_its_conditional() -> None:
    known = [1.1, -0.4]
    mean, deviation = conditional(known)
    x = start(2000, 3)
    given = torch.tensor([*known, 0.0], dtype=torch.float64).expand_as(x)
    missing = torch.tensor([False, False, True]).expand_as(x)

    def made(repeats: int) -> Tensor:
        return inpaint(gaussian, x, karras(100), normal(4, x), known=given, missing=missing, repeats=repeats)

    found = made(50)
    assert torch.equal(found[:, :2], given[:, :2])
    assert found[:, 2].mean() == pytest.approx(float(mean), abs=0.05)
    assert found[:, 2].std() == pytest.approx(float(deviation), abs=0.05)
    assert float(mean - made(1)[:, 2].mean()) > 0.3  # without repeats what is drawn hardly minds what is known
