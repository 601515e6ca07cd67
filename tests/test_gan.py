"""The GAN: losses against closed forms, penalties against analytic gradients, and who learns from what."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from genai.contract import Batch, Request, Spec, Update, label_spec
from genai.errors import ConfigError
from genai.models import GanConfig
from genai.models.adversarial import GAMES, interpolated, squared_gradient_norm, squared_gradient_norm_by_difference
from genai.models.augment import drawn
from genai.models.gan import Gan
from genai.nets import ConvConfig, MlpConfig
from genai.schema import SamplingConfig

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


def test_squared_gradient_norm_of_a_linear_discriminator_and_its_derivative() -> None:
    d = Linear()
    penalty = squared_gradient_norm(d, torch.randn(5, 3), None)
    torch.testing.assert_close(penalty, torch.full((5,), 14.0))
    penalty.mean().backward()
    torch.testing.assert_close(d.w.grad, 2 * d.w.detach())


def test_squared_gradient_norm_of_a_quadratic_discriminator_and_its_derivative() -> None:
    d, x = Quadratic(), torch.randn(5, 3)
    penalty = squared_gradient_norm(d, x, None)
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


def test_finite_differences_estimate_the_squared_gradient_norm() -> None:
    """Of a linear discriminator the mean of (e.w)^2 over standard normal e is |w|^2, with deviation sqrt(2) |w|^2."""
    torch.manual_seed(0)
    d, x = Linear(), torch.randn(40_000, 3)
    estimates = squared_gradient_norm_by_difference(d, x, None)
    assert estimates.mean().item() == pytest.approx(14.0, rel=4 * math.sqrt(2 / len(x)))
    estimates.mean().backward()
    assert d.w.grad is not None
    torch.testing.assert_close(d.w.grad, 2 * d.w.detach(), rtol=0.05, atol=0.05)


def test_finite_differences_agree_with_the_exact_penalty_of_a_real_discriminator() -> None:
    model, x, y = gan(), batch(count=3).x.repeat(2000, 1, 1, 1), torch.arange(3).repeat(2000)
    with torch.no_grad():
        estimate = squared_gradient_norm_by_difference(model.discriminator, x, y).mean()
    exact = squared_gradient_norm(model.discriminator, x[:3], y[:3]).mean()
    torch.testing.assert_close(estimate, exact, rtol=0.1, atol=0.0)


def test_finite_differences_agree_with_the_exact_penalty_under_augmentation() -> None:
    config = replace(CONFIG, penalty="r1", augment=("translation", "cutout"))
    exact, estimate = gan(config=config), gan(config=replace(config, penalty_form="finite_difference"))
    estimate.load_state_dict(exact.state_dict())
    many = Batch(x=batch(count=3).x.repeat(2000, 1, 1, 1), cond={"label": torch.arange(3).repeat(2000)})
    found = [update_of(model, "penalty").loss(many, 0)["r1"].detach() for model in (exact, estimate)]
    torch.testing.assert_close(found[1], found[0], rtol=0.1, atol=0.0)


def test_the_gradient_penalty_wants_gradients_of_norm_one() -> None:
    model = gan(POINTS, replace(CONFIG, loss="wgan_gp", gamma="auto"))
    model.discriminator = Linear()  # type: ignore[assignment]
    model.discriminator.w = nn.Parameter(torch.tensor([3.0, 4.0]))
    terms = update_of(model, "penalty").loss(batch(POINTS), 0)
    assert terms["gp"].item() == pytest.approx((5 - 1) ** 2, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(10 * 4 * 16, rel=1e-5)  # lambda 10, due every 4 steps


def test_a_point_between_lies_on_the_line_from_real_to_generated() -> None:
    real, fake = torch.zeros(50, 2), torch.tensor([[2.0, -4.0]]).repeat(50, 1)
    points = interpolated(real, fake)
    torch.testing.assert_close(points[:, 1], -2 * points[:, 0])
    assert ((points[:, 0] > 0) & (points[:, 0] < 2)).all()
    assert points[:, 0].std() > 0.3


@pytest.mark.parametrize(
    ("loss", "penalty", "spectral"),
    [
        ("relativistic", "r1_r2", False),
        ("non_saturating", "r1", False),
        ("hinge", "none", True),
        ("wgan_gp", "gp", False),
        ("lsgan", "r1", False),
    ],
)
def test_each_loss_brings_its_own_regularisation(loss: Loss, penalty: str, spectral: bool) -> None:
    model = gan(config=replace(CONFIG, loss=loss))
    assert (model.penalty, model.spectral) == (penalty, spectral)
    assert (penalty in " ".join(model.notes())) == (penalty != "none")


def test_spectral_normalisation_makes_the_largest_singular_value_one() -> None:
    model = gan(config=replace(CONFIG, loss="hinge"))
    d = model.discriminator
    with torch.no_grad():
        for _ in range(300):
            d.iterate()
    weights = [m.weight for m in d.modules() if hasattr(m, "parametrizations") and isinstance(m.weight, Tensor)]
    assert len(weights) > 5
    for weight in weights:
        largest = torch.linalg.matrix_norm(weight.flatten(1), 2) if weight.ndim > 1 else weight.norm()
        assert largest.item() == pytest.approx(1.0, abs=0.02)


def test_power_iteration_goes_one_step_for_each_step_of_training() -> None:
    """However many micro-batches, evaluations and passes of the generator a step has."""
    model = gan(config=replace(CONFIG, loss="hinge"))
    discriminator, generator = update_of(model, "discriminator"), update_of(model, "generator")

    def vectors() -> list[Tensor]:
        return [value.clone() for name, value in model.discriminator.named_buffers() if name.endswith("._u")]

    states = [vectors()]
    for samples_seen in (0, 0, 6):
        discriminator.loss(batch(), samples_seen)
        generator.loss(batch(), samples_seen)
        model.eval().evaluate(batch())
        model.train()
        states.append(vectors())
    changed = [any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in pairwise(states)]
    assert changed == [True, False, True]


def test_a_finite_difference_of_the_gradient_penalty_is_refused() -> None:
    with pytest.raises(ConfigError, match="exact"):
        gan(config=replace(CONFIG, loss="wgan_gp", penalty_form="finite_difference"))


def test_penalty_can_be_switched_off() -> None:
    assert [update.prefix for update in gan(config=replace(CONFIG, penalty="none")).updates()] == [
        "discriminator",
        "generator",
    ]


def test_a_gamma_that_would_never_fall_is_refused() -> None:
    with pytest.raises(ConfigError, match="schedule_samples"):
        gan(config=replace(CONFIG, gamma_final=0.1))


def test_remedies_name_what_would_change_something() -> None:
    said = {loss: " ".join(alarm.says for alarm in gan(config=replace(CONFIG, loss=loss)).alarms()) for loss in GAMES}
    assert "model.penalty=r1" in said["hinge"]
    assert "model.gamma" not in said["hinge"]
    assert "model.gamma (twice: 1)" in said["non_saturating"]  # CONFIG has 0.5
    assert "model.augment=" in said["lsgan"]
    augmented = gan(config=replace(CONFIG, augment=("cutout",))).alarms()
    assert not any("model.augment" in alarm.says for alarm in augmented)


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


def test_augmentation_rises_on_the_clock_on_which_gamma_falls() -> None:
    config = replace(CONFIG, gamma=0.4, gamma_final=0.0001, augment_p=0.6, schedule_samples=100)
    model = gan(config=config)
    assert [model.augment_p(seen) for seen in (0, 50, 100, 900)] == pytest.approx([0, 0.3, 0.6, 0.6])
    assert gan(config=replace(CONFIG, augment_p=0.6)).augment_p(0) == 0.6


# -- augmentation ------------------------------------------------------------------------------------------------------

KINDS = ["color", "translation", "cutout"]
COLOURED = torch.rand(64, 3, 12, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_is_applied_with_its_probability(kind: str) -> None:
    torch.manual_seed(0)
    x = COLOURED.repeat(10, 1, 1, 1)
    assert torch.equal(drawn([kind], 0.0, x)(x), x)
    changed = (drawn([kind], 0.5, x)(x) != x).flatten(1).any(1).float().mean()
    assert 0.35 < changed < 0.65
    assert seen(x, [kind]).shape == x.shape


def seen(x: Tensor, kinds: list[str]) -> Tensor:
    return drawn(kinds, 1.0, x)(x)


def test_translation_moves_a_picture_by_whole_pixels_up_to_an_eighth() -> None:
    torch.manual_seed(0)
    x = torch.full((500, 1, 16, 24), -1.0)
    x[:, :, 8, 12] = 1.0
    found = (seen(x, ["translation"]) == 1.0).nonzero()
    assert len(found) == 500  # every dot is still there, once
    assert sorted(set(found[:, 2].tolist())) == [6, 7, 8, 9, 10]
    assert sorted(set(found[:, 3].tolist())) == [9, 10, 11, 12, 13, 14, 15]


def test_no_augmentation_mirrors_a_picture() -> None:
    """A ramp that rises to the right still rises to the right wherever it was not made grey."""
    torch.manual_seed(0)
    ramp = torch.linspace(-0.9, 0.9, 16).expand(300, 1, 12, 16)
    x = seen(ramp, ["translation", "color"])[..., 2:-2]
    assert (x.diff(dim=-1)[:, :, 4:-4] > 0).all()


def test_cutout_makes_a_square_of_half_the_side_grey() -> None:
    torch.manual_seed(0)
    holes = seen(torch.ones(400, 1, 16, 16), ["cutout"]) == 0
    sizes = holes.flatten(1).sum(1)
    assert sizes.max() == 64
    assert sizes.min() >= 16  # a centre on the rim leaves a quarter


@pytest.mark.parametrize("side", [9, 30, 33])
def test_a_hole_has_half_the_side_rounded_up(side: int) -> None:
    torch.manual_seed(0)
    rows = (seen(torch.ones(400, 1, side, side), ["cutout"]) == 0).any(3).sum(2).flatten()
    assert rows.max() == (side + 1) // 2


def test_one_draw_changes_every_copy_of_a_batch_alike() -> None:
    x = torch.rand(6, 3, 16, 16)
    augment = drawn(["translation", "color", "cutout"], 0.5, x)
    torch.testing.assert_close(augment(x), augment(x.clone()), rtol=0, atol=0)


def test_color_keeps_what_is_grey_grey() -> None:
    torch.manual_seed(0)
    x = seen(COLOURED.mean(1, keepdim=True).expand(-1, 3, -1, -1), ["color"])
    torch.testing.assert_close(x[:, 0], x[:, 2])


def test_a_penalty_is_differentiated_through_the_augmentation() -> None:
    """What is cut out cannot matter to the discriminator, so its gradient there is zero."""
    model = gan(config=replace(CONFIG, augment=("translation", "color", "cutout"), penalty="r1"))
    x = batch().x.requires_grad_(True)
    logits = model.discriminate(x, torch.arange(6) % 3, 0)
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    assert (gradient.flatten(1) == 0).float().mean() > 0.02
    gradient.square().sum().backward()
    assert model.discriminator.encoder.enter.weight.grad.abs().sum() > 0


def test_few_pictures_are_augmented_unless_they_are_tiny_and_many_are_not() -> None:
    def chosen(shape: tuple[int, ...], num_samples: int, modality: Literal["image", "points"] = "image") -> object:
        spec = Spec(kind="real", shape=shape, modality=modality, num_samples=num_samples)
        return Gan(spec=spec, config=CONFIG, net=MlpConfig(name="mlp", width=4, layers=1)).augment

    assert chosen((3, 16, 16), 9_999) == ("translation", "cutout")
    assert chosen((3, 16, 16), 10_000) == ()
    assert chosen((1, 8, 8), 1_000) == ()
    assert chosen((2,), 1_000, "points") == ()
    assert chosen((3, 16, 16), 0) == ()  # how many is not known


def test_augmenting_points_is_refused() -> None:
    with pytest.raises(ConfigError, match="points"):
        gan(POINTS, replace(CONFIG, augment=("cutout",)))


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
    if name == "penalty":  # a constant has no gradient
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


def test_the_discriminator_takes_the_label_either_way() -> None:
    for condition in ("projection", "embedding"):
        model = gan(config=replace(CONFIG, condition=condition))  # type: ignore[arg-type]
        x = batch().x
        logits = [model.discriminator(x, torch.full((6,), label)) for label in range(2)]
        assert not torch.allclose(logits[0], logits[1]), condition
        assert logits[0].shape == (6,)
    labelled = replace(POINTS, cond={"label": label_spec(3)})
    torch.manual_seed(0)
    net = MlpConfig(name="mlp", width=8, layers=2)
    points = Gan(spec=labelled, config=replace(CONFIG, condition="embedding"), net=net)
    assert points.discriminator(torch.zeros(3, 2), torch.arange(3)).unique().numel() == 3


def test_between_two_samples_both_ends_are_the_samples_and_noise_keeps_its_length() -> None:
    model = gan().double().eval()
    first, second = (replace(request(4, label), dtype=torch.float64) for label in (0, 2))
    second = replace(second, generators=[torch.Generator().manual_seed(9 + i) for i in range(4)])

    def fresh(asked: Request) -> Request:
        seeds = [generator.initial_seed() for generator in asked.generators]
        return replace(asked, generators=[torch.Generator().manual_seed(seed) for seed in seeds])

    ends = [model.draw(fresh(first)), model.draw(fresh(second))]
    for weight, end in ((0.0, ends[0]), (1.0, ends[1])):
        at = model.draw_between(fresh(first), fresh(second), torch.full((4,), weight, dtype=torch.float64))
        torch.testing.assert_close(at, end)
    lengths: list[Tensor] = []
    model.generator.decoder.register_forward_pre_hook(lambda _, given: lengths.append(given[0][:, :3].norm(dim=1)))
    model.draw_between(fresh(first), fresh(first), torch.full((4,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(lengths[0], fresh(first).noise(3).norm(dim=1), rtol=1e-5, atol=0.0)


def test_truncation_scales_the_noise() -> None:
    model = gan(POINTS)
    truncated = replace(request(4), sampling=SamplingConfig(truncation=0.5))
    z = 0.5 * request(4).noise(3)
    torch.testing.assert_close(model.draw(truncated), model.generator(z, None))
    assert not torch.equal(model.draw(request(4)), model.generator(z, None))
