"""Codes: against the formulas of their papers written in numpy, and what follows the statistics of batches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genai.contract import Spec, Terms
from genai.errors import ConfigError
from genai.models import VaeConfig
from genai.models.bottleneck import Bottleneck, Codebook, FiniteScalars, Gaussians, Posterior, bottleneck_of
from genai.models.vae import Vae
from genai.nets import ConvConfig

LEVELS = [(8, 6, 5), (8, 5, 5, 5), (3, 4), (7, 5, 5, 5, 5)]


def statistics(posterior: Posterior) -> Terms:
    return posterior.terms(posterior.sample())


def every_code(levels: tuple[int, ...]) -> np.ndarray:
    """(codes, channels): all combinations of levels, the first changing fastest, each divided by half its count."""
    each = [(np.arange(n) - n // 2) / (n // 2) for n in reversed(levels)]
    return np.array(list(itertools.product(*each)))[:, ::-1].astype(np.float32)


def as_map(rows: Tensor) -> Tensor:
    """(N, channels) -> (N, channels, 1, 1)."""
    return rows[:, :, None, None]


@pytest.mark.parametrize("levels", LEVELS)
def test_numbers_and_codes_of_finite_scalars_are_one_to_one(levels: tuple[int, ...]) -> None:
    codes, fsq = every_code(levels), FiniteScalars(levels)
    assert fsq.vocab == len(codes) == math.prod(levels)
    numbers = torch.arange(fsq.vocab)
    np.testing.assert_allclose(fsq.vectors(numbers), codes)
    assert torch.equal(fsq.index_of(as_map(torch.from_numpy(codes))).flatten(), numbers)


@pytest.mark.parametrize("levels", LEVELS)
def test_finite_scalars_are_those_of_the_paper(levels: tuple[int, ...]) -> None:
    """Mentzer et al. 2024, appendix A.1, in numpy."""
    h = np.random.default_rng(0).normal(0, 3, (2000, len(levels))).astype(np.float32)
    count = np.array(levels)
    half = (count - 1) * 1.001 / 2
    offset = np.where(count % 2 == 0, 0.5, 0.0)
    expected = np.round(np.tanh(h + np.arctanh(offset / half)) * half - offset) / (count // 2)
    z = FiniteScalars(levels)(as_map(torch.from_numpy(h))).mode[:, :, 0, 0]
    assert np.mean(~np.isclose(z, expected)) < 1e-3  # but for ties
    assert {len(np.unique(z[:, i])) for i in range(len(levels))} == set(levels)  # every level is reached


def test_the_gradient_of_a_rounded_value_is_that_of_the_bounded_one() -> None:
    h = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    fsq = FiniteScalars((5, 5, 5)).double()
    (found,) = torch.autograd.grad((fsq(h).sample() * weight).sum(), h)
    (expected,) = torch.autograd.grad((torch.tanh(h) * 4 * 1.001 / 2 / 2 * weight).sum(), h)
    torch.testing.assert_close(found, expected)


def nearest(z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    found: np.ndarray = ((z[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
    return found


def test_the_codebook_gives_the_nearest_code_and_its_commitment() -> None:
    torch.manual_seed(0)
    book = Codebook(codes=50, channels=4, commitment=0.25)
    h = torch.randn(300, 4)
    unit = (h / h.norm(dim=1, keepdim=True)).numpy()
    index = nearest(unit, book.codes.numpy())
    posterior = book(as_map(h))
    assert np.array_equal(posterior.index.flatten(), index)
    np.testing.assert_allclose(posterior.mode[:, :, 0, 0], book.codes.numpy()[index], atol=1e-6)
    error = ((unit - book.codes.numpy()[index]) ** 2).sum(1).mean()
    assert statistics(posterior)["commitment"].item() == pytest.approx(0.25 * error, rel=1e-5)


def test_autocast_moves_no_code() -> None:
    torch.manual_seed(0)
    h = torch.randn(64, 16, 7, 7)
    for stage in (FiniteScalars((8, 8, 8, 6, 5)), Codebook(codes=512, channels=16, commitment=0.25)):
        if isinstance(stage, FiniteScalars):
            h = h[:, :5]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = stage(h).index
        assert torch.equal(found, stage(h).index)
        h = torch.randn(64, 16, 7, 7)


def test_a_code_moves_to_the_mean_direction_of_what_it_stands_for() -> None:
    torch.manual_seed(0)
    book = Codebook(codes=4, channels=3, commitment=0.25)
    centres = torch.nn.functional.normalize(torch.randn(4, 3), dim=1)
    for _ in range(1500):
        x = centres[torch.randint(4, (64,))] + 0.05 * torch.randn(64, 3)
        book.follow(statistics(book(as_map(x))))
    cosines = book.codes @ centres.T
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2, 3]
    assert cosines.amax(1).min() > 0.999
    np.testing.assert_allclose(book.uses.sort().values, [0.25] * 4, atol=0.06)


def test_codes_that_nothing_is_near_come_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: where none counts as dead they stay where they were."""
    torch.manual_seed(0)
    x = 0.2 * torch.randn(4000, 8) + torch.eye(8)[0]  # in one direction, far from most codes
    active = {}
    for revived in (True, False):
        torch.manual_seed(1)
        book = Codebook(codes=64, channels=8, commitment=0.25)
        if not revived:
            monkeypatch.setattr("genai.models.bottleneck._DEAD", 0.0)
        for start in range(0, 120_000, 200):
            book.follow(statistics(book(as_map(x[torch.arange(start, start + 200) % 4000]))))
        found = book(as_map(x)).held_out()
        active[revived] = book.conclude({"code_share": found["code_share"]})["codes_active"].item()
    assert active[True] > 0.95
    assert active[False] < 0.5


def test_perplexity_and_codes_in_use_are_those_of_all_samples() -> None:
    fsq = FiniteScalars((4, 4))
    used = torch.tensor([0, 0, 0, 1, 1, 5, 7, 7])
    parts = [fsq(3 * torch.atanh(fsq.vectors(part) * 0.9).T[None, :, :, None] / 3) for part in used.split(4)]
    shares = torch.stack([part.held_out()["code_share"] for part in parts]).mean(0)
    found = fsq.conclude({"code_share": shares})
    probability = np.bincount(used, minlength=16) / 8
    entropy = -sum(p * math.log(p) for p in probability if p)
    assert found["codes_active"].item() == pytest.approx(4 / 16)
    assert found["code_perplexity"].item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_latents_have_mean_0_and_deviation_1_for_each_channel_as_others_see_them() -> None:
    torch.manual_seed(0)
    stage = Gaussians(3)
    centre, spread = torch.tensor([5.0, -1.0, 0.0]).view(3, 1, 1), torch.tensor([0.1, 3.0, 20.0]).view(3, 1, 1)

    def seen() -> Tensor:
        mu = centre + spread * torch.randn(256, 3, 4, 4)
        return torch.cat([mu, torch.full_like(mu, -9.0)], dim=1)

    for _ in range(400):
        posterior = stage(seen())
        stage.follow(statistics(posterior))
    z = stage(seen()).mode
    latent = stage.to_latent(z)
    by_channel = latent.movedim(1, 0).flatten(1)
    torch.testing.assert_close(by_channel.mean(1), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(by_channel.std(1), torch.ones(3), atol=0.05, rtol=0)
    torch.testing.assert_close(stage.from_latent(latent, (3, 4, 4)), z)


def test_a_book_whose_codes_are_nearly_all_unused_fills_up_in_some_hundred_steps() -> None:
    """Dead codes are put beside codes in use, not beside each other."""
    torch.manual_seed(0)
    x = 0.2 * torch.randn(4000, 16) + torch.eye(16)[0]
    book = Codebook(codes=256, channels=16, commitment=0.25)
    for _ in range(400):
        book.follow(statistics(book(as_map(x[torch.randint(4000, (400,))]))))
    assert (book(as_map(x)).held_out()["code_share"] > 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"latents": "fsq", "levels": ()}, "make 1 codes - type a list such as"),
        ({"latents": "fsq", "levels": (1000, 1000, 1000)}, "make 1,000,000,000 codes - type .* at most 1,048,576"),
        ({"latents": "fsq", "prior": "normal"}, "of gaussian latents, these are codes .* - type model.prior=mixture"),
    ],
)
def test_settings_that_make_no_codes_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bottleneck_of(VaeConfig(name="vae", nets={}, downsample=4, **settings))


@pytest.mark.parametrize("latents", ["fsq", "vq"])
def test_codes_need_a_map(latents: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no map - type model\.downsample=auto"):
        bottleneck_of(VaeConfig(name="vae", nets={}, latents=latents))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stage", [FiniteScalars((8, 6, 5)), Codebook(codes=20, channels=4, commitment=0.25), Gaussians(4)], ids=str
)
def test_what_another_model_learns_becomes_the_same_latents_again(stage: Bottleneck) -> None:
    z = stage(torch.randn(3, stage.outputs, 2, 5)).mode
    shape = z.shape[1:]
    latent = stage.to_latent(z)
    assert latent.shape[1:] == stage.latent_spec(shape).shape
    assert (stage.latent_spec(shape).kind == "token") is not latent.is_floating_point()
    torch.testing.assert_close(stage.from_latent(latent, shape), z)
    torch.testing.assert_close(stage.settled(z), z)
    stage.double()
    z = stage(torch.randn(3, stage.outputs, 2, 5).double()).mode
    again = stage.from_latent(stage.to_latent(z), shape)
    torch.testing.assert_close(again, z)
    assert again.dtype == torch.float64
    stage.float()


def test_few_codes_in_use_are_told_where_the_held_out_data_could_use_more() -> None:
    picture = Spec(kind="real", shape=(1, 8, 8), modality="image", num_samples=1000)
    net = ConvConfig(name="conv", width=4, max_width=4)

    def bound(levels: tuple[int, ...]) -> float:
        config = VaeConfig(name="vae", nets={}, latents="fsq", downsample=4, levels=levels, prior="none")
        (alarm,) = Vae(spec=picture, config=config, net=net).alarms()
        return alarm.below

    assert bound((8, 5, 5)) == 0.1
    assert bound((8, 8, 8, 5, 5, 5)) == pytest.approx(0.1 * 400 / 64_000)  # 100 held-out pictures of 4 positions
