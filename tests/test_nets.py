"""The networks: shapes from the data's Spec, no mixing of samples, exact second derivatives."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from genai.contract import Spec
from genai.errors import ConfigError
from genai.nets import ConvConfig, DitConfig, MlpConfig, UNetConfig
from genai.nets import attention as attention_of_ours
from genai.nets.attention import angles, rotated
from genai.nets.family import family
from genai.nets.patches import into_patches, out_of_patches
from genai.nets.unet import Conv3d, places
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


# -- networks that remove noise ----------------------------------------------------------------------------------------


def audio(channels: int, values: int) -> Spec:
    return Spec(kind="real", shape=(channels, values), modality="audio", sample_rate=8000)


def video(channels: int, *size: int) -> Spec:
    return Spec(kind="real", shape=(channels, *size), modality="video")


UNET = UNetConfig(name="unet", width=8, multipliers=(1, 2), attention_positions=256)
DIT = DitConfig(name="dit", width=16, layers=2, heads=2, patch=2)
DENOISERS: list[tuple[NetConfig, Spec]] = [
    (UNET, picture(1, 28, 28)),
    (UNET, picture(3, 13, 18)),
    (replace(UNET, patch=4, multipliers=(1, 2, 2)), picture(2, 30, 17)),
    (replace(UNET, patch=8), audio(1, 250)),
    (replace(UNET, patch=2), video(3, 6, 8, 10)),
    (replace(UNET, blocks=2, dropout=0.1), picture(1, 8, 8)),
    (DIT, picture(3, 12, 8)),
    (replace(DIT, patch=5), audio(2, 40)),
    (DIT, video(3, 4, 8, 8)),
    (MlpConfig(name="mlp", width=16, fourier_features=4), POINTS),
    (MlpConfig(name="mlp", width=16), picture(1, 4, 4)),
]


def denoiser(config: NetConfig, spec: Spec, context: int = 0) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = family(config).denoiser(spec=spec, config=config, context=context).double().eval()
    return made


def awake(net: nn.Module) -> nn.Module:
    """With weights where it starts with zeros."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize(("config", "spec"), DENOISERS)
def test_a_denoiser_keeps_the_shape_starts_at_zero_and_mixes_no_samples(config: NetConfig, spec: Spec) -> None:
    net = denoiser(config, spec)
    x, told = torch.randn(3, *spec.shape).double(), torch.randn(3, net.features).double()  # type: ignore[arg-type]
    assert torch.equal(net(x, told), torch.zeros_like(x))
    awake(net)
    found = net(x, told)
    assert found.shape == x.shape
    torch.testing.assert_close(net(x[1:2], told[1:2]), found[1:2])
    assert not torch.allclose(net(x, told + 1), found)


@pytest.mark.parametrize(("config", "spec"), DENOISERS)
def test_every_value_of_the_output_hangs_on_every_value_of_the_input(config: NetConfig, spec: Spec) -> None:
    """What is rounded up and cut off again leaves nothing out."""
    if len(spec.shape) == 2 and config.name == "unet":
        pytest.skip("of a long sound only what lies near")
    net = awake(denoiser(config, spec))
    x = torch.randn(1, *spec.shape, dtype=torch.float64, requires_grad=True)
    out = net(x, torch.randn(1, net.features).double())  # type: ignore[arg-type]
    for value in (out.flatten()[0], out.flatten()[-1]):
        (slope,) = torch.autograd.grad(value, x, retain_graph=True)
        assert (slope != 0).all()


@pytest.mark.parametrize("config", [UNET, DIT])
def test_a_text_reaches_the_picture_as_far_as_it_goes(config: NetConfig) -> None:
    spec = picture(1, 8, 8)
    net = awake(denoiser(config, spec, context=6))
    x, told = torch.randn(2, 1, 8, 8).double(), torch.randn(2, net.features).double()  # type: ignore[arg-type]
    context, mask = torch.randn(2, 5, 6).double(), torch.tensor([[True] * 3 + [False] * 2] * 2)
    found = net(x, told, context, mask)
    beyond, within = context.clone(), context.clone()
    beyond[:, 3:] += 1
    within[:, 2] += 1
    torch.testing.assert_close(net(x, told, beyond, mask), found)
    assert not torch.allclose(net(x, told, within, mask), found)


@pytest.mark.parametrize("shape", [(2, 3, 12), (2, 3, 8, 12), (2, 3, 4, 8, 12)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_hold_neighbours_and_are_undone(shape: tuple[int, ...], patch: int) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
    patches = into_patches(x, patch)
    assert patches.shape == (2, 3 * patch ** (len(shape) - 2), *(side // patch for side in shape[2:]))
    corner = x[0, 1][tuple(slice(0, patch) for _ in shape[2:])].flatten()
    values = patch ** (len(shape) - 2)
    assert torch.equal(patches[0, values : 2 * values].flatten(1)[:, 0], corner)
    assert torch.equal(out_of_patches(patches, patch), x)


@pytest.mark.parametrize("pairs", [0, 1 << 30])
def test_attention_is_torch_s_own(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_of_ours, "_FEW_PAIRS", pairs)
    q, k, v = (torch.randn(2, 3, length, 8, dtype=torch.float64) for length in (5, 7, 7))
    mask = torch.rand(2, 1, 1, 7) < 0.6
    mask[..., 0] = True
    for given in (None, mask):
        expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=given)
        torch.testing.assert_close(attention_of_ours.attention(q, k, v, given), expected)
    expected = nn.functional.scaled_dot_product_attention(k, k, v, is_causal=True)
    torch.testing.assert_close(attention_of_ours.causal_attention(k, k, v), expected)


def test_dropout_of_attention_leaves_its_mean() -> None:
    q, v = torch.randn(1, 2, 6, 8), torch.randn(20_000, 2, 6, 8)
    v[:] = v[0]
    many = attention_of_ours.causal_attention(q.expand_as(v), q.expand_as(v), v, dropout=0.25)
    assert not torch.equal(many[0], many[1])
    torch.testing.assert_close(many.mean(0), attention_of_ours.causal_attention(q, q, v[:1])[0], rtol=0, atol=0.05)


def test_attention_says_why_it_is_not_the_fastest() -> None:
    q = torch.randn(1, 2, 300, 8)
    assert attention_of_ours.no_flash(q) is None
    assert attention_of_ours.no_flash(q[:, :, :40]) is None
    assert "net.dropout=0" in str(attention_of_ours.no_flash(q, dropout=0.1))


def test_places_are_told_by_their_distance() -> None:
    """RoPE: products of turned queries and keys hang on the difference of their places alone, along every axis."""
    size, dim = (4, 5), 12
    turns = angles(size, dim)
    q, k = torch.randn(2, dim, dtype=torch.float64)
    turned = [rotated(t.expand(20, dim), turns.double().cos(), turns.double().sin()).view(*size, dim) for t in (q, k)]

    def product(a: tuple[int, int], b: tuple[int, int]) -> float:
        return float(turned[0][a] @ turned[1][b])

    assert product((0, 1), (2, 3)) == pytest.approx(product((1, 2), (3, 4)))
    assert product((0, 1), (2, 3)) != pytest.approx(product((0, 1), (2, 4)))
    assert product((0, 1), (2, 3)) != pytest.approx(product((0, 1), (3, 3)))


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 2)])
def test_places_tell_every_position_from_others_far_and_near(size: tuple[int, ...]) -> None:
    told = places(size).flatten(2)[0].T
    assert told.shape == (math.prod(size), 4 * len(size))
    assert float((torch.cdist(told, told) + torch.eye(len(told))).min()) > 0.2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_gradients_of_clips_in_bf16_are_those_in_fp32(depth: int) -> None:
    """Of convolutions over two positions they are not in oneDNN."""
    torch.manual_seed(0)
    conv = Conv3d(64, 64, 3, padding=1)
    x, weights = torch.randn(4, 64, depth, 4, 4), torch.randn(4, 64, depth, 4, 4)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        conv.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            (conv(x) * weights).sum().backward()
        assert conv.weight.grad is not None
        found.append(conv.weight.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=0.03 * float(found[0].abs().max()))


def test_what_does_not_fit_a_denoiser_is_told() -> None:
    for config, spec, told in (
        (DIT, picture(1, 7, 8), r"net\.patch=1"),
        (replace(DIT, width=15), picture(1, 8, 8), r"net\.width=12"),
        (replace(UNET, multipliers=(1, 2, 2, 2)), picture(1, 4, 4), r"net\.multipliers=\[1,2,2\]"),
        (UNET, POINTS, "net=mlp"),
        (DIT, POINTS, "net=mlp"),
        (SMALL, picture(1, 8, 8), "net=unet"),
    ):
        with pytest.raises(ConfigError) as error:
            denoiser(config, spec)
        assert error.value.fix is not None
        assert re.search(told, error.value.fix)
    with pytest.raises(ConfigError, match="no encoder"):
        family(UNET).encoder(spec=picture(1, 8, 8), config=UNET)


def test_a_transformer_makes_a_vector_of_every_value_and_of_where_it_stands() -> None:
    spec, config = picture(2, 8, 12), DitConfig(name="dit", width=16, heads=2, layers=2, patch=4)
    torch.manual_seed(0)
    encoder = family(config).encoder(spec=spec, config=config)
    for p in encoder.parameters():  # its blocks begin by changing nothing
        nn.init.normal_(p, std=0.3)
    x = torch.randn(3, 2, 8, 12, requires_grad=True)
    features = encoder(x)
    assert features.shape == (3, encoder.features)
    features[0].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[0] != 0).all()
    assert (x.grad[1:] == 0).all()  # no sample sees another
    assert not torch.allclose(encoder(x.roll(4, 3)), features, atol=1e-3)  # the same patches elsewhere
    with pytest.raises(ConfigError, match="no maps"):
        family(config).encoder(spec=spec, config=config, outputs=3, factor=4)
