"""Sounds as a network that tells them apart sees them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import stft

from genai.contract import Spec
from genai.nets.logmel import LogMel, filters, window_size

RATE = 8000
SOUND = Spec(kind="real", shape=(1, 4096), modality="audio", sample_rate=RATE)


def mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


def test_powers_are_those_of_scipy_s_spectrum() -> None:
    x = torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(0))
    seen = LogMel(SOUND, bands=40)
    size = window_size(SOUND)
    _, _, spectrum = stft(x[:, 0].numpy(), window="hann", nperseg=size, noverlap=size // 2, boundary="zeros")
    window = np.hanning(size + 1)[:-1]
    powers = np.abs(spectrum * window.sum()) ** 2 / (window**2).sum()  # of noise of deviation 1 they are 1 on average
    expected = np.einsum("bft,fm->bmt", powers, filters(40, size, RATE).numpy())
    found = seen(x)[:, 0]
    assert found.shape[1:] == expected.shape[1:] == seen.spec.shape[1:]
    np.testing.assert_allclose(found, np.log(expected + 1e-4) / -math.log(1e-4) * 2 + 1, atol=1e-4)
    assert powers.mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("bands", [20, 40, 128])
def test_every_band_is_a_mean_of_frequencies_around_its_place(bands: int) -> None:
    found = filters(bands, 256, RATE)
    assert found.shape == (129, bands)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(0), torch.ones(bands))
    centre = (torch.linspace(0, RATE / 2, 129)[:, None] * found).sum(0)
    places = [mel(f) / mel(RATE / 2) * (bands + 1) - 1 for f in centre.tolist()]
    step = [mel(f + RATE / 256) - mel(f) for f in centre.tolist()]  # a frequency of the spectrum, in mel
    for i, place in enumerate(places):
        assert abs(place - i) < 0.6 + step[i] / mel(RATE / 2) * (bands + 1), i


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3000.0])
def test_a_tone_is_loudest_in_its_band_and_ten_times_it_is_as_much_louder_in_all(frequency: float) -> None:
    seen = LogMel(SOUND, bands=40)
    tone = torch.sin(2 * math.pi * frequency * torch.arange(4096) / RATE)[None, None]
    soft, loud = seen(tone)[0, 0, :, 10:-10], seen(10 * tone)[0, 0, :, 10:-10]
    band = mel(frequency) / mel(RATE / 2) * 41 - 1
    assert (soft.argmax(0) - band).abs().max() <= 1
    top = soft.argmax(0)[0]
    assert float((loud - soft)[top].mean()) == pytest.approx(2 * math.log(100) / -math.log(1e-4), rel=1e-3)


def test_silence_is_as_far_below_as_can_be_and_short_sounds_are_seen() -> None:
    seen = LogMel(SOUND, bands=40)
    torch.testing.assert_close(seen(torch.zeros(1, 1, 4096)), torch.full((1, *seen.spec.shape), -1.0))
    short = LogMel(Spec(kind="real", shape=(2, 90), modality="audio", sample_rate=RATE), bands=16)
    assert short(torch.randn(3, 2, 90)).shape == (3, *short.spec.shape) == (3, 2, 16, 1)
