"""The VAE: likelihoods against SciPy, bounds against a model whose log p(x) is known, and what the prior learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from genai.contract import Batch, Request, Spec, label_spec
from genai.errors import ConfigError
from genai.models import VaeConfig
from genai.models.bottleneck import GaussianPosterior, Posterior, kl_to_standard_normal
from genai.models.likelihood import (
    Bernoulli,
    Gaussian,
    Logistic,
    LogisticMixture,
    binarised,
    level_of,
    log_prob_of_level,
)
from genai.models.mixture_prior import MixturePrior
from genai.models.spectral import log_spectral_distance
from genai.models.vae import Vae
from genai.nets import ConvConfig, MlpConfig
from harness import config_of, differences, forked, metrics, train

CONFIG = VaeConfig(name="vae", nets={}, latent_dim=3, prior_parts=6)
PICTURES = Spec(kind="real", shape=(1, 8, 8), modality="image", cond={"label": label_spec(3)})
POINTS = Spec(kind="real", shape=(2,), modality="points")
LEVELS = torch.arange(256) / 127.5 - 1


def vae(spec: Spec = PICTURES, **settings: Any) -> Vae:
    torch.manual_seed(0)
    net = MlpConfig(name="mlp", width=8, layers=2) if spec is POINTS else ConvConfig(name="conv", width=4, max_width=4)
    return Vae(spec=spec, config=replace(CONFIG, **settings), net=net).eval()


def batch(count: int = 6) -> Batch:
    levels = torch.randint(0, 256, (count, *PICTURES.shape), generator=torch.Generator().manual_seed(1))
    return Batch(x=LEVELS[levels], cond={"label": torch.arange(count) % 3})


def request(count: int) -> Request:
    return Request(
        count=count,
        cond={"label": torch.arange(count) % 3},
        generators=[torch.Generator().manual_seed(seed) for seed in range(count)],
        device=torch.device("cpu"),
    )


# -- likelihoods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [-1.5, -0.98, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("log_scale", [-6.5, -3.0, 0.0, 2.0])
def test_grey_levels_are_the_intervals_of_a_logistic_and_sum_to_one(mean: float, log_scale: float) -> None:
    level = torch.arange(256.0, dtype=torch.float64)
    found = log_prob_of_level(level, *torch.tensor([mean, log_scale], dtype=torch.float64))
    logistic = stats.logistic(loc=mean, scale=math.exp(log_scale))
    ends = (np.arange(257) - 0.5) / 127.5 - 1
    ends[0], ends[-1] = -np.inf, np.inf
    # Above the mean the survival function keeps the digits that the distribution function loses.
    exact = np.where(ends[:-1] > mean, logistic.sf(ends[:-1]) - logistic.sf(ends[1:]), np.diff(logistic.cdf(ends)))
    seen = exact > 1e-250
    np.testing.assert_allclose(found.exp().numpy()[seen], exact[seen], rtol=1e-8)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_levels_far_from_the_mean_keep_a_gradient() -> None:
    mean = torch.zeros((), requires_grad=True)
    log_prob_of_level(torch.tensor(255.0), mean, torch.tensor(-7.0)).backward()  # type: ignore[no-untyped-call]
    log_prob_of_level(torch.tensor(250.0), mean, torch.tensor(-7.0)).backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert 1000 < mean.grad.item() < math.inf


def test_every_level_of_a_picture_is_read_as_it_was_stored() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(level_of((pixels.float() - 127.5) / 127.5), pixels.float())


def test_a_picture_s_logistic_is_the_sum_over_its_values() -> None:
    x, output = batch(4).x, torch.randn(4, 2, 8, 8)
    each = log_prob_of_level(level_of(x), *output.chunk(2, dim=1))
    torch.testing.assert_close(Logistic(PICTURES).log_prob(x, output), each.sum((1, 2, 3)))


@pytest.mark.parametrize("colours", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_mixture_sums_to_one_over_all_colours_of_a_pixel(colours: int) -> None:
    spec = replace(PICTURES, shape=(colours, 1, 1))
    likelihood = LogisticMixture(spec, parts=2)
    output = torch.randn(1, likelihood.channels, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    if colours == 1:
        x = LEVELS.view(-1, 1, 1, 1)
        total = likelihood.log_prob(x, output.expand(256, -1, -1, -1)).exp().sum()
    else:  # 256^3 colours by chunks of one red
        greens, blues = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
        total = torch.zeros((), dtype=torch.float64)
        for red in LEVELS:
            x = torch.stack([torch.full_like(greens, float(red)), greens, blues])[None]
            # A picture of all greens and blues: what is summed over its pixels is summed here over probabilities.
            each = _per_pixel(likelihood, x.double(), output)
            total += each.exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_a_mixture_over_all_greens_and_blues_is_the_mixture_of_its_reds() -> None:
    """At every 17th red, the ends among them; that a mixture of one colour sums to one is tested above."""
    three = LogisticMixture(replace(PICTURES, shape=(3, 1, 1)), parts=2)
    one = LogisticMixture(replace(PICTURES, shape=(1, 1, 1)), parts=2)
    output = torch.randn(1, three.channels, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    of_red = output.unflatten(1, (2, -1))[:, :, [0, 1, 4]].flatten(1, 2)  # weight, mean and scale of each part
    greens, blues = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
    for red in LEVELS[::17]:
        x = torch.stack([torch.full_like(greens, float(red)), greens, blues])[None]
        total = _per_pixel(three, x.double(), output).exp().sum()
        expected = one.log_prob(red.view(1, 1, 1, 1).double(), of_red).exp()
        assert total.item() == pytest.approx(expected.item(), rel=1e-4)


def _per_pixel(likelihood: LogisticMixture, x: Tensor, output: Tensor) -> Tensor:
    rows = x.flatten(2).transpose(1, 2)[0, :, :, None, None]
    return likelihood.log_prob(rows, output.expand(len(rows), -1, -1, -1))


def test_the_gaussian_equals_scipy_s_and_follows_the_error() -> None:
    x, output = torch.randn(5, 2), torch.randn(5, 2)
    likelihood = Gaussian(POINTS, sigma=0.3)
    exact = stats.norm(loc=output.numpy(), scale=0.3).logpdf(x.numpy()).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(x, output).numpy(), exact, rtol=1e-5)
    optimal = Gaussian(POINTS, sigma="optimal")
    for _ in range(200):
        optimal.follow({"squared_error": torch.tensor(0.04)})
    assert optimal.log_sigma.exp().item() == pytest.approx(0.2, rel=1e-3)


def test_bernoulli_equals_scipy_s_and_is_for_black_and_white_alone() -> None:
    x, output = binarised(batch(4).x, dynamic=False), torch.randn(4, 1, 8, 8)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    chance = output.sigmoid().numpy()
    exact = stats.bernoulli(chance).logpmf((x.numpy() > 0).astype(int)).sum((1, 2, 3))
    np.testing.assert_allclose(Bernoulli(PICTURES).log_prob(x, output).numpy(), exact, rtol=1e-4)
    with pytest.raises(ConfigError, match="Bernoulli likelihood needs values from 0 to 1, the data is points"):
        Bernoulli(POINTS)


def test_dynamic_binarisation_is_white_as_often_as_the_pixel_is_light() -> None:
    torch.manual_seed(0)
    x = torch.tensor([-1.0, -0.5, 0.0, 0.6, 1.0]).repeat(40_000, 1)
    share = ((binarised(x, dynamic=True) + 1) / 2).mean(0)
    torch.testing.assert_close(share, torch.tensor([0.0, 0.25, 0.5, 0.8, 1.0]), atol=0.01, rtol=0)


def test_the_rate_equals_torch_s_divergence() -> None:
    mu, logvar = torch.randn(7, 3), torch.randn(7, 3)
    ours = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    exact = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mu, logvar), exact)


# -- the bound on a model whose log p(x) is known ----------------------------------------------------------------------


class Linear(Vae):
    """x = W z + b + sigma e, with a posterior that is not the exact one: p(x) = N(b, W W' + sigma^2)."""

    def __init__(self) -> None:
        super().__init__(spec=POINTS, config=replace(CONFIG, latent_dim=2, sigma=0.5, prior="normal"), net=NET)
        torch.manual_seed(3)
        self.weight, self.offset = torch.randn(2, 2), torch.randn(2)
        self.autoencoder.decoder = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.autoencoder.decoder.weight.copy_(self.weight)
            self.autoencoder.decoder.bias.copy_(self.offset)
        self.autoencoder.encode = self.posterior  # type: ignore[method-assign]

    def posterior(self, x: Tensor) -> Posterior:
        covariance = torch.linalg.inv(torch.eye(2).to(x) + self.weight.T @ self.weight / 0.25)
        mu = (x - self.offset) @ (covariance @ self.weight.T / 0.25).T + 0.2
        return GaussianPosterior(mu, (covariance.diag().log() + 0.3).expand(len(x), 2))

    def exact(self, x: Tensor) -> np.ndarray:
        covariance = (self.weight @ self.weight.T + 0.25 * torch.eye(2)).numpy()
        found: np.ndarray = stats.multivariate_normal(self.offset.numpy(), covariance).logpdf(x.numpy())
        return found


NET = MlpConfig(name="mlp", width=8, layers=2)


def linear() -> tuple[Linear, Batch, float]:
    model = Linear().double()
    model.weight, model.offset = model.weight.double(), model.offset.double()
    torch.manual_seed(0)
    z = torch.randn(400, 2).double()
    x = z @ model.weight.T + model.offset + 0.5 * torch.randn(400, 2).double()
    return model, Batch(x=x), float(model.exact(x).mean())


def test_the_bound_rises_with_its_samples_to_the_truth_and_not_beyond() -> None:
    model, data, exact = linear()
    bounds = []
    for samples in (1, 5, 50, 500):
        torch.manual_seed(1)
        bounds.append(model.log_likelihood_bound(data, samples).mean().item())
    assert bounds == sorted(bounds)
    assert bounds[0] < exact - 0.1
    assert exact - 0.02 < bounds[-1] < exact + 0.005
    torch.manual_seed(2)
    elbo = -np.mean([model.evaluate(data)["nll_nats_bound"].item() for _ in range(50)])
    torch.manual_seed(2)
    singles = np.mean([model.log_likelihood_bound(data, 1).mean().item() for _ in range(50)])
    assert elbo == pytest.approx(singles, abs=0.02)


@pytest.mark.parametrize("forgotten", ["log_q", "log_p", "mean"])
def test_a_bound_that_forgets_a_part_is_found_out(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the correction of the weights, or averaging logarithms, it misses the truth."""
    model, data, exact = linear()
    torch.manual_seed(1)
    x, samples = data.x, 500
    posterior = model.posterior(x)
    assert isinstance(posterior, GaussianPosterior)
    mu, logvar = posterior.mu, posterior.logvar
    e = torch.randn(samples, *mu.shape).double()
    z = mu + (0.5 * logvar).exp() * e
    parts = {"log_q": -0.5 * (e.square() + logvar).sum(-1), "log_p": -0.5 * z.square().sum(-1)}
    likelihood = model.likelihood.log_prob(x.repeat(samples, 1), model.autoencoder.decoder(z.flatten(0, 1)))
    log_p = torch.zeros(()) if forgotten == "log_p" else parts["log_p"]
    log_q = torch.zeros(()) if forgotten == "log_q" else parts["log_q"]
    weights = likelihood.view(samples, -1) + log_p - log_q
    found = weights.mean(0) if forgotten == "mean" else weights.logsumexp(0) - math.log(samples)
    assert abs(found.mean().item() - exact) > 0.02


def test_the_bound_does_not_depend_on_how_its_samples_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = vae(), batch(4)
    torch.manual_seed(0)
    whole = model.log_likelihood_bound(data, 64)
    monkeypatch.setattr("genai.models.vae._AT_ONCE", 64)
    torch.manual_seed(0)
    torch.testing.assert_close(model.log_likelihood_bound(data, 64), whole)


# -- the loss and the schedule -----------------------------------------------------------------------------------------


def test_the_loss_is_distortion_plus_the_weighted_rate() -> None:
    model = vae(beta=0.5, kl_warmup_samples=100)
    for seen, weight in ((0, 0.0), (50, 0.25), (100, 0.5), (1000, 0.5)):
        torch.manual_seed(0)
        terms = model.loss(batch(), seen)
        assert terms["kl_weight"].item() == pytest.approx(weight)
        total = terms["distortion_nats"] + weight * terms["rate_nats"]
        torch.testing.assert_close(terms["loss"], total)


def test_free_nats_leave_a_small_rate_without_a_gradient() -> None:
    model = vae(free_nats=50.0, prior="normal")
    terms = model.loss(batch(), 0)
    torch.testing.assert_close(terms["loss"], terms["distortion_nats"] + 50.0 * 3)


def test_the_units_of_what_is_measured() -> None:
    model = vae(likelihood="logistic")
    terms = model.evaluate(batch())
    torch.testing.assert_close(terms["nll_nats_bound"], terms["rate_nats"] + terms["distortion_nats"])
    assert terms["bits_per_dim_bound"].item() == pytest.approx(terms["nll_nats_bound"].item() / 64 / math.log(2))
    x = batch().x
    error = (model.from_latent(model.to_latent(x)) - x) / 2
    torch.testing.assert_close(terms["mse"], error.square().mean())
    assert "bits_per_dim_bound" not in vae().evaluate(batch())  # a density is no probability


@pytest.mark.parametrize("likelihood", ["logistic", "logistic_mixture", "bernoulli"])
def test_a_likelihood_of_pictures_refuses_points(likelihood: str) -> None:
    with pytest.raises(ConfigError, match=r"the data is points.* - type model\.likelihood=gaussian"):
        vae(POINTS, likelihood=likelihood)


def test_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs numbers"):
        Vae(spec=Spec(kind="token", shape=(8,), modality="text", vocab=5), config=CONFIG, net=NET)


# -- the discriminator -------------------------------------------------------------------------------------------------


def test_the_discriminator_pulls_as_hard_as_the_distortion_at_every_sample() -> None:
    model = vae(adversarial=0.3, prior="normal")
    x = batch().x
    output = model.autoencoder.decoder(torch.randn(6, 3)).detach().requires_grad_()
    distortions = -model.likelihood.log_prob(x, output)
    (distortion,) = torch.autograd.grad(distortions.sum(), output, retain_graph=True)
    # The loss is a mean over six samples.
    (pull,) = torch.autograd.grad(6 * model.adversarial(x, output, distortions), output)
    torch.testing.assert_close(pull.flatten(1).norm(dim=1), distortion.flatten(1).norm(dim=1), rtol=1e-3, atol=1e-4)


def test_the_discriminator_s_pull_rises_with_the_samples_seen() -> None:
    pulls = []
    for seen, settings in ((0, {}), (0, {"adversarial_warmup_samples": 100}), (50, {"adversarial_warmup_samples": 100}),
                           (200, {"adversarial_warmup_samples": 100})):  # fmt: skip
        model = vae(adversarial=0.3, **settings)
        torch.manual_seed(0)
        terms = model.loss(batch(), seen)
        rest = terms["distortion_nats"] + terms["rate_nats"]
        torch.testing.assert_close(terms["loss"], rest + terms["adversarial"])
        pulls.append(terms["adversarial"].item())
    assert pulls == pytest.approx([pulls[0], 0.0, pulls[0] / 2, pulls[0]])
    assert pulls[0] > 0


def test_who_learns_from_what() -> None:
    assert [update.prefix for update in vae().updates()] == ["autoencoder"]
    model = vae(adversarial=0.3)
    assert [(u.prefix, u.trains) for u in model.updates()] == [
        ("penalty", "discriminator"),
        ("discriminator", "discriminator"),
        ("autoencoder", "autoencoder"),
    ]
    for update in model.updates():
        model.requires_grad_(False)
        model.get_submodule(update.trains).requires_grad_(True)
        update.loss(batch(), 0)["loss"].backward()  # type: ignore[no-untyped-call]
        learned = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        assert learned == {update.trains}
        model.zero_grad()


def test_the_penalty_is_that_of_the_gradients_at_originals_and_at_reconstructions() -> None:
    model = vae(adversarial=0.3)
    torch.manual_seed(0)
    terms = model.penalty_loss(batch(), 0)
    torch.manual_seed(0)
    found = []
    for x in model.original_and_again(batch()):
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(model.discriminator(x).sum(), x)  # type: ignore[misc]
        found.append(gradient.square().flatten(1).sum(1).mean())
    torch.testing.assert_close(torch.stack([terms["r1"], terms["r2"]]), torch.stack(found))
    torch.testing.assert_close(terms["loss"], 0.5 * 4e-4 * 64 * 8 * (found[0] + found[1]))


@pytest.mark.parametrize(
    ("latents", "active", "rings"), [(1, 1.0, False), (1, 0.0, True), (5, 1.0, True), (5, 2.0, False)]
)
def test_a_collapse_is_told_and_one_latent_that_speaks_is_none(latents: int, active: float, rings: bool) -> None:
    (alarm,) = vae(latent_dim=latents).alarms()
    assert (alarm.measure({"valid/active_units": active}) < alarm.below) is rings


# -- the learned prior -------------------------------------------------------------------------------------------------


def mean_of(prior: MixturePrior) -> Tensor:
    """(parts, D) of the first class."""
    parts = torch.arange(prior.share.shape[1])
    return prior.moments(torch.zeros_like(parts), parts)[0]


def follow(prior: MixturePrior, steps: int, draw: Callable[[int], tuple[Tensor, Tensor | None]], batch: int) -> None:
    for _ in range(steps):
        prior.follow(prior.terms(*draw(batch)))


def test_a_mixture_learns_mean_and_covariance_of_each_class() -> None:
    torch.manual_seed(0)
    prior = MixturePrior(latent_dim=3, classes=2, parts=1)
    centres = torch.tensor([[2.0, 0.0, 1.0], [-2.0, 1.0, 0.0]])
    factors = torch.tensor([[[1.0, 0, 0], [0.5, 0.2, 0], [0, 0, 2]], [[0.1, 0, 0], [0, 1, 0], [0, -1, 0.3]]])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(0, 2, (count,))
        return centres[y] + (factors[y] @ torch.randn(count, 3, 1))[..., 0], y

    follow(prior, 400, draw, 256)
    for label in (0, 1):
        drawn = prior.sample(torch.randn(20_000, 4), torch.full((20_000,), label))
        torch.testing.assert_close(drawn.mean(0), centres[label], atol=0.1, rtol=0)
        torch.testing.assert_close(torch.cov(drawn.T), factors[label] @ factors[label].T, atol=0.15, rtol=0.15)


def test_a_mixture_finds_clusters_wherever_its_parts_begin() -> None:
    """Parts that nothing is near are put where much is. Errors are at most twice scikit-learn's best of ten."""
    cluster = pytest.importorskip("sklearn.cluster")
    torch.manual_seed(0)
    places = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)) * 4 + 20  # far from where parts begin
    prior = MixturePrior(latent_dim=2, classes=0, parts=30)

    def draw(count: int) -> tuple[Tensor, None]:
        return places[torch.randint(9, (count,))] + 0.2 * torch.randn(count, 2), None

    follow(prior, 600, draw, 256)
    x = draw(3000)[0]
    best = cluster.KMeans(30, n_init=10, random_state=0).fit(x.numpy()).inertia_ / len(x)
    assert torch.cdist(x, mean_of(prior)).min(1).values.square().mean() < 2 * best
    drawn = prior.sample(torch.randn(5000, 3), None)
    distance = torch.cdist(drawn, places).min(1)
    assert (distance.values < 0.8).float().mean() > 0.95
    torch.testing.assert_close(torch.bincount(distance.indices) / 5000, torch.full((9,), 1 / 9), atol=0.03, rtol=0)


def test_many_latents_without_clusters_are_shared_by_all_parts() -> None:
    torch.manual_seed(0)
    prior = MixturePrior(latent_dim=128, classes=2, parts=10)
    follow(prior, 400, lambda n: (3 + torch.randn(n, 128), torch.randint(0, 2, (n,))), 64)
    assert prior.share.sum().item() == pytest.approx(1, abs=0.02)
    assert prior.share.min() > 0.01  # of 0.05 each
    assert prior.share.max() < 0.15


def test_a_mixture_counts_the_last_steps_and_forgets_the_first() -> None:
    torch.manual_seed(0)
    prior = MixturePrior(latent_dim=2, classes=0, parts=1)
    follow(prior, 200, lambda n: (torch.randn(n, 2) - 5, None), 64)
    follow(prior, 200, lambda n: (torch.randn(n, 2) + 5, None), 64)
    torch.testing.assert_close(mean_of(prior)[0], torch.full((2,), 5.0), atol=0.3, rtol=0)


def test_a_mixture_that_saw_one_sample_draws_finite_latents() -> None:
    for z in (torch.zeros(1, 64), 1e3 * torch.ones(1, 64), 1e-6 * torch.randn(1, 64)):
        prior = MixturePrior(latent_dim=64, classes=3, parts=4)
        prior.follow(prior.terms(z, torch.tensor([1])))
        assert torch.isfinite(prior.sample(torch.randn(50, 65), torch.arange(50) % 3)).all()


def test_parts_are_shared_out_and_fewer_where_samples_are_few() -> None:
    def parts(samples: int, classes: int) -> int:
        cond = {"label": label_spec(classes)} if classes else {}
        prior = vae(replace(PICTURES, num_samples=samples, cond=cond), prior_parts=100).autoencoder.prior
        assert prior is not None
        return prior.share.shape[1]

    assert [parts(60_000, 10), parts(10_000, 10), parts(1_700, 9), parts(60_000, 0), parts(60_000, 500)] == [
        10, 10, 1, 100, 1,
    ]  # fmt: skip
    wide = vae(prior_parts=100, latent_dim=500).autoencoder.prior  # 3 classes: 11 parts each are as many as fit
    assert wide is not None
    assert wide.share.shape[1] == 11
    with pytest.raises(ConfigError, match="3,000 classes"):
        vae(replace(PICTURES, cond={"label": label_spec(3000)}), latent_dim=100)


def test_many_latents_need_another_model_to_draw_them() -> None:
    with pytest.raises(ConfigError, match=r"at most 512 latents .*, here are 600 .* - type model\.prior=none"):
        vae(latent_dim=600)
    assert not vae(latent_dim=600, prior="none").draws


def test_a_model_without_a_learned_prior_knows_no_labels() -> None:
    assert vae(prior="normal").spec.label_classes == 0
    assert vae().spec.label_classes == 3
    noise = vae(prior="normal").drawn(request(500))
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3


def test_between_two_samples_lies_a_smooth_way() -> None:
    model, ends = vae(), request(3)
    other = replace(ends, generators=[torch.Generator().manual_seed(50 + i) for i in range(3)])

    def between(weight: float) -> Tensor:
        for generators, base in ((ends.generators, 0), (other.generators, 50)):
            for i, generator in enumerate(generators):
                generator.manual_seed(base + i)
        return model.draw_between(ends, other, torch.full((3,), weight))

    for i, generator in enumerate(ends.generators):
        generator.manual_seed(i)
    first = model.draw(ends)
    torch.testing.assert_close(between(0.0), first, atol=1e-4, rtol=1e-3)
    steps = [between(w / 20) for w in range(21)]
    moves = torch.stack([(b - a).flatten(1).norm(dim=1) for a, b in pairwise(steps)])
    assert (moves.max(0).values < 5 * moves.mean(0) + 1e-6).all()


def test_resume_in_the_middle_of_the_warm_up_is_bit_exact(tmp_path: Path) -> None:
    """Also of the deviation and the prior, which follow the batches; the prior looks for dead parts at steps 8, 16."""
    settings = ("data=digits", "net.width=8", "trainer.max_minutes=null", "trainer.max_steps=20",
                "trainer.save_every=3", "model.kl_warmup_samples=2000", "model.adversarial=0.5",
                "trainer.log_every=1")  # fmt: skip
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config = config_of("vae", whole, *settings)
    assert forked(lambda: train(config)) == 0
    config = config_of("vae", halves, *settings)
    assert forked(lambda: train(config), faults="kill@step:13") == -9
    assert forked(lambda: train(config, resume=True)) == 0
    assert differences(whole, halves) == []
    weights = [line["autoencoder/kl_weight"] for line in metrics(whole)]
    assert weights == sorted(weights)
    assert 0 == weights[0] < weights[-1] < 0.1


# -- sounds ------------------------------------------------------------------------------------------------------------


def test_the_distance_of_spectra_is_that_of_numpy_s_transform() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 1, 2048))
    expected = np.zeros(3)
    for size in (64, 128, 256, 512, 1024):
        window = np.hanning(size + 1)[:-1]
        for i in range(3):
            both = []
            for sound in (x, y):
                padded = np.pad(sound[i, 0], size // 2, mode="reflect")
                frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
                found = np.abs(np.fft.rfft(frames * window, axis=1)) / np.sqrt((window**2).sum())
                both.append(np.log(found + 0.03))
            expected[i] += np.abs(both[0] - both[1]).mean() / 5
    found = log_spectral_distance(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_distance_of_spectra_hears_no_phase_but_pitch() -> None:
    time = torch.arange(4096) / 8000

    def tone(hertz: float, phase: float) -> Tensor:
        return torch.sin(2 * math.pi * hertz * time + phase)[None, None]

    here = tone(440, 0.0)
    assert log_spectral_distance(here, tone(440, 1.5)).item() < 0.3 * log_spectral_distance(here, tone(600, 0)).item()
    short = torch.randn(2, 1, 20, requires_grad=True)
    log_spectral_distance(short, torch.zeros(2, 1, 20)).sum().backward()  # type: ignore[no-untyped-call]
    assert short.grad is not None
    assert torch.isfinite(short.grad).all()


def test_a_spectral_weight_is_of_sounds() -> None:
    with pytest.raises(ConfigError, match=r"of sounds, the data is image - type model\.spectral=0"):
        vae(spectral=1.0)
