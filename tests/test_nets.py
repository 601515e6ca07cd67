"""The networks: shapes from the data's Spec, no mixing of samples, exact second derivatives."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import ConvConfig, MlpConfig
from genai.nets.family import family
from genai.schema import NetConfig

SMALL = ConvConfig(name="conv", width=4, max_width=8, patch=1)
POINTS = Spec(kind="real", shape=(2,), modality="points")


def picture(channels: int, height: int, width: int) -> Spec:
    return Spec(kind="real", shape=(channels, height, width), modality="image")


def encode(spec: Spec, config: NetConfig, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    encoder = family(config).encoder(spec=spec, config=config)
    features: Tensor = encoder.to(x.dtype)(x)
    assert features.shape == (len(x), encoder.features)
    return features


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 128, 128), (2, 29, 18)]
)
def test_encoder_and_decoder_follow_the_shape_of_the_data(shape: tuple[int, int, int], patch: Literal[1, 2, 4]) -> None:
    spec, config = picture(*shape), replace(SMALL, patch=patch)
    x = family(config).decoder(spec=spec, inputs=5, config=config)(torch.randn(2, 5))
    assert x.shape == (2, *shape)
    assert encode(spec, config, x).shape[0] == 2


def test_every_value_of_a_picture_reaches_the_features() -> None:
    spec, config = picture(2, 29, 18), replace(SMALL, patch=4)
    x = torch.randn(1, 2, 29, 18, requires_grad=True)
    encode(spec, config, x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_pictures_are_bounded_and_latents_are_not() -> None:
    vector = 1e3 * torch.randn(4, 5)
    for spec, bounded in ((picture(1, 8, 8), True), (replace(picture(1, 8, 8), modality="latent"), False)):
        x = family(SMALL).decoder(spec=spec, inputs=5, config=SMALL)(vector)
        assert bool((x.abs() <= 1).all()) is bounded


def test_a_width_that_could_not_count_is_refused() -> None:
    config = ConvConfig(name="conv", width=96, max_width=64)
    with pytest.raises(ConfigError, match=r"net\.width=96 is above net\.max_width=64"):
        family(config).encoder(spec=picture(1, 8, 8), config=config)


def test_a_nearly_white_picture_still_learns_in_bf16() -> None:
    """In bf16 the tanh of 3.5 is 1, and its gradient nothing: a generator that went there never came back."""
    decoder = family(SMALL).decoder(spec=picture(1, 8, 8), inputs=5, config=SMALL)
    torch.nn.init.constant_(decoder.out.bias, 4.0)
    with torch.autocast("cpu", torch.bfloat16):
        decoder(torch.randn(2, 5)).sum().backward()
    assert decoder.out.bias.grad.item() == pytest.approx(2 * 64 * (1 - math.tanh(4.0) ** 2), rel=0.3)


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        (picture(1, 8, 8), SMALL),
        (POINTS, MlpConfig(name="mlp", width=8, layers=2, fourier_features=4)),
        (picture(3, 4, 4), MlpConfig(name="mlp", width=8, layers=2)),
    ],
)
def test_a_sample_does_not_depend_on_its_batch(spec: Spec, config: NetConfig) -> None:
    decoder = family(config).decoder(spec=spec, inputs=5, config=config).double()
    vectors = torch.randn(6, 5, dtype=torch.float64)
    together = decoder(vectors)
    torch.testing.assert_close(together[2:3], decoder(vectors[2:3]))
    torch.testing.assert_close(encode(spec, config, together)[2:3], encode(spec, config, together[2:3]))


@pytest.mark.parametrize("style", [True, False])
def test_labels_and_noise_reach_every_pixel(style: bool) -> None:
    config = replace(SMALL, style=style)
    decoder = family(config).decoder(spec=picture(1, 8, 8), inputs=5, config=config)
    assert (decoder(torch.ones(1, 5)) != decoder(-torch.ones(1, 5))).all()


def test_encoders_have_exact_second_derivatives() -> None:
    """Against finite differences of the first derivative, which autograd does not know."""
    conv = ConvConfig(name="conv", width=2, max_width=2, patch=2)
    mlp = MlpConfig(name="mlp", width=3, layers=1, fourier_features=3, fourier_max=2.0)
    for spec, config in ((picture(1, 9, 16), conv), (POINTS, mlp)):
        torch.manual_seed(0)
        encoder = family(config).encoder(spec=spec, config=config).double()
        x = torch.randn(1, *spec.shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda x, encoder=encoder: encoder(x).square().sum(), x)


def test_fourier_features_separate_points_that_a_plain_net_sees_as_one() -> None:
    near = torch.tensor([[0.0, 0.0], [0.05, 0.05]])

    def distance(config: MlpConfig, points: Tensor) -> float:
        first, second = encode(POINTS, config, points).detach()
        return float((first - second).norm() / first.norm())

    plain = MlpConfig(name="mlp", width=64, layers=2)
    assert distance(replace(plain, fourier_features=32), near) > 0.3
    assert distance(plain, near + 1.0) < 0.1


def test_data_that_a_net_cannot_take_is_a_configuration_error() -> None:
    tokens = Spec(kind="token", shape=(16,), modality="text", vocab=10)
    with pytest.raises(ConfigError, match="net=mlp"):
        family(SMALL).encoder(spec=POINTS, config=SMALL)
    with pytest.raises(ConfigError, match=r"net\.patch=1"):
        family(SMALL).decoder(spec=picture(1, 4, 4), inputs=2, config=replace(SMALL, patch=4))
    with pytest.raises(ConfigError, match="ids out of 10"):
        family(MlpConfig(name="mlp")).encoder(spec=tokens, config=MlpConfig(name="mlp"))
    with pytest.raises(ConfigError, match="unknown net 'cnv'"):
        family(NetConfig(name="cnv"))
