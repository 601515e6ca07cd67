"""The GAN: losses against closed forms, penalties against analytic gradients, and who learns from what."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from genai.contract import Batch, Request, Spec, Update, label_spec
from genai.models import GanConfig
from genai.models.adversarial import GAMES, squared_slope, squared_slope_by_difference
from genai.models.gan import Gan
from genai.nets import ConvConfig, MlpConfig

CONFIG = GanConfig(name="gan", nets={}, latent_dim=3, penalty_every=4, gamma=0.5)
PICTURES = Spec(kind="real", shape=(1, 8, 8), modality="image", cond={"label": label_spec(3)})
POINTS = Spec(kind="real", shape=(2,), modality="points")


def gan(spec: Spec = PICTURES, config: GanConfig = CONFIG) -> Gan:
    torch.manual_seed(0)
    net = MlpConfig(name="mlp", width=8, layers=2) if spec is POINTS else ConvConfig(name="conv", width=4, max_width=4)
    return Gan(spec=spec, config=config, net=net)


def batch(spec: Spec = PICTURES, count: int = 6) -> Batch:
    x = torch.randn(count, *spec.shape)
    return Batch(x=x, cond={"label": torch.arange(count) % 3} if spec is PICTURES else {})


def update_of(model: Gan, name: str) -> Update:
    return next(update for update in model.updates() if update.prefix == name)


def request(count: int, label: int = 0) -> Request:
    return Request(
        count=count,
        cond={"label": torch.full((count,), label)},
        generators=[torch.Generator().manual_seed(seed) for seed in range(count)],
        device=torch.device("cpu"),
    )


# -- losses ------------------------------------------------------------------------------------------------------------


def softplus(value: float) -> float:
    return math.log(1 + math.exp(value))


Loss = Literal["relativistic", "hinge", "non_saturating", "wgan_gp", "lsgan"]
REAL, FAKE = (2.0, -0.5), (0.25, -3.0)
BY_HAND = {
    "relativistic": ((softplus(-1.75) + softplus(-2.5)) / 2, (softplus(1.75) + softplus(2.5)) / 2),
    "hinge": ((0 + 1.5) / 2 + (1.25 + 0) / 2, (-0.25 + 3.0) / 2),
    "non_saturating": (
        (softplus(-2) + softplus(0.5)) / 2 + (softplus(0.25) + softplus(-3)) / 2,
        (softplus(-0.25) + softplus(3)) / 2,
    ),
    "wgan_gp": (-1.375 - 0.75, 1.375),
    "lsgan": (0.5 * ((1 + 2.25) / 2 + (0.0625 + 9) / 2), 0.5 * (0.5625 + 16) / 2),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_losses_equal_their_formulas(kind: str) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    assert GAMES[kind].discriminator(real, fake).item() == pytest.approx(BY_HAND[kind][0], rel=1e-6)
    assert GAMES[kind].generator(real, fake).item() == pytest.approx(BY_HAND[kind][1], rel=1e-6)


@pytest.mark.parametrize("kind", BY_HAND)
def test_each_side_wants_the_opposite_of_a_generated_logit(kind: str) -> None:
    real, fake = torch.full((2,), 0.25), torch.full((2,), 0.25, requires_grad=True)
    (wanted_by_discriminator,) = torch.autograd.grad(GAMES[kind].discriminator(real, fake), fake)
    (wanted_by_generator,) = torch.autograd.grad(GAMES[kind].generator(real, fake), fake)
    assert (wanted_by_discriminator > 0).all()
    assert (wanted_by_generator < 0).all()


# -- penalties ---------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """D(x) = w.x: the gradient is w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return x @ self.w


class Quadratic(nn.Module):
    """D(x) = a/2 |x|^2: the gradient is a x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return 0.5 * self.a * x.square().sum(1)


def test_squared_slope_of_a_linear_discriminator_and_its_derivative() -> None:
    d = Linear()
    penalty = squared_slope(d, torch.randn(5, 3), None)
    torch.testing.assert_close(penalty, torch.full((5,), 14.0))
    penalty.mean().backward()
    torch.testing.assert_close(d.w.grad, 2 * d.w.detach())


def test_squared_slope_of_a_quadratic_discriminator_and_its_derivative() -> None:
    d, x = Quadratic(), torch.randn(5, 3)
    penalty = squared_slope(d, x, None)
    torch.testing.assert_close(penalty, 1.5**2 * x.square().sum(1))
    penalty.mean().backward()  # a detached penalty would leave no gradient at all
    torch.testing.assert_close(d.a.grad, 2 * 1.5 * x.square().sum(1).mean())
    assert not x.requires_grad


@pytest.mark.parametrize(("penalty", "points_penalised"), [("r1", 1), ("r1_r2", 2)])
def test_penalty_is_weighted_by_its_interval(penalty: Literal["r1", "r1_r2"], points_penalised: int) -> None:
    model = gan(POINTS, replace(CONFIG, penalty=penalty))
    model.discriminator = Linear()  # type: ignore[assignment]
    model.discriminator.w = nn.Parameter(torch.tensor([1.0, -2.0]))
    update = update_of(model, "penalty")
    assert (update.every, update.second_order, update.trains) == (4, True, "discriminator")
    loss = update.loss(batch(POINTS), 0)["loss"].item()
    assert loss == pytest.approx(0.5 * 0.5 * 4 * 5 * points_penalised)  # gamma/2 * interval * |w|^2, R1 and R2


def test_penalty_can_be_switched_off() -> None:
    assert [update.prefix for update in gan(config=replace(CONFIG, penalty="none")).updates()] == [
        "discriminator",
        "generator",
    ]


def test_gamma_falls_by_a_half_cosine_and_stays_at_its_end() -> None:
    model = gan(config=replace(CONFIG, gamma=0.4, gamma_final=0.1, schedule_samples=100))
    assert [model.gamma(seen) for seen in (0, 25, 50, 100, 900)] == pytest.approx(
        [0.4, 0.25 + 0.15 * math.sqrt(0.5), 0.25, 0.1, 0.1]
    )
    assert gan().gamma(10**9) == CONFIG.gamma


def test_gamma_auto_grows_with_the_number_of_values() -> None:
    small, large = Spec(kind="real", shape=(1, 8, 8), modality="image"), replace(POINTS, shape=(3, 16, 16))
    config = replace(CONFIG, gamma="auto")
    net = MlpConfig(name="mlp", width=4, layers=1)
    first, second = (Gan(spec=spec, config=config, net=net).gamma(0) for spec in (small, large))
    assert second / first == pytest.approx(768 / 64)


# -- who learns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("name", ["penalty", "discriminator", "generator"])
def test_an_update_gives_gradients_to_its_child_alone(kind: Loss, name: str) -> None:
    model = gan(config=replace(CONFIG, loss=kind, spectral_norm=False, penalty="r1" if kind == "hinge" else "auto"))
    update = update_of(model, name)
    model.requires_grad_(False)
    learning = model.get_submodule(update.trains).requires_grad_(True)
    terms = update.loss(batch(), 0)
    terms["loss"].backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    expected = {f"{update.trains}.{n}" for n, _ in learning.named_parameters()}
    if name == "penalty":  # a constant has no slope
        expected -= {"discriminator.bias"}
        with_gradient -= {"discriminator.bias"}
    assert with_gradient == expected
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())


def test_a_few_steps_teach_the_discriminator_to_tell_noise_from_a_corner() -> None:
    model = gan(POINTS, replace(CONFIG, penalty="r1"))
    corner = Batch(x=3 + 0.1 * torch.randn(64, 2))
    before = model.evaluate(corner)["pair_sign"]
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=1e-2, betas=(0.0, 0.99))
    for _ in range(30):
        optimizer.zero_grad()
        update_of(model, "discriminator").loss(corner, 0)["loss"].backward()
        optimizer.step()
    after = model.evaluate(corner)["pair_sign"]
    assert after > 0.95
    assert after >= before


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_sample_does_not_depend_on_how_many_are_drawn() -> None:
    model = gan().double().eval()
    many = model.draw(replace(request(5), dtype=torch.float64))
    few = model.draw(replace(request(2), dtype=torch.float64))
    assert many.shape == (5, *PICTURES.shape)
    torch.testing.assert_close(many[:2], few)
    assert not torch.equal(many[0], many[1])  # else the line above says nothing


def test_the_label_changes_the_sample_only_of_a_conditional_model() -> None:
    conditional, blind = gan(), gan(config=replace(CONFIG, conditional=False))
    assert not torch.equal(conditional.draw(request(1, 0)), conditional.draw(request(1, 2)))
    assert torch.equal(blind.draw(request(1, 0)), blind.draw(request(1, 2)))
    assert blind.updates()[1].loss(batch(), 0)["loss"].isfinite()


def test_truncation_scales_the_noise() -> None:
    model = gan(POINTS)
    truncated = replace(request(4), truncation=0.5)
    z = 0.5 * request(4).noise(3)
    torch.testing.assert_close(model.draw(truncated), model.generator(z, None))
    assert not torch.equal(model.draw(request(4)), model.draw(replace(request(4), truncation=0.5)))
