"""Diffusion: the rows of scalars against what each objective predicts, and what a sample is told, kept and given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from genai import sampler
from genai.contract import Batch, Request, Spec, label_spec
from genai.errors import ConfigError
from genai.models import DiffusionConfig
from genai.models.conditions import Conditions, beginnings
from genai.models.diffusion import Diffusion
from genai.models.parametrisation import LAWS, OBJECTIVES, WEIGHTINGS, sigma_of, stratified
from genai.nets import MlpConfig, UNetConfig
from genai.schema import PathText, SamplingConfig

PROMPT = Spec(kind="token", shape=(12,), modality="text", vocab=256)
PICTURES = Spec(
    kind="real",
    shape=(2, 8, 8),
    modality="image",
    scale=(127.5,),
    offset=(127.5,),
    mean=(-0.4, 0.1),
    deviation=(0.7, 0.2),
    cond={"label": label_spec(3)},
)
POINTS = Spec(kind="real", shape=(2,), modality="points")
SIGMA = torch.tensor([0.003, 0.1, 0.9, 7.0, 70.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def diffusion(spec: Spec = PICTURES, **settings: Any) -> Diffusion:
    torch.manual_seed(0)
    net: Any = MlpConfig(name="mlp", width=16, layers=2)
    if len(spec.shape) > 1:
        net = UNetConfig(name="unet", width=8, multipliers=(1, 2), attention_positions=16)
    config = replace(DiffusionConfig(name="diffusion", nets={}, init_from=PathText("run")), **settings)
    return Diffusion(spec=spec, config=config, net=net).double().eval()


def awake(model: Diffusion) -> Diffusion:
    """With weights where it starts with zeros."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def request(count: int, label: int | None = None, **sampling: Any) -> Request:
    labels = torch.arange(count) % 3 if label is None else torch.full((count,), label)
    return Request(
        count=count,
        cond={"label": labels, "prompt": torch.zeros(count, 12, dtype=torch.int64)},
        generators=[torch.Generator().manual_seed(seed) for seed in range(count)],
        device=torch.device("cpu"),
        dtype=torch.float64,
        sampling=SamplingConfig(**{"steps": 8, **sampling}),
    )


# -- what the network predicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        ("eps", lambda x0, eps, s: eps),
        ("v", lambda x0, eps, s: (eps - s * x0) / (1 + s * s).sqrt()),
        ("x0", lambda x0, eps, s: x0),
        ("jit", lambda x0, eps, s: x0),
        ("flow", lambda x0, eps, s: eps - x0),
        ("edm", lambda x0, eps, s: (s * x0 - eps) / (1 + s * s).sqrt()),
    ],
)
def test_a_network_that_predicts_its_target_gives_back_the_data(objective: str, target: Any) -> None:
    row = OBJECTIVES[objective](SIGMA)
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, dtype=torch.float64, generator=generator) for _ in range(2))
    x = x0 + SIGMA * eps
    torch.testing.assert_close(row.c_skip * x + row.c_out * target(x0, eps, SIGMA), x0, rtol=1e-9, atol=1e-9)


def test_every_objective_sees_inputs_of_about_unit_size() -> None:
    for objective, scalars in OBJECTIVES.items():
        deviation = scalars(SIGMA).c_in * (1 + SIGMA**2).sqrt()  # of data of unit deviation
        assert ((deviation > 0.7) & (deviation < 1.01)).all(), objective


def test_weights_of_the_network_s_own_error() -> None:
    """w c_out^2: one where the network's own error is what counts; SNR + 1 = 1 + 1 / sigma^2 for a predicted x0."""
    for objective in ("edm", "eps", "v", "flow"):
        row = OBJECTIVES[objective](SIGMA)
        torch.testing.assert_close(row.weight * row.c_out**2, torch.ones_like(SIGMA))
    edm = OBJECTIVES["edm"](SIGMA)
    assert WEIGHTINGS["min_snr"](SIGMA, edm).tolist() == pytest.approx([min(1 / s**2, 5.0) for s in SIGMA.tolist()])
    soft = [(s / (1 + s * s)) ** 2 * (1 + s * s) / s**2 for s in SIGMA.tolist()]  # Crowson et al. 2024 on F, for D
    assert WEIGHTINGS["soft_min_snr"](SIGMA, edm).tolist() == pytest.approx(soft)


def test_laws_of_noise_have_their_quantiles() -> None:
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(LAWS["normal"](u, -0.5, 1.2), torch.from_numpy(stats.norm.ppf(u, -0.5, 1.2)))
    torch.testing.assert_close(LAWS["uniform_t"](u, 0, 1), torch.from_numpy(stats.logistic.ppf(u)))
    s = LAWS["uniform_t"](u, 0, 1).exp()
    torch.testing.assert_close(s / (1 + s), u)  # even over the time of a flow
    alpha = 1 / (1 + LAWS["cosine"](u, 0, 1).exp().square())
    torch.testing.assert_close(alpha, (0.5 * math.pi * u).cos().square())  # Nichol & Dhariwal 2021, with s = 0
    log_uniform = LAWS["log_uniform"](torch.linspace(0, 1, 100_001, dtype=torch.float64), 0.3, 2.0)
    assert (float(log_uniform.mean()), float(log_uniform.std())) == pytest.approx((0.3, 2.0), rel=1e-4)


def test_noise_of_ddpm_is_that_of_its_thousand_steps() -> None:
    """Ho et al. 2020: beta from 1e-4 to 0.02 in 1,000 steps, of which the SDE is the limit."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    product = (1 - beta).cumprod(0)
    table = ((1 - product) / product).sqrt().log()
    ours = LAWS["ddpm"](torch.linspace(0.001, 1, 1000, dtype=torch.float64), 0, 1)
    torch.testing.assert_close(ours[20:], table[20:], rtol=0.0, atol=0.06)


def test_the_level_that_eps_is_told_is_the_time_of_its_law() -> None:
    u = torch.linspace(0.02, 0.98, 20, dtype=torch.float64)
    torch.testing.assert_close(OBJECTIVES["eps"](LAWS["ddpm"](u, 0, 1).exp()).c_noise, u)


def test_stratified_shares_have_one_in_each_part() -> None:
    share = stratified(64, torch.zeros(1, dtype=torch.float64))
    assert (share * 64).long().sort().values.tolist() == list(range(64))
    assert (share * 64).long().tolist() != list(range(64))  # a place in a batch has no level of its own
    assert torch.isfinite(sigma_of(torch.tensor([0.0, 1.0]), ("uniform_t", 0.0, 1.0))).all()


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_loss_is_the_weighted_error_of_the_denoised() -> None:
    """Of a network of zeros D = x / (1 + sigma^2), and the expected weighted error on data of unit deviation is 1."""
    model = diffusion(POINTS)
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    terms = model.loss(Batch(x=x), 0)
    assert float(terms["loss"]) == pytest.approx(1.0, abs=0.02)
    parts = [float(terms[f"noise_{i}"]) for i in range(8)]
    assert parts == pytest.approx([1.0] * 8, abs=0.1)
    assert sum(parts) / 8 == pytest.approx(float(terms["weighted_mse"]))


def test_learned_weights_change_the_loss_and_not_the_error() -> None:
    model = diffusion(POINTS, weighting="learned")
    batch = Batch(x=torch.randn(64, 2, dtype=torch.float64))
    assert model.denoiser.log_variance is not None
    nn.init.constant_(model.denoiser.log_variance.bias, 0.7)
    torch.manual_seed(2)
    terms = model.loss(batch, 0)
    error = float(terms["weighted_mse"])
    assert float(terms["loss"]) == pytest.approx(error / math.exp(0.7) + 0.7)


def test_data_are_seen_in_units_of_their_deviation() -> None:
    model = diffusion()
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    assert torch.allclose(model.original(model.standard(x)), x)
    channel = model.standard(torch.full((1, 2, 8, 8), 0.3, dtype=torch.float64))
    assert channel[0, :, 0, 0].tolist() == pytest.approx([(0.3 + 0.4) / 0.7, (0.3 - 0.1) / 0.2])


def test_a_consistent_denoiser_has_no_loss_and_others_do() -> None:
    model = diffusion(POINTS, consistency=True)
    x = torch.zeros(64, 2, dtype=torch.float64)
    model.denoiser.forward = lambda x, sigma, told: torch.zeros_like(x)  # type: ignore[method-assign]
    assert float(model.loss(Batch(x=x), 0)["distance"]) < 1e-5
    model = awake(diffusion(POINTS, consistency=True))
    assert float(model.loss(Batch(x=x), 0)["distance"]) > 1e-5


def test_levels_that_consistency_tuning_meets_are_told_as_they_are() -> None:
    """The target of a level far below that which samples end at is not that of another one."""
    model, told = diffusion(POINTS, consistency=True), []
    forward = model.denoiser.forward
    model.denoiser.forward = lambda x, sigma, cond: (told.append(sigma), forward(x, sigma, cond))[1]  # type: ignore[method-assign,func-returns-value]
    model.loss(Batch(x=torch.zeros(512, 2, dtype=torch.float64)), 0)
    lower, upper = told
    assert float(upper.min()) >= 0.002
    assert bool((lower < upper).all())


def test_consistency_is_tuned_from_a_run_and_without_dropout() -> None:
    with pytest.raises(ConfigError, match=r"model\.init_from=RUN"):
        diffusion(POINTS, consistency=True, init_from=None)
    net = UNetConfig(name="unet", width=8, multipliers=(1, 2), dropout=0.1)
    config = DiffusionConfig(name="diffusion", nets={}, init_from=PathText("run"), consistency=True)
    with pytest.raises(ConfigError, match=r"net\.dropout=0"):
        Diffusion(spec=PICTURES, config=config, net=net)


def test_a_jump_is_made_from_each_of_the_steps() -> None:
    model = diffusion()
    assert model.grid(SamplingConfig(solver="consistency", steps=1)) == [80.0, 0.0]
    high, middle, end = model.grid(SamplingConfig(solver="consistency", steps=2, grid="uniform_t"))
    assert (high, end) == (pytest.approx(80.0), 0.0)
    assert 0.5 < middle < 2.0


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_interval": (9.0, 0.1)},
        {"guide": PathText("run")},
        {"sigma_min": 5.0, "sigma_max": 4.0},
        {"sigma_min": 1.0, "sigma_max": 1.0 + 3e-16},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_sampling_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        diffusion().check_sampling(SamplingConfig(**settings))


def test_a_law_without_mean_is_given_none() -> None:
    with pytest.raises(ConfigError, match=r"model\.noise=normal"):
        diffusion(objective="flow", noise_mean=1.0)
    diffusion(objective="flow", noise="normal", noise_mean=1.0)


@pytest.mark.parametrize("count", [8, 12, 3])
def test_parts_of_the_law_of_noise_are_told_by_their_mean(count: int) -> None:
    terms = diffusion(POINTS).loss(Batch(x=torch.randn(count, 2, dtype=torch.float64)), 0)
    parts = torch.stack([terms[f"noise_{part}"] for part in range(8)])
    filled = min(count, 8)
    assert int((parts > 0).sum()) == filled
    if count % 8 == 0:
        torch.testing.assert_close(parts.mean(), terms["weighted_mse"])


def test_consistency_needs_a_denoiser_that_leaves_data_alone() -> None:
    zero = torch.zeros((), dtype=torch.float64) + 1e-9
    for objective in ("edm", "flow", "v", "eps"):
        row = OBJECTIVES[objective](zero)
        assert (float(row.c_skip), float(row.c_out)) == pytest.approx((1.0, 0.0), abs=1e-8)
        diffusion(POINTS, objective=objective, consistency=True)
    for objective in ("x0", "jit"):
        with pytest.raises(ConfigError, match=r"model\.objective=edm"):
            diffusion(POINTS, objective=objective, consistency=True)


# -- conditions --------------------------------------------------------------------------------------------------------


def told_both() -> Conditions:
    torch.manual_seed(0)
    spec = replace(PICTURES, cond={"label": label_spec(3), "prompt": PROMPT})
    return Conditions(spec=spec, features=16, text_width=32, text_layers=1).double()


def test_conditions_are_dropped_sample_by_sample() -> None:
    """With probability p both, and each with p besides: a label is left with probability (1 - p)^2."""
    cond = {"label": torch.zeros(20_000, dtype=torch.int64), "prompt": torch.ones(20_000, 12, dtype=torch.int64)}
    left = told_both().dropped(cond, 0.2)
    no_label, no_prompt = left["label"] == 3, (left["prompt"] == 0).all(1)
    assert ((left["prompt"] == 0).all(1) | (left["prompt"] == 1).all(1)).all()
    for lacks in (no_label, no_prompt):
        assert float(lacks.double().mean()) == pytest.approx(1 - 0.8**2, abs=0.01)
    assert float((no_label & no_prompt).double().mean()) == pytest.approx(0.2 + 0.8 * 0.2**2, abs=0.01)
    only = Conditions(spec=PICTURES, features=16, text_width=32, text_layers=1)
    assert float((only.dropped(cond, 0.2)["label"] == 3).double().mean()) == pytest.approx(0.2, abs=0.01)


def test_a_word_is_the_same_wherever_it_stands() -> None:
    def ids(text: str) -> Tensor:
        return torch.tensor([list(text.encode())])

    red, heart = (beginnings(ids(word))[0].tolist() for word in ("red", "heart"))
    assert beginnings(ids("Red, heart"))[0].tolist() == [*red, 0, 0, *heart]
    assert beginnings(ids("heart red"))[0].tolist() == [*heart, 0, *red]
    assert len({*red, *heart}) == 8
    assert beginnings(ids("reds"))[0].tolist()[:3] == red
    one, other = beginnings(ids("红心"))[0].split(3)
    assert torch.equal(beginnings(ids("心红"))[0], torch.cat([other, one]))


def test_a_text_is_read_to_its_end_and_no_further() -> None:
    conditions = told_both()
    for parameter in conditions.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    ids = torch.tensor([[7, 8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0], [7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    label = torch.tensor([1, 1])
    found = conditions({"label": label, "prompt": ids})
    assert found is not None
    assert not torch.allclose(found.vector[0], found.vector[1])
    assert found.mask is not None
    assert found.mask.sum(1).tolist() == [3, 2]
    conditions.text.embed.weight.data[0] += 1.0  # type: ignore[union-attr]
    again = conditions({"label": label, "prompt": ids})
    assert again is not None
    torch.testing.assert_close(again.vector, found.vector)  # what fills a text up is not read
    nothing = conditions({"label": label, "prompt": torch.zeros_like(ids)})
    assert nothing is not None
    assert torch.isfinite(nothing.vector).all()


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_guidance_leads_away_from_what_nothing_is_told_of() -> None:
    model = awake(diffusion())
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    cond = request(4).cond

    def at(**sampling: Any) -> Tensor:
        return model.denoise_of(request(4, **sampling))(x, 1.5)

    told, free = at(), model.at(x, 1.5, model.denoiser.conditions({"label": torch.full((4,), 3)}))
    torch.testing.assert_close(model.denoise_of(replace(request(4), cond={}))(x, 1.5), free)  # where none is given
    torch.testing.assert_close(told, model.at(x, 1.5, model.denoiser.conditions(cond)))
    assert not torch.allclose(told, free)
    torch.testing.assert_close(at(guidance=2.5), free + 2.5 * (told - free))
    torch.testing.assert_close(at(guidance=0.0), free)
    torch.testing.assert_close(at(guidance=2.5, guidance_interval=(0.1, 1.4)), told)
    torch.testing.assert_close(at(guidance=2.5, guidance_interval=(0.1, 1.5)), free + 2.5 * (told - free))


def test_a_guide_takes_the_place_of_the_model_without_condition() -> None:
    model, weaker = awake(diffusion(condition_dropout=0.0)), awake(diffusion(objective="flow"))
    model.take_guide(weaker)
    x, cond = torch.randn(4, 2, 8, 8, dtype=torch.float64), request(4).cond
    ours, theirs = (each.at(x, 0.7, each.denoiser.conditions(cond)) for each in (model, weaker))
    torch.testing.assert_close(model.denoise_of(request(4, guidance=2.0))(x, 0.7), theirs + 2.0 * (ours - theirs))
    for other in (diffusion(POINTS), diffusion(replace(PICTURES, deviation=(0.5, 0.2))), diffusion(conditions=())):
        with pytest.raises(ConfigError, match=r"sampling\.guide"):
            model.take_guide(other)


def test_inputs_of_unknown_class_are_told_none() -> None:
    inputs = Batch(x=torch.zeros(4, 2, 8, 8))
    assert sampler._plan_of(diffusion(), inputs, seed=0).labels is None
    assert sampler._plan_of(diffusion(condition_dropout=0.0), inputs, seed=0).labels is not None
    known = Batch(x=inputs.x, cond={"label": torch.tensor([2, 2, 0, 2])})
    assert sampler._plan_of(diffusion(), known, seed=0).labels == (2, 2, 0, 2)


def test_guidance_is_refused_where_it_was_not_learned() -> None:
    for model in (diffusion(condition_dropout=0.0), diffusion(POINTS)):
        with pytest.raises(ConfigError, match=r"sampling\.guidance=1"):
            model.check_sampling(SamplingConfig(guidance=2.0))


@pytest.mark.parametrize("solver", ["unipc", "euler", "heun", "ancestral", "dpmpp_2m", "sde_2m"])
def test_every_solver_draws_the_gaussian_that_a_network_of_zeros_stands_for(solver: str) -> None:
    """D = x / (1 + sigma^2) is the denoiser of data of unit deviation: samples have the data's mean and deviation."""
    made = diffusion().draw(request(64, solver=solver, steps=100))
    assert made.mean((0, 2, 3)).tolist() == pytest.approx([-0.4, 0.1], abs=0.03)
    assert made.std((0, 2, 3)).tolist() == pytest.approx([0.7, 0.2], rel=0.08)


def test_variations_reach_from_the_input_to_new_samples() -> None:
    model = awake(diffusion())
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    for solver in ("unipc", "heun"):
        torch.testing.assert_close(model.vary(x, request(3, solver=solver), 0.0), x)
    assert not torch.allclose(model.vary(x, request(3, steps=1), 0.3), x, atol=0.1)
    lengths = [float((model.vary(x, request(3), strength) - x).norm()) for strength in (0.25, 0.5, 0.75)]
    assert lengths == sorted(lengths)
    other = model.vary(x + 1.0, request(3), 1.0)
    torch.testing.assert_close(model.vary(x, request(3), 1.0), other, rtol=0.0, atol=0.1)


def test_what_is_known_stays_as_it_is() -> None:
    model = awake(diffusion())
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    missing = torch.zeros_like(x, dtype=torch.bool)
    missing[:, :, :4] = True
    made = model.impute(x, missing, request(3, repeats=2))
    assert torch.equal(made[~missing], x[~missing])
    assert not torch.isclose(made[missing], x[missing]).any()
    assert torch.equal(model.impute(x, ~missing & missing, request(3, repeats=2)), x)


def test_a_way_between_inputs_begins_and_ends_at_them() -> None:
    model = awake(diffusion())
    x, other = torch.randn(2, 3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = (request(3, label=label, steps=100, guidance=2.0) for label in (0, 1))
    one, there = model.end(x, first), model.end(other, second)

    def at(weight: float) -> Tensor:
        return model.blend(one, there, first, second, torch.full((3,), weight, dtype=torch.float64))

    torch.testing.assert_close(at(0.0), x, rtol=0.0, atol=5e-3)
    torch.testing.assert_close(at(1.0), other, rtol=0.0, atol=5e-3)


def test_likelihood_is_in_the_units_of_the_data() -> None:
    """A network of zeros stands for independent Gaussians of the data's mean and deviation."""
    model = diffusion()
    grey = torch.randint(0, 256, (16, 2, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    x = grey / 127.5 - 1
    torch.manual_seed(0)
    found = model.evaluate_likelihood(Batch(x=x, cond={"label": torch.zeros(16, dtype=torch.int64)}), 200)
    mean, deviation = ([127.5 * v for v in vs] for vs in (PICTURES.mean, PICTURES.deviation))
    torch.manual_seed(0)
    grey = grey + torch.rand_like(x) - 0.5  # spread evenly over their levels
    nats = [-stats.norm(127.5 + mean[i], deviation[i]).logpdf(grey[:, i].numpy()).mean() for i in range(2)]
    assert float(found["bits_per_dim_bound"]) == pytest.approx(sum(nats) / 2 / math.log(2), abs=1e-2)
    points = torch.randn(200, 2, dtype=torch.float64)
    truth = -stats.norm.logpdf(points.numpy()).sum(1).mean()
    assert float(diffusion(POINTS).evaluate_likelihood(Batch(x=points), 200)["nll_nats"]) == pytest.approx(
        truth, abs=1e-2
    )
